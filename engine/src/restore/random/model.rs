//! Random cases, and the model of what a restore is to do with each.

use super::{Node, Tree};
use crate::filters;
use crate::patterns::{Pattern, Patterns};
use proptest::prelude::*;

const NAMES: &[&str] = &["a", "b", "c.log", "D"];
const PATTERNS: &[&str] = &["a", "/a", "/a/b", "b/a", "*.log", "D", "d", "/b", "a/", "c.LOG"];

fn tree(depth: usize) -> impl Strategy<Value = Tree> {
    let path = proptest::collection::vec(proptest::sample::select(NAMES), 1..=depth);
    let node = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..6).prop_map(Node::File),
        1 => Just(Node::File(vec![9; 3000])),
        2 => Just(Node::Folder),
        1 => proptest::sample::select(NAMES).prop_map(|name| Node::Link(name.to_owned())),
    ];
    proptest::collection::vec((path, node), 0..14).prop_map(|list| {
        let mut tree = Tree::new();
        for (parts, node) in list {
            let above = (1..parts.len()).map(|count| parts[..count].join("/")).collect::<Vec<_>>();
            let is_free = above.iter().all(|path| tree.get(path).is_none_or(|node| *node == Node::Folder));
            let place = parts.join("/");
            if is_free && !tree.contains_key(&place) {
                above.into_iter().for_each(|path| drop(tree.insert(path, Node::Folder)));
                tree.insert(place, node);
            }
        }
        tree
    })
}

/// A path that was named to the backup: a tree, or something other than a folder, which has the empty path.
fn named() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(Node::File),
        proptest::sample::select(NAMES).prop_map(|name| Node::Link(name.to_owned())),
    ];
    prop_oneof![3 => tree(3), 1 => leaf.prop_map(|node| Tree::from([(String::new(), node)]))]
}

/// A pattern, and whether it ignores case.
type Words = (&'static str, bool);

fn patterns() -> impl Strategy<Value = Vec<Words>> {
    let one = (proptest::sample::select(PATTERNS), any::<bool>());
    prop_oneof![2 => Just(vec![]), 3 => proptest::collection::vec(one, 1..3)]
}

/// What the backup leaves out: patterns of absolute paths, and files above a size.
#[derive(Clone, Debug)]
pub(super) struct LeftOut {
    patterns: Vec<Words>,
    larger_than: Option<u64>,
}

const BACKUP_PATTERNS: &[&str] = &[
    "a",
    "b/a",
    "*.log",
    "D",
    "d",
    "a/",
    "given/b",
    "/given/a/b",
    "/given/D/a/b",
    "/given/a",
    "/a",
    "c.LOG",
];

fn left_out() -> impl Strategy<Value = LeftOut> {
    let one = (proptest::sample::select(BACKUP_PATTERNS), any::<bool>());
    let patterns = prop_oneof![1 => Just(vec![]), 2 => proptest::collection::vec(one, 1..3)];
    let larger_than = prop_oneof![2 => Just(None), 1 => Just(Some(1000)), 1 => Just(Some(3))];
    (patterns, larger_than).prop_map(|(patterns, larger_than)| LeftOut { patterns, larger_than })
}

impl LeftOut {
    /// Whether it means something at a place beneath a named path, or a folder above it there.
    fn means(&self, root: &str, place: &str, node: &Node) -> bool {
        let is_large = |limit: u64| matches!(node, Node::File(bytes) if bytes.len() as u64 > limit);
        let fits = |place: &str, is_dir: bool| {
            let path = ["given", root, place].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
            self.patterns.iter().any(|pattern| fits_from(pattern, &path.join("/"), is_dir, true))
        };
        !place.is_empty()
            && (self.larger_than.is_some_and(is_large)
                || fits(place, *node == Node::Folder)
                || above(place).any(|folder| fits(folder, true)))
    }

    pub(super) fn lines(&self) -> String {
        let of = |ignore_case: bool| {
            let chosen = self.patterns.iter().filter(|(_, ignores)| *ignores == ignore_case);
            compiled(&chosen.copied().collect::<Vec<_>>())
        };
        filters::of_backup(&of(false), &of(true), self.larger_than, &[])
    }
}

/// Everything that a case is made of.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) left_out: LeftOut,
    pub(super) trees: Vec<(String, Tree)>,
    pub(super) target: Tree,
    pub(super) beneath: String,
    pub(super) includes: Vec<Words>,
    pub(super) excludes: Vec<Words>,
    pub(super) delete: bool,
    pub(super) delete_excluded: bool,
}

pub(super) fn case() -> impl Strategy<Value = Case> {
    let roots = proptest::sample::select(vec![
        vec![""],
        vec!["a"],
        vec!["a/b"],
        vec!["a", "b/a"],
        vec!["D/a", "D/b"],
    ]);
    let beneath = proptest::sample::select(vec!["", "", "a", "a/b", "D", "b/a", "b/a/a", "D/a"]);
    let flags = (any::<bool>(), proptest::bool::weighted(0.2));
    (roots, named(), named(), tree(4), beneath, patterns(), patterns(), flags, left_out()).prop_map(
        |(roots, first, second, target, beneath, includes, excludes, (delete, excluded), left_out)| {
            let mut trees: Vec<_> = roots.into_iter().map(str::to_owned).zip([first, second]).collect();
            // The top is always a folder.
            trees.iter_mut().filter(|(root, _)| root.is_empty()).for_each(|(_, tree)| drop(tree.remove("")));
            for (root, tree) in &mut trees {
                tree.retain(|place, node| !left_out.means(root, place, node));
            }
            let (beneath, delete_excluded) = (beneath.to_owned(), delete && excluded);
            Case { left_out, trees, target, beneath, includes, excludes, delete, delete_excluded }
        },
    )
}

