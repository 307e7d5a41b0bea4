//! What a store without keys can do to objects.

use crate::{Case, sound, spoilt};
use fuzzing::forge::Forge;

/// What a store can do that has no keys.
pub(crate) fn stores() -> Vec<Case> {
    fn first(
        objects: &mut std::collections::BTreeMap<String, bytes::Bytes>,
        folder: &str,
    ) -> (String, Vec<u8>) {
        let (name, bytes) = objects.iter().find(|(name, _)| name.starts_with(folder)).expect("one");
        (name.clone(), bytes.to_vec())
    }
    macro_rules! on {
        ($folder:literal, $what:literal, $says:literal, $change:expr) => {
            spoilt(concat!($what, " ", $folder), $says, |objects| {
                let (name, mut bytes) = first(objects, $folder);
                let change: fn(&mut Vec<u8>) = $change;
                change(&mut bytes);
                objects.insert(name, bytes.into());
            })
        };
    }
    macro_rules! each {
        ($folder:literal, $says:expr) => {{
            let mut cases = [
                on!($folder, "an empty", "", |bytes| bytes.clear()),
                on!($folder, "a halved", "", |bytes| bytes.truncate(bytes.len() / 2)),
                on!($folder, "a longer", "", |bytes| bytes.push(0)),
                on!($folder, "a zeroed", "", |bytes| bytes.fill(0)),
                on!($folder, "a flipped", "", |bytes| {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                }),
                spoilt(concat!("no ", $folder), "", |objects| {
                    let (name, _) = first(objects, $folder);
                    objects.remove(&name);
                }),
                // Sealed for another repository, under another name.
                spoilt(concat!("another repository's ", $folder), "", |objects| {
                    let mut forge = Forge::new(4321).expect("a forge");
                    let roots = sound(&mut forge).expect("a snapshot");
                    let theirs = forge.commit(&roots).expect("a repository");
                    let (_, bytes) = first(&mut theirs.objects(), $folder);
                    let (name, _) = first(objects, $folder);
                    objects.insert(name, bytes.into());
                }),
            ];
            let says: [&'static str; 7] = $says;
            cases.iter_mut().zip(says).for_each(|(case, says)| case.says = says);
            cases
        }};
    }
    let mut cases = vec![];
    cases.extend(each!(
        "HEAD",
        [
            "too early",
            "authentication",
            "authentication",
            "not an esker",
            "authentication",
            "missing",
            "commitment"
        ]
    ));
    cases.extend(each!(
        "config",
        [
            "not two lines",
            "not two lines",
            "not two lines",
            "not two lines",
            "is damaged",
            "it is missing",
            "another repository"
        ]
    ));
    cases.extend(each!(
        "keys/",
        [
            "not two lines",
            "not two lines",
            "not two lines",
            "not two lines",
            "not hex",
            "no key slot is left",
            "another repository"
        ]
    ));
    cases.extend(each!(
        "packs/",
        [
            "has 0 bytes",
            "bytes instead of",
            "bytes instead of",
            "header is not",
            "authentication",
            "not found",
            "header is not"
        ]
    ));
    cases.extend(each!(
        "index/",
        [
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not found",
            "not the object that HEAD names"
        ]
    ));
    cases.extend(each!(
        "snapshots/",
        [
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not the object that HEAD names",
            "not found",
            "not the object that HEAD names"
        ]
    ));
    cases.push(spoilt(
        "a slot that asks for a terabyte",
        "costs more than all slots together may",
        |objects| {
            let (name, bytes) = first(objects, "keys/");
            let text = String::from_utf8(bytes).expect("text");
            objects.insert(name, text.replace("\"memory_kib\":8", "\"memory_kib\":1073741824").into());
        },
    ));
    cases.push(spoilt("a slot that asks for a year", "costs more than all slots together may", |objects| {
        let (name, bytes) = first(objects, "keys/");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"passes\":1", "\"passes\":4294967295").into());
    }));
    cases.push(spoilt("a configuration of a later format", "format version", |objects| {
        let (name, bytes) = first(objects, "config");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"esker\":1", "\"esker\":2").into());
    }));
    cases.push(spoilt("a configuration with chunks of a terabyte", "outside the format", |objects| {
        let (name, bytes) = first(objects, "config");
        let text = String::from_utf8(bytes).expect("text");
        objects.insert(name, text.replace("\"max_len\":4096", "\"max_len\":4294967295").into());
    }));
    cases
}
