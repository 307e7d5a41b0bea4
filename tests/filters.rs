//! What each filter of a backup is compared with: the table of `docs/filters.md` is made of this data, and every line of
//! it is run.

use crate::harness::{Repo, source_root};
use std::collections::BTreeSet;
use std::fs;

/// Files in the folder `home`, which is named; the current folder is the one above.
const FILES: &[&str] = &[
    "home/a.log",
    "home/d/B.LOG",
    "home/d/a.log",
    "home/d/e/f",
    "home/e",
    "home/large",
    "home/m/.nobackup",
    "home/m/x",
    "home/t/CACHEDIR.TAG",
    "home/t/y",
];

/// A filter, what it is compared with, and what of [`FILES`] it leaves out.
struct Line {
    words: &'static [&'static str],
    compared: &'static str,
    left_out: &'static [&'static str],
}

const LINES: &[Line] = &[
    Line {
        words: &["--exclude", "*.log"],
        compared: "the name of every file and folder",
        left_out: &["home/a.log", "home/d/a.log"],
    },
    Line {
        words: &["--exclude", "e"],
        compared: "the same; a folder goes with all that it holds",
        left_out: &["home/d/e/f", "home/e"],
    },
    Line { words: &["--exclude", "e/"], compared: "the names of folders only", left_out: &["home/d/e/f"] },
    Line {
        words: &["--exclude", "home/e"],
        compared: "the end of the absolute path, whatever folder is named",
        left_out: &["home/e"],
    },
    Line {
        words: &["--exclude", "./e"],
        compared: "as `e`: a pattern is not relative to the current folder",
        left_out: &["home/d/e/f", "home/e"],
    },
    Line {
        words: &["--exclude", "DIR/home/d"],
        compared: "the whole absolute path, if it begins with `/` (`DIR`: the current folder)",
        left_out: &["home/d/B.LOG", "home/d/a.log", "home/d/e/f"],
    },
    Line {
        words: &["--exclude", "/home/d"],
        compared: "the same: nothing here lies beneath `/home`",
        left_out: &[],
    },
    Line { words: &["--exclude", "home"], compared: "nothing: what is named itself is saved", left_out: &[] },
    Line {
        words: &["--exclude", "*.log", "--exclude", "!d/a.log"],
        compared: "the last pattern that fits decides",
        left_out: &["home/a.log"],
    },
    Line {
        words: &["--exclude", "d", "--exclude", "!d/a.log"],
        compared: "a folder that is left out is not looked into",
        left_out: &["home/d/B.LOG", "home/d/a.log", "home/d/e/f"],
    },
    Line {
        words: &["--iexclude", "*.LOG"],
        compared: "as `--exclude`, whatever the case",
        left_out: &["home/a.log", "home/d/B.LOG", "home/d/a.log"],
    },
    Line {
        words: &["--exclude-file", "lists/patterns"],
        compared: "as `--exclude`, each line; not relative to the file",
        left_out: &["home/a.log", "home/d/a.log"],
    },
    Line {
        words: &["--exclude-if-present", ".nobackup"],
        compared: "the names in each folder; the folder itself stays, empty",
        left_out: &["home/m/.nobackup", "home/m/x"],
    },
    Line {
        words: &["--exclude-if-present", ".nobackup:no"],
        compared: "the same, and how that file begins",
        left_out: &[],
    },
    Line {
        words: &["--exclude-caches"],
        compared: "the same, for a `CACHEDIR.TAG` with its signature",
        left_out: &["home/t/CACHEDIR.TAG", "home/t/y"],
    },
    Line {
        words: &["--exclude-larger-than", "1K"],
        compared: "the size of each file, in bytes",
        left_out: &["home/large"],
    },
];

fn shown(line: &Line) -> String {
    let quoted =
        |word: &&str| if word.contains(['*', '!']) { format!("'{word}'") } else { (*word).to_owned() };
    let words: Vec<String> = line.words.iter().map(quoted).collect();
    let left_out = match line.left_out {
        [] => "—".to_owned(),
        paths => paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(", "),
    };
    format!("| `{}` | {} | {left_out} |\n", words.join(" "), line.compared)
}