/// The model of patterns: any name, `*` at the beginning, `/` for the top, parts in a row anywhere.
fn fits_one(words: &Words, place: &str, is_dir: bool) -> bool {
    fits_from(words, place, is_dir, false)
}

/// The same; `whole` if what lies beneath what fits does not.
fn fits_from(&(text, ignore_case): &Words, place: &str, is_dir: bool, whole: bool) -> bool {
    let case = |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let (wanted, place) = (case(text), case(place));
    let parts: Vec<&str> = place.split('/').collect();
    let list: Vec<&str> = wanted.split('/').filter(|part| !part.is_empty()).collect();
    let same = |name: &str, part: &str| match part.strip_prefix('*') {
        Some(end) => name.ends_with(end),
        None => name == part,
    };
    let starts = if wanted.starts_with('/') { 0..1 } else { 0..parts.len() };
    starts.into_iter().any(|start| {
        let end = start + list.len();
        let folder_only = wanted.ends_with('/') && end == parts.len() && !is_dir;
        end <= parts.len()
            && (end == parts.len() || !whole)
            && !folder_only
            && list.iter().zip(&parts[start..]).all(|(part, name)| same(name, part))
    })
}

impl Case {
    /// All entries of the snapshot, by their place beneath the target.
    pub(super) fn all(&self) -> (Tree, Tree) {
        let mut all = Tree::new();
        for (root, tree) in &self.trees {
            let above = root.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>();
            for count in 1..=above.len() {
                all.insert(above[..count].join("/"), Node::Folder);
            }
            let path = |place: &str| match (root.as_str(), place) {
                ("", place) => place.to_owned(),
                (root, "") => root.to_owned(),
                (root, place) => format!("{root}/{place}"),
            };
            all.extend(tree.iter().map(|(place, node)| (path(place), node.clone())));
        }
        let mut placed = Tree::new();
        for (path, node) in &all {
            let rest = match path.strip_prefix(&self.beneath) {
                Some("") if *node == Node::Folder => continue,
                Some("") => path.rsplit('/').next(),
                Some(rest) if self.beneath.is_empty() => Some(rest),
                Some(rest) => rest.strip_prefix('/'),
                None => None,
            };
            if let Some(place) = rest {
                placed.insert(place.to_owned(), node.clone());
            }
        }
        (all, placed)
    }

    pub(super) fn fits(&self, place: &str, is_dir: bool) -> bool {
        let any = |list: &[Words]| list.iter().any(|pattern| fits_one(pattern, place, is_dir));
        (self.includes.is_empty() || any(&self.includes)) && !any(&self.excludes)
    }

    /// The path in the snapshot of a place beneath the target, if it belongs to the restored part.
    fn path_of(&self, place: &str) -> Option<String> {
        let is_file = self.all().0.get(&self.beneath).is_some_and(|node| *node != Node::Folder);
        Some(match (self.beneath.as_str(), self.beneath.rsplit('/').next().unwrap_or_default()) {
            ("", _) => place.to_owned(),
            // Nothing but what has its own name has to do with it.
            (base, name) if is_file => match place.strip_prefix(name) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{base}{rest}"),
                _ => return None,
            },
            (base, _) => format!("{base}/{place}"),
        })
    }

    /// Whether a place is strictly beneath something that was backed up by its own name.
    pub(super) fn is_within(&self, place: &str) -> bool {
        let beneath = |path: &str, root: &str| root.is_empty() || path.starts_with(&format!("{root}/"));
        self.path_of(place).is_some_and(|path| self.trees.iter().any(|(root, _)| beneath(&path, root)))
    }

    /// Whether the backup left out, or would have left out, a place.
    pub(super) fn is_left_out(&self, place: &str, node: &Node) -> bool {
        let Some(path) = self.path_of(place).filter(|_| !self.delete_excluded) else { return false };
        self.trees.iter().any(|(root, _)| match path.strip_prefix(root.as_str()) {
            Some(rest) if root.is_empty() => self.left_out.means(root, rest, node),
            Some(rest) => rest.strip_prefix('/').is_some_and(|rest| self.left_out.means(root, rest, node)),
            None => false,
        })
    }
}

pub(super) fn compiled(list: &[Words]) -> Patterns {
    let parse = |(text, ignore_case): &Words| Pattern::parse(text.as_bytes(), "here", *ignore_case).unwrap();
    Patterns::new(list.iter().map(parse).collect())
}

/// The folders above a path.
pub(super) fn above(place: &str) -> impl Iterator<Item = &str> {
    place.match_indices('/').map(|(at, _)| &place[..at])
}
