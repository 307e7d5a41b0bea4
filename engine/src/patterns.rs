//! Patterns of paths, as in .gitignore: parsed strictly, normalized, compared component by component.
//!
//! A pattern that cannot match anything is an error that names it and its place, so that no pattern is silently
//! ignored. [`Patterns::unused`] returns the patterns of a list that never matched. `docs/filters.md` has the rules for
//! users; its tables are generated from this module.

mod expand;
mod glob;
mod lines;

pub use expand::expand_paths;
use glob::Glob;
pub use lines::read_lines;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A pattern that makes no sense, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: pattern '{pattern}': {why}")]
pub struct PatternError {
    /// The flag, or the file and the line.
    pub place: String,
    /// The pattern as it was written.
    pub pattern: String,
    /// The error, and what to write instead.
    pub why: String,
}

/// One pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// Every byte of it, as it was given.
    written: Vec<u8>,
    ignore_case: bool,
    place: String,
    /// `!`: what fits is not meant after all.
    negated: bool,
    /// `/` at the end: fits folders only.
    only_folders: bool,
    parts: Vec<Part>,
}

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`: any number of components, none among them.
    Depth,
    /// One component.
    Name(Glob),
}

impl Pattern {
    /// Parses one pattern, in which every byte counts, blanks at its ends and `#` at its beginning included. `place`
    /// says where it is written, for messages: a flag, or a file and a line.
    pub fn parse(text: &[u8], place: &str, ignore_case: bool) -> Result<Self, PatternError> {
        let shown = shown(text);
        let wrong = |why: &str| PatternError { place: place.into(), pattern: shown.clone(), why: why.into() };
        let (negated, body) = match text.strip_prefix(b"!") {
            Some(body) => (true, body),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(wrong("it is empty"));
        }
        if body == b"~" || body.starts_with(b"~/") {
            return Err(wrong(
                "'~' stands for nothing here: write the whole path; or '\\~' for a file of that name",
            ));
        }
        let anchored = body.starts_with(b"/");
        let only_folders = body.ends_with(b"/");
        let mut parts = vec![];
        if !anchored {
            parts.push(Part::Depth);
        }
        for component in body.split(|byte| *byte == b'/') {
            match component {
                // As a path is brought into its normal form: "./a//b" is "a/b".
                b"" | b"." => {}
                b".." => return Err(wrong("no path that is walked has '..' in it: write the path without")),
                b"**" if parts.last() == Some(&Part::Depth) => {}
                b"**" => parts.push(Part::Depth),
                name => parts.push(Part::Name(Glob::parse(name, ignore_case).map_err(|why| wrong(&why))?)),
            }
        }
        if parts.is_empty() || (parts == [Part::Depth] && !body.ends_with(b"**") && !body.ends_with(b"**/")) {
            return Err(wrong("it names nothing"));
        }
        if parts.last() == Some(&Part::Depth) {
            // What is inside, not the folder itself.
            parts.push(Part::Name(Glob::any()));
        }
        let (written, place) = (text.to_vec(), place.into());
        Ok(Self { text: shown, written, ignore_case, place, negated, only_folders, parts })
    }

    /// The pattern as it was written, for people: bytes that are not UTF-8 are escaped.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The pattern as it was given, byte for byte.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        &self.written
    }

    /// Whether the case of letters makes no difference.
    #[must_use]
    pub fn ignores_case(&self) -> bool {
        self.ignore_case
    }

    /// Whether it reverses the matches of earlier patterns.
    #[must_use]
    pub fn is_negated(&self) -> bool {
        self.negated
    }

    /// Its plain names up to the first part that can be several.
    fn beginning(&self) -> Vec<u8> {
        let names = self.parts.iter().map_while(|part| match part {
            Part::Name(Glob::Literal(name)) => Some(name.as_slice()),
            Part::Name(_) | Part::Depth => None,
        });
        names.collect::<Vec<_>>().join(&b'/')
    }

    /// Whether every path fits.
    #[must_use]
    pub fn fits_everything(&self) -> bool {
        !self.only_folders
            && self.parts.first() == Some(&Part::Depth)
            && self.parts.iter().all(|part| match part {
                Part::Depth => true,
                Part::Name(glob) => glob.is_any(),
            })
    }

    /// Whether its components fit those of a path, whatever that is.
    fn fits(&self, names: &[&[u8]]) -> bool {
        match (self.parts.as_slice(), names.last()) {
            ([Part::Depth, Part::Name(glob)], Some(name)) => glob.fits(name),
            (parts, _) => sequence_fits(parts, names),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern '{}' ({})", self.text, self.place)
    }
}

