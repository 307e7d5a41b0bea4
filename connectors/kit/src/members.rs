//! The dumps of a system in a snapshot, and the path of what lies in one: `SYSTEM/[SERVER/][FOLDER/]NAME[/MEMBER]`.

use crate::glob::Glob;
use engine::connector::Origin;
use engine::connector::contents::Output;
use engine::inside::Inside;
use engine::manifest::{Listed, for_entries_beneath};
use engine::names::{path_bytes, path_text};
use engine::{Error, Result};
use std::collections::BTreeMap;
use std::io::Write;

/// Where a system's dumps lie: `KIND/SERVER/FOLDER/NAME`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The kind of the source's record, and the first folder.
    pub kind: &'static str,
    /// The folder that holds the dumps of a server.
    pub folder: &'static str,
    /// The ending of a dump that is one file; an index may lie beside it.
    pub ending: Option<&'static str>,
    /// Whether a folder is a dump.
    pub is_folder: bool,
}

/// A dump in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dump {
    /// The path of its file or folder, without a slash at the beginning.
    pub path: String,
    /// The server's folder.
    pub server: String,
    /// Its name as one component of a path.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
}

impl Dump {
    /// The path of something in it, as [`engine::connector::contents::Contents::read`] takes it.
    #[must_use]
    pub fn member(&self, layout: &Layout, name: &[u8]) -> Vec<u8> {
        [format!("{}/{}/{}/", layout.kind, self.server, self.name).as_bytes(), name].concat()
    }
}

/// A dump, and what a path names in it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The dump.
    pub dump: Dump,
    /// What it names, as it was given; `None` is all of it. Names may have slashes.
    pub member: Option<String>,
}

impl Place {
    /// Whether a name is the one that the path has: its bytes, or their reversible form.
    #[must_use]
    pub fn is_called(&self, name: &[u8]) -> bool {
        self.member.as_ref().is_some_and(|member| member.as_bytes() == name || path_bytes(member) == name)
    }
}

impl Layout {
    /// Whether a snapshot has a source of this system, of whichever of its kinds: a live stream holds dumps, too.
    #[must_use]
    pub fn is_source(&self, from: Origin<'_>) -> bool {
        from.snapshot.snapshot.sources.iter().any(|record| record.is_of(self.kind))
    }

    /// The dump that an entry of this path is of.
    #[must_use]
    pub fn dump_of(&self, path: &str) -> Option<Dump> {
        let mut parts = path.split('/');
        if parts.next() != Some(self.kind) {
            return None;
        }
        let (server, folder, file) = (parts.next()?, parts.next()?, parts.next()?);
        if folder != self.folder {
            return None;
        }
        let is_folder = parts.next().is_some();
        let name = match is_folder {
            true => Some(file).filter(|_| self.is_folder),
            false => {
                let ending = self.ending?;
                file.strip_suffix(".index").unwrap_or(file).strip_suffix(ending)
            }
        }?;
        let file = if is_folder { name.to_owned() } else { format!("{name}{}", self.ending?) };
        let path = format!("{}/{server}/{folder}/{file}", self.kind);
        Some(Dump { path, server: server.to_owned(), name: name.to_owned(), is_folder })
    }

    /// The dump that the entry at a path is of, as a path.
    #[must_use]
    pub fn dump_path(&self, from: Origin<'_>) -> Option<String> {
        let path = String::from_utf8(path_bytes(from.below.trim_matches('/'))).ok()?;
        self.dump_of(&path).filter(|_| self.is_source(from)).map(|dump| path_text(dump.path.as_bytes()))
    }

    /// The place that a path is of; `None` if it is of no dump of the snapshot.
    ///
    /// # Errors
    /// If it may be of several, or the list of entries cannot be read.
    pub fn place(&self, from: Origin<'_>) -> Result<Option<Place>> {
        let below = from.below.trim_start_matches('/');
        let Some(rest) = below.strip_prefix(self.kind).and_then(|rest| rest.strip_prefix('/')) else {
            return Ok(None);
        };
        if !self.is_source(from) {
            return Ok(None);
        }
        self.choose(&self.dumps(from)?, rest)
    }

