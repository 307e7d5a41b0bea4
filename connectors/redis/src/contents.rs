//! The keys of a dump in a snapshot, for `ls`, `find`, `dump` and `diff`.

use crate::keys::compare::{KeyChange, compare};
use crate::keys::{
    Dump, Place, Record, Records as _, Selection, Want, component, find, has_keys, is_dump, one,
};
use crate::rdb::type_name;
use crate::rdb::value::{self, Value};
use connector_kit::members::{unwritten, written};
use engine::connector::contents::{Change, Contents, Member, Output};
use engine::connector::{Origin, fields};
use engine::names::path_bytes;
use engine::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Keys of dumps.
pub(crate) struct Keys;

fn place(from: Origin<'_>) -> Option<Place> {
    Place::parse(from.below.trim_start_matches('/')).filter(|_| has_keys(&from.snapshot.snapshot))
}

fn is_whole_dump(from: Origin<'_>) -> bool {
    is_dump(&from.snapshot.snapshot, from.below.trim_start_matches('/'))
}

/// The place that a path is of, and its dump; that of a dump itself is of all of its keys.
fn dump(from: Origin<'_>) -> Result<(Place, Dump)> {
    if is_whole_dump(from) {
        let path = path_bytes(from.below.trim_matches('/'));
        return Ok((Place::default(), one(find(from.repo, &from.snapshot.snapshot, &path)?)?));
    }
    let place = place(from).ok_or_else(|| Error::NoEntry { path: from.below.to_owned() })?;
    let dump = place.dump(from.repo, &from.snapshot.snapshot)?;
    Ok((place, dump))
}

impl Contents for Keys {
    fn noun(&self) -> &'static str {
        "key"
    }

    fn holds(&self, from: Origin<'_>) -> bool {
        place(from).is_some()
    }

    fn is_dump(&self, from: Origin<'_>) -> bool {
        is_whole_dump(from)
    }

    fn list(
        &self,
        from: Origin<'_>,
        patterns: &[Vec<u8>],
        each: &mut dyn FnMut(Member) -> Result<()>,
    ) -> Result<()> {
        let (place, dump) = dump(from)?;
        let selection = place.selection(patterns);
        let mut records = dump.records(from.repo, &selection, Want::Names);
        while let Some(Record { key, len, .. }) = records.next_record()? {
            let expires =
                key.expires_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms.try_into().ok()?).ok());
            let path = format!("{}{}/", dump.folder(), key.database);
            each(Member {
                path: [path.as_bytes(), component(&key.name)].concat(),
                name: key.name,
                kind: type_name(key.kind).to_owned(),
                size: Some(len),
                time: expires,
                about: String::new(),
                fields: fields(json!({"database": key.database})),
            })?;
        }
        Ok(())
    }

    /// A string as it is, everything else as JSON; bytes that are not UTF-8 are escaped.
    fn read(&self, from: Origin<'_>, out: Output<'_>) -> Result<u64> {
        let (place, dump) = dump(from)?;
        let Some(name) = &place.key else {
            return Err(Error::Invalid(
                "which key? SNAPSHOT:redis/DATABASE/KEY; 'esker ls' lists them".into(),
            ));
        };
        let names = place.name(from.repo, &dump)?.into_iter().collect();
        let selection = Selection { database: place.database, names, ..Selection::default() };
        let found = match selection.names.is_empty() {
            true => None,
            false => dump.records(from.repo, &selection, Want::Values).next_record()?,
        };
        let Some(record) = found else {
            let database = place.database.unwrap_or_default();
            let path = format!("redis/{database}/{}", String::from_utf8_lossy(name));
            return Err(Error::NoEntry { path });
        };
        let value = value::decode(record.key.kind, &record.value).map_err(|error| Error::Malformed {
            what: engine::shown::name(name).to_string(),
            why: format!("the value does not follow the format: {error}"),
        })?;
        let bytes = match value {
            Value::String(bytes) => bytes,
            value => format!("{}\n", shown(&value)?).into_bytes(),
        };
        written(out, |out| out.write_all(&bytes).map_err(unwritten))
    }

    fn compare(
        &self,
        old: Origin<'_>,
        new: Origin<'_>,
        scratch: &Path,
        each: &mut dyn FnMut(Change, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let side = |from: Origin<'_>| {
            one(find(from.repo, &from.snapshot.snapshot, &path_bytes(from.below.trim_start_matches('/')))?)
        };
        let (a, b) = (side(old)?, side(new)?);
        let all = Selection::default();
        let (mut before, mut after) =
            (a.in_order(old.repo, &all, scratch)?, b.in_order(new.repo, &all, scratch)?);
        let mut done = Ok(());
        compare(&mut *before, &mut *after, 0, &mut |change, key| {
            let change = match change {
                KeyChange::Added => Change::Added,
                KeyChange::Removed => Change::Removed,
                KeyChange::Changed => Change::Changed,
            };
            let folder = format!("{}{}/", a.folder(), key.database);
            if done.is_ok() {
                done = each(change, &[folder.as_bytes(), component(&key.name)].concat());
            }
        })?;
        done
    }
}

/// A value as JSON.
fn shown(value: &Value) -> Result<serde_json::Value> {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    let texts = |list: &[Vec<u8>]| list.iter().map(|item| text(item)).collect::<Vec<_>>();
    Ok(match value {
        Value::String(bytes) => json!(text(bytes)),
        Value::List(items) | Value::Set(items) => json!(texts(items)),
        Value::Hash(fields) => {
            let fields = fields.iter().map(|field| (text(&field.name), text(&field.value)));
            json!(fields.collect::<BTreeMap<_, _>>())
        }
        Value::Zset(members) => {
            json!(members.iter().map(|(name, score)| json!([text(name), score])).collect::<Vec<_>>())
        }
        Value::Stream(entries) => {
            let entry = |entry: &value::StreamEntry| {
                let fields: Vec<_> =
                    entry.fields.iter().map(|(name, value)| json!([text(name), text(value)])).collect();
                json!({"id": format!("{}-{}", entry.id.0, entry.id.1), "fields": fields})
            };
            json!(entries.iter().map(entry).collect::<Vec<_>>())
        }
        Value::Module(_) => {
            return Err(Error::Invalid(
                "a module's own value, which only the module can read; 'esker restore --to' writes it back"
                    .into(),
            ));
        }
    })
}
