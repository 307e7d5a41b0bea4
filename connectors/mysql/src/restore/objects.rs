//! Routines, triggers, events and views, as the dump defines them. Those that the server refuses are reported and left
//! out.

use super::Work;
use super::report::MysqlReport;
use crate::dump::{Kind, Object};
use crate::server::{Script, quoted};
use engine::{Error, Result};

/// Views of a database: the database, the file of its dump, and they.
pub(super) type Views<'a> = (String, &'a String, Vec<Object>);

impl Work<'_> {
    /// Whether an object is to come back: with single tables their triggers do.
    pub(super) fn is_chosen(&self, object: &Object) -> bool {
        let tables = &self.options.selection.tables;
        tables.is_empty() || object.table.as_ref().is_some_and(|table| tables.contains(table))
    }

    /// Makes objects of the database `name` in `target`, and tells which the server refuses; returns the bytes of their
    /// definitions.
    pub(super) fn objects(&self, name: &str, target: &str, path: &str, objects: &[&Object]) -> Result<u64> {
        let own = objects.iter().map(|object| object.to - object.from);
        self.phase(target, "routines, triggers and events", own.sum());
        let (bytes, refused) = self.make(name == target, target, path, objects)?;
        for (object, why) in refused {
            self.tell(shown(object, target), &why);
        }
        Ok(bytes)
    }

    /// The same, and tells nothing.
    fn make<'o>(
        &self,
        is_own: bool,
        target: &str,
        path: &str,
        objects: &[&'o Object],
    ) -> Result<(u64, Vec<(&'o Object, String)>)> {
        let mut script = Script::default();
        self.locks.work_on(target);
        script.add("settings", format!("{};\nUSE {}", self.locks.at_work(), quoted(target)).as_bytes());
        let (mut all, mut made) = (0, vec![]);
        let mut refused: Vec<(&Object, String)> = vec![];
        let limit = self.limit()?;
        for &object in objects {
            let bytes = match &object.elsewhere {
                Some(other) if !is_own => other.clone().into_bytes(),
                _ => self.bytes(path, (object.from, object.to))?,
            };
            if bytes.is_empty() {
                refused.push((object, "its definition names its database; make it by hand".into()));
                continue;
            }
            if bytes.len() as u64 >= limit {
                let why =
                    format!("its definition is larger than the server's max_allowed_packet of {limit} bytes");
                refused.push((object, why));
                continue;
            }
            all += bytes.len() as u64;
            script.add_lines(&object.name, &bytes);
            made.push(object);
        }
        if made.is_empty() {
            return Ok((0, refused));
        }
        for (number, why) in script.run(self.server, true)?.failures {
            let Some(object) = number.checked_sub(1).and_then(|number| made.get(number)) else {
                return Err(Error::Invalid(format!("{}: {why}", self.server.shown)));
            };
            if refused.last().is_none_or(|(last, _)| !std::ptr::eq(*last, *object)) {
                refused.push((object, why));
            }
        }
        Ok((all, refused))
    }

    /// Makes views of all databases, for as long as more of them can be made: they may need each other.
    pub(super) fn views(
        &self,
        mut left: Vec<(String, &String, Vec<Object>)>,
        report: &mut MysqlReport,
    ) -> Result<()> {
        let count = |left: &[Views<'_>]| left.iter().map(|(.., views)| views.len()).sum();
        loop {
            let before: usize = count(&left);
            let mut reasons = vec![];
            for (target, path, views) in &mut left {
                let all: Vec<&Object> = views.iter().collect();
                let (bytes, refused) = self.make(true, target, path, &all)?;
                reasons.extend(refused.iter().map(|(view, why)| (shown(view, target), why.clone())));
                let refused: Vec<Object> = refused.into_iter().map(|(view, _)| view.clone()).collect();
                let made = report.databases.get_mut(target).filter(|_| refused.len() < views.len());
                if let Some(made) = made {
                    *made += bytes;
                }
                *views = refused;
            }
            if count(&left) == before {
                for (item, why) in reasons {
                    self.tell(item, &why);
                }
                return Ok(());
            }
        }
    }
}

/// For people.
fn shown(object: &Object, target: &str) -> String {
    let kind = match object.kind {
        Kind::Routine => "routine",
        Kind::Trigger => "trigger",
        Kind::Event => "event",
        Kind::View => "view",
    };
    format!("{kind} {target}.{}", object.name)
}