    /// All dumps of the snapshot, by their paths.
    ///
    /// # Errors
    /// If the list of entries cannot be read.
    pub fn dumps(&self, from: Origin<'_>) -> Result<Vec<Dump>> {
        from.repo.sync_index(&engine::monitor::Tally::default())?;
        let mut dumps: BTreeMap<String, Dump> = BTreeMap::new();
        for_entries_beneath(
            from.repo.store(),
            &from.snapshot.snapshot.manifest,
            self.kind.as_bytes(),
            &mut |listed| {
                if let Some(dump) =
                    std::str::from_utf8(&listed.entry.path).ok().and_then(|path| self.dump_of(path))
                {
                    dumps.entry(dump.path.clone()).or_insert(dump);
                }
                Ok(())
            },
        )?;
        Ok(dumps.into_values().collect())
    }

    /// Of `dumps` the one that a path below the system's folder means: with its server before without.
    fn choose(&self, dumps: &[Dump], rest: &str) -> Result<Option<Place>> {
        type Form<'a> = dyn Fn(&Dump) -> Vec<String> + 'a;
        // As a component, and as people write it.
        let names = |dump: &Dump| -> Vec<String> {
            std::iter::once(dump.name.clone()).chain(engine::names::decoded(&dump.name)).collect()
        };
        let forms: [&Form<'_>; 3] = [
            &|dump: &Dump| vec![dump.path.split_once('/').map_or("", |(_, path)| path).to_owned()],
            &|dump: &Dump| {
                let servers = |name: &String| {
                    [format!("{}/{name}", dump.server), format!("{}/{}/{name}", dump.server, self.folder)]
                };
                names(dump).iter().flat_map(servers).collect()
            },
            &names,
        ];
        for form in forms {
            let mut found: Vec<Place> = vec![];
            for dump in dumps {
                let member = form(dump).iter().find_map(|path| {
                    let texts = [path.clone(), path_text(path.as_bytes())];
                    texts.iter().find_map(|text| match rest.strip_prefix(text.as_str())? {
                        "" => Some(String::new()),
                        rest => rest.strip_prefix('/').map(str::to_owned),
                    })
                });
                if let Some(member) = member {
                    let member = Some(member).filter(|member| !member.is_empty());
                    found.push(Place { dump: dump.clone(), member });
                }
            }
            if found.len() > 1 {
                let all: Vec<&str> = found.iter().map(|place| place.dump.path.as_str()).collect();
                return Err(Error::Invalid(format!("this may be of {}: name one of them", all.join(" or "))));
            }
            if let Some(place) = found.pop() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// What a snapshot has of one server. `sort` gets the path of an entry below the server's folder, in its parts, and says
    /// whether the entry is of use; `title` is how people call the system. Only entries at or below a path count, if that is
    /// not empty.
    ///
    /// # Errors
    /// That there is nothing of use, or something of several servers, or what cannot be read.
    pub fn of_one_server<T: Default>(
        &self,
        from: Origin<'_>,
        below: &str,
        title: &str,
        sort: &mut dyn FnMut(&mut T, &[&str], &Listed) -> bool,
    ) -> Result<T> {
        let below = below.trim_matches('/');
        let mut servers: BTreeMap<String, (T, bool)> = BTreeMap::new();
        for_entries_beneath(
            from.repo.store(),
            &from.snapshot.snapshot.manifest,
            self.kind.as_bytes(),
            &mut |listed| {
                let path = String::from_utf8_lossy(&listed.entry.path);
                let is_below =
                    path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                let parts: Vec<&str> = path.split('/').collect();
                if let [kind, server, rest @ ..] = parts.as_slice()
                    && *kind == self.kind
                    && (below.is_empty() || is_below)
                {
                    let (stored, is_of_use) = servers.entry((*server).to_owned()).or_default();
                    *is_of_use |= sort(stored, rest, &listed);
                }
                Ok(())
            },
        )?;
        let servers = servers.into_iter().filter(|(_, (_, is_of_use))| *is_of_use);
        let servers = servers.map(|(server, (stored, _))| (server, stored)).collect();
        engine::restore::only_server(servers, self.kind, title)
    }

    /// What a restore from a path reads: the path of an entry of the snapshot, or above some, or empty for all; and the name of
    /// the member that the path has, if it has one.
    ///
    /// # Errors
    /// [`Error::NoEntry`] if the snapshot has nothing of that path.
    pub fn restored(&self, from: Origin<'_>) -> Result<(String, Option<String>)> {
        let inside = Inside::new(from.below);
        if inside.is_all() || inside.is_entry(from.repo, &from.snapshot.snapshot)? {
            return Ok((from.below.to_owned(), None));
        }
        let place = self.known_place(from)?;
        let member = place.member.map(|member| String::from_utf8(path_bytes(&member)));
        let member = member.transpose().map_err(|_| Error::NoEntry { path: from.below.to_owned() })?;
        Ok((place.dump.path, member))
    }

    /// The place that a path is of.
    ///
    /// # Errors
    /// [`Error::NoEntry`] if it is of none.
    pub fn known_place(&self, from: Origin<'_>) -> Result<Place> {
        self.place(from)?.ok_or_else(|| Error::NoEntry { path: from.below.to_owned() })
    }
}

/// Names that are wanted.
pub struct Wanted {
    patterns: Vec<Glob>,
}

impl Wanted {
    /// What fits one of the patterns; all, if there are none.
    #[must_use]
    pub fn new(patterns: &[Vec<u8>]) -> Self {
        Self { patterns: patterns.iter().map(|pattern| Glob::new(pattern.clone())).collect() }
    }

    /// Whether a name is.
    #[must_use]
    pub fn fits(&self, name: &[u8]) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.fits(name))
    }
}