#[test]
fn each_filter_leaves_out_what_the_document_says() {
    let repo = Repo::new();
    for path in FILES {
        let path = repo.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    }
    fs::write(repo.path("home/large"), vec![1; 2000]).unwrap();
    fs::create_dir(repo.path("lists")).unwrap();
    fs::write(repo.path("lists/patterns"), "# what grows\n*.log\n").unwrap();
    let here = repo.dir.path().display().to_string();
    for line in LINES {
        let mut words = vec!["backup".to_owned(), "home".to_owned()];
        words.extend(line.words.iter().map(|word| word.replace("DIR", &here)));
        repo.ok(&words);
        let list = repo.ok(["ls", "latest"]);
        let saved: BTreeSet<&str> = list.lines().map(|path| path.trim_start_matches('/')).collect();
        let missing: Vec<&str> = FILES.iter().copied().filter(|path| !saved.contains(path)).collect();
        assert_eq!(missing, line.left_out, "{words:?}");
        // What a dry run lists is what happens.
        let dry = repo.ok([&words[..], &["-n".into(), "-v".into(), "--force".into()]].concat());
        let dry: BTreeSet<&str> = dry.lines().filter_map(|line| Some(line.split_once(" /")?.1)).collect();
        assert_eq!(dry, saved, "{words:?}");
        // What was left out stays in a restore that removes what the snapshot does not have; what came later goes.
        fs::write(repo.path("home/later"), "").unwrap();
        let summary = repo.json(["restore", "latest:home", "--target", "home", "--delete"]);
        assert_eq!(summary["files_deleted"], 1, "{words:?}: {summary}");
        let there: Vec<&str> = FILES.iter().copied().filter(|path| repo.path(path).exists()).collect();
        assert_eq!(there, FILES, "{words:?}");
    }
    let table: String = LINES.iter().map(shown).collect();
    let text = fs::read_to_string(source_root().join("docs/filters.md")).unwrap();
    assert!(text.contains(&table), "docs/filters.md: put this there\n{table}");
}

/// A folder that is marked since the backup, as it would be left out by the next one, stays, whether the snapshot has the
/// folder or not; without the filter, and with --delete-excluded, it goes.
#[test]
fn what_a_mark_would_leave_out_is_not_removed() {
    const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55 and more";
    let repo = Repo::new();
    let write = |path: &str, text: &str| {
        fs::create_dir_all(repo.path(path).parent().unwrap()).unwrap();
        fs::write(repo.path(path), text).unwrap();
    };
    let filters: [(&[&str], &str, &str); 4] = [
        (&["--exclude-if-present", ".nobackup"], ".nobackup", ""),
        (&["--exclude-if-present", ".no backup:yes"], ".no backup", "yes, please"),
        (&["--exclude-caches"], "CACHEDIR.TAG", TAG),
        (&["--exclude", "never", "--exclude-caches", "--exclude-if-present", "x"], "CACHEDIR.TAG", TAG),
    ];
    for (filter, mark, text) in filters {
        write("home/known/sub/file", "1");
        write("home/file", "2");
        repo.ok([&["backup", "home"], filter].concat());
        let marked = ["home/new/deep/z", "home/new/y", "home/known/later", "home/known/sub/later"];
        marked.iter().for_each(|path| write(path, "3"));
        write(&format!("home/new/{mark}"), text);
        write(&format!("home/known/{mark}"), text);
        // What was named itself is saved whatever is in it, and a file that only looks like a mark is none.
        write(&format!("home/{mark}"), text);
        write("home/goes/y", "4");
        if !text.is_empty() {
            write(&format!("home/goes/{mark}"), "no");
        }
        let restore = |more: &[&str]| {
            repo.json([&["restore", "latest:home", "--target", "home", "--delete"], more].concat())
        };
        let goes = if text.is_empty() { 3 } else { 4 };
        let rehearsal = restore(&["-n"]);
        assert_eq!(rehearsal["files_deleted"], goes, "{filter:?}: {rehearsal}");
        // The new folder as one; the mark, what came later, in the one that was there, and in the folder in that.
        assert_eq!(rehearsal["files_kept"], 4, "{filter:?}: {rehearsal}");
        assert_eq!(restore(&[])["files_deleted"], goes, "{filter:?}");
        assert!(marked.iter().all(|path| repo.path(path).exists()), "{filter:?}");
        assert!(!repo.path("home/goes").exists() && !repo.path("home").join(mark).exists());
        // What it would not leave out goes.
        let all = restore(&["--delete-excluded"]);
        assert_eq!(all["files_deleted"], 8, "{filter:?}: {all}");
        assert!(!repo.path("home/new").exists() && repo.path("home/known/sub/file").exists());
    }
    repo.ok(["backup", "home"]);
    write("home/new/CACHEDIR.TAG", TAG);
    assert_eq!(repo.json(["restore", "latest:home", "--target", "home", "--delete"])["files_deleted"], 2);
}