/// Compares components as a glob compares bytes: on a mismatch, the last `**` takes one component more.
fn sequence_fits(parts: &[Part], names: &[&[u8]]) -> bool {
    let (mut part, mut name) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (parts.get(part), names.get(name)) {
            (Some(Part::Depth), _) => {
                back = Some((part + 1, name));
                part += 1;
            }
            (Some(Part::Name(glob)), Some(bytes)) if glob.fits(bytes) => {
                part += 1;
                name += 1;
            }
            (None, None) => return true,
            _ => match back {
                Some((after, taken)) if taken < names.len() => {
                    back = Some((after, taken + 1));
                    (part, name) = (after, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

/// The result of a list of patterns for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The last pattern that fits means it.
    Fits,
    /// No pattern fits, or the last that does begins with `!`.
    FitsNot,
    /// That depends on whether the path is a folder.
    DependsOnKind,
}

/// A list of patterns; the last that fits a path decides.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    list: Arc<[Pattern]>,
    /// Which of them fitted anything.
    used: Arc<[AtomicBool]>,
}

impl Patterns {
    /// A list in this order.
    #[must_use]
    pub fn new(list: Vec<Pattern>) -> Self {
        let used = list.iter().map(|_| AtomicBool::new(false)).collect();
        Self { list: list.into(), used }
    }

    /// Parses a list of patterns from one place.
    pub fn parse<S: AsRef<[u8]>>(list: &[S], place: &str, ignore_case: bool) -> Result<Self, PatternError> {
        let parsed = list.iter().map(|text| Pattern::parse(text.as_ref(), place, ignore_case));
        Ok(Self::new(parsed.collect::<Result<_, _>>()?))
    }

    /// Refuses a pattern that fits every path and that no later one takes anything back from: as an exclude it would
    /// leave nothing.
    pub fn refuse_everything(&self) -> Result<(), PatternError> {
        let taken_back = self.list.iter().rposition(|pattern| pattern.negated);
        let all = self.list.iter().enumerate().find(|(number, pattern)| {
            pattern.fits_everything() && !pattern.negated && taken_back.is_none_or(|last| last < *number)
        });
        match all {
            Some((_, pattern)) => Err(PatternError {
                place: pattern.place.clone(),
                pattern: pattern.text.clone(),
                why: "it fits every path, so that nothing would be left".into(),
            }),
            None => Ok(()),
        }
    }

    /// Folders in or beneath which all matches are; the empty path for a pattern that can match anywhere.
    #[must_use]
    pub fn beginnings(&self) -> Vec<Vec<u8>> {
        self.list.iter().filter(|pattern| !pattern.negated).map(Pattern::beginning).collect()
    }

    /// The patterns, in their order.
    #[must_use]
    pub fn list(&self) -> &[Pattern] {
        &self.list
    }

    /// The patterns as they were written.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.list.iter().map(|pattern| pattern.text.clone()).collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The result of the list for a path without a slash at its beginning; `is_folder` if that is known.
    #[must_use]
    pub fn verdict(&self, path: &[u8], is_folder: Option<bool>) -> Verdict {
        if self.list.is_empty() {
            return Verdict::FitsNot;
        }
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut verdict = None;
        for (pattern, used) in self.list.iter().zip(&*self.used).rev() {
            let known = used.load(Ordering::Relaxed);
            if (known && verdict.is_some())
                || (pattern.only_folders && is_folder == Some(false))
                || !pattern.fits(&names)
            {
                continue;
            }
            if pattern.only_folders && is_folder.is_none() {
                return Verdict::DependsOnKind;
            }
            if !known {
                used.store(true, Ordering::Relaxed);
            }
            verdict.get_or_insert(if pattern.negated { Verdict::FitsNot } else { Verdict::Fits });
        }
        verdict.unwrap_or(Verdict::FitsNot)
    }

    /// Whether the list means a path.
    #[must_use]
    pub fn fits(&self, path: &[u8], is_folder: bool) -> bool {
        self.verdict(path, Some(is_folder)) == Verdict::Fits
    }

    /// Whether the list means a path or a folder above it.
    #[must_use]
    pub fn fits_within(&self, path: &[u8], is_folder: bool) -> bool {
        let folders = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        self.fits(path, is_folder) || folders.into_iter().any(|(end, _)| self.fits(&path[..end], true))
    }

    /// The patterns that have not matched so far.
    #[must_use]
    pub fn unused(&self) -> Vec<&Pattern> {
        let pairs = self.list.iter().zip(&*self.used);
        pairs.filter(|(_, used)| !used.load(Ordering::Relaxed)).map(|(pattern, _)| pattern).collect()
    }
}

/// Text for people: control characters and bytes that are not UTF-8 are escaped.
fn shown(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
        }
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown
}

#[cfg(test)]
mod tests;