/// Opens an output, and writes a member to it; returns its bytes.
///
/// # Errors
/// What cannot be read or written.
pub fn written(out: Output<'_>, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<u64> {
    let mut out = out().map_err(unwritten)?;
    let mut counted = Counted { out: &mut *out, bytes: 0 };
    write(&mut counted)?;
    counted.flush().map_err(unwritten)?;
    Ok(counted.bytes)
}

/// Counts what passes through it.
struct Counted<'w> {
    out: &'w mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// What to say when what was taken from a dump cannot be written.
#[must_use]
pub fn unwritten(source: std::io::Error) -> Error {
    Error::Target { op: "write to", path: "the output".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout =
        Layout { kind: "sys", folder: "databases", ending: Some(".dump"), is_folder: true };

    fn dumps(paths: &[&str]) -> Vec<Dump> {
        paths.iter().filter_map(|path| LAYOUT.dump_of(path)).collect()
    }

    #[test]
    fn an_entry_is_of_one_dump() {
        for (path, dump) in [
            ("sys/h/databases/shop/toc.dat", Some("sys/h/databases/shop")),
            ("sys/h/databases/shop.dump", Some("sys/h/databases/shop.dump")),
            ("sys/h/databases/shop.dump.index", Some("sys/h/databases/shop.dump")),
            ("sys/h/databases/x.dump/toc.dat", Some("sys/h/databases/x.dump")),
            ("sys/h/databases/shop", None),
            ("sys/h/globals.sql", None),
            ("other/h/databases/shop.dump", None),
        ] {
            assert_eq!(LAYOUT.dump_of(path).map(|dump| dump.path).as_deref(), dump, "{path}");
        }
    }

    #[test]
    fn with_and_without_the_folder_and_the_server() {
        let dumps = dumps(&[
            "sys/h/databases/shop/toc.dat",
            "sys/h/databases/a%2Fb.dump",
            "sys/i/databases/shop.dump",
        ]);
        let chosen = |rest: &str| {
            LAYOUT.choose(&dumps, rest).map(|place| place.map(|place| (place.dump.path, place.member)))
        };
        let is = |rest: &str, path: &str, member: Option<&str>| {
            let expected = Some((format!("sys/{path}"), member.map(str::to_owned)));
            assert_eq!(chosen(rest).unwrap(), expected, "{rest}");
        };
        is("h/shop", "h/databases/shop", None);
        is("h/shop/", "h/databases/shop", None);
        is("h/databases/shop/s.t", "h/databases/shop", Some("s.t"));
        is("h/shop/s.t/u", "h/databases/shop", Some("s.t/u"));
        is("i/databases/shop.dump/s.t", "i/databases/shop.dump", Some("s.t"));
        is("h/a%2Fb/t", "h/databases/a%2Fb.dump", Some("t"));
        is("a%2Fb/t", "h/databases/a%2Fb.dump", Some("t"));
        is("h/a/b/t", "h/databases/a%2Fb.dump", Some("t"));
        assert_eq!(chosen("h/other/t").unwrap(), None);
        assert!(chosen("shop/t").is_err(), "two servers have it");
    }
}
