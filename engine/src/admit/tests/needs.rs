//! What a snapshot may be made of: what its host brings or has, as long as it says, and with an end.

use super::*;
use crate::growing::{FollowOptions, Growing, Layout};
use crate::verify::{ReadData, check};

impl Thief {
    /// The answer to the last run.
    fn reply(&self) -> Reply {
        let host = &self.bundle.keys.host;
        let reply = self.disk.get(&names::reply(host, self.run), Reply::MAX_LEN).unwrap();
        Reply::open(&self.bundle.keys.channel(), host, self.run, &reply).unwrap()
    }
}

/// Stores a file in a full client's name, as other hosts do.
fn stored_by_another(repo: &Repository, content: &[u8]) {
    let mut source = One(Some(AtHand::item("theirs", Time::default(), content.to_vec())));
    let options = BackupOptions { time: jiff::Timestamp::UNIX_EPOCH, ..BackupOptions::default() };
    backup(repo, &mut source, &options, &Tally::default()).unwrap();
}

#[test]
fn a_guess_is_answered_the_same_whether_it_is_right_or_wrong() {
    let mut thief = Thief::new();
    stored_by_another(&thief.repo, b"password = 1234");
    let own = (thief.id(b"own"), &b"own"[..]);
    let right = (thief.id(b"password = 1234"), &b"password = 1234"[..]);
    let wrong = (thief.id(b"password = 4321"), &b"password = 4321"[..]);
    thief.repo.sync_index(&Tally::default()).unwrap();
    assert!(thief.repo.store().index().lookup(&[right.0]).unwrap()[0].is_some(), "it is there");
    // With another length, too: it is not compared.
    for right in [right, (right.0, &b"x"[..])] {
        thief.bring(&[own, right, wrong], &[own], |_, _| ());
        let done = thief.admit();
        assert!(matches!(*done, [Outcome::Refused { missing: 2, .. }]), "{done:?}");
        let mut guesses = vec![right.0, wrong.0];
        guesses.sort_unstable();
        assert_eq!(thief.reply().missing, guesses);
    }
    // Nor is the list of entries of another's snapshot his to build on.
    let all = thief.repo.snapshots(&Tally::default()).unwrap();
    let theirs = all[0].snapshot.manifest.clone();
    thief.bring(&[own], &[own], |snapshot, _| snapshot.manifest = theirs.clone());
    assert!(matches!(*thief.admit(), [Outcome::Refused { missing: 1, .. }]));
    assert_eq!(thief.reply().missing, [theirs.chunks[0].0]);
    assert_eq!(thief.repo.snapshots(&Tally::default()).unwrap().len(), 1);
}

#[test]
fn what_a_host_has_it_need_not_bring_again() {
    let mut thief = Thief::new();
    let [first, second] = [&b"first"[..], b"second"].map(|plain| (thief.id(plain), plain));
    for (night, content, stored, is_in) in [
        ("all is new", vec![first], vec![first], true),
        ("of the last night", vec![first, second], vec![second], true),
        ("in the middle of what is there", vec![second], vec![], true),
        ("of a night before the last", vec![first], vec![], true),
    ] {
        thief.bring(&content, &stored, |_, _| ());
        let done = thief.admit();
        assert_eq!(matches!(*done, [Outcome::Admitted { .. }]), is_in, "{night}: {done:?}");
    }
    // After one that was refused, too.
    thief.bring(&[(thief.id(b"nowhere"), &b"nowhere"[..])], &[], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Refused { missing: 1, .. }]));
    thief.bring(&[first, second], &[], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    assert_eq!(check(&thief.repo, ReadData::All, &Tally::default()).unwrap().num_errors, 0);
    // Once its snapshots are forgotten, it has nothing.
    let all: Vec<ObjectId> =
        thief.repo.snapshots(&Tally::default()).unwrap().iter().map(|listed| listed.id).collect();
    thief.repo.forget(&all).unwrap();
    thief.bring(&[first], &[], |_, _| ());
    assert!(matches!(*thief.admit(), [Outcome::Refused { missing: 1, .. }]));
}

#[test]
fn what_a_snapshot_says_of_lengths_and_counts_is_compared() {
    let (x, as_two) = (&b"x"[..], &b"xx"[..]);
    for (because, said, change) in [
        ("does not have 2 bytes", as_two, (|_| ()) as fn(&mut Snapshot)),
        ("does not hold what the snapshot says", x, |snapshot| snapshot.manifest.entries = 2),
        ("does not hold what the snapshot says", x, |snapshot| snapshot.manifest.bytes = 1 << 60),
        ("does not have 7 bytes", x, |snapshot| snapshot.manifest.chunks[0].1 = 7),
    ] {
        let mut thief = Thief::new();
        let id = thief.id(x);
        let signed = thief.bring(&[(id, said)], &[(id, x)], |snapshot, _| change(snapshot));
        thief.is_refused(&signed, because);
    }
    let mut thief = Thief::new();
    let chunk = (thief.id(x), x);
    thief.bring(&[chunk], &[chunk], |snapshot, _| {
        snapshot.summary.total_files_processed = u64::MAX;
        snapshot.summary.total_bytes_processed = u64::MAX;
        snapshot.summary.data_added = u64::MAX;
        snapshot.summary.dirs_new = u64::MAX;
    });
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let summary = thief.repo.snapshots(&Tally::default()).unwrap().remove(0).snapshot.summary;
    assert_eq!((summary.total_files_processed, summary.total_bytes_processed, summary.dirs_new), (1, 1, 0));
    assert!(summary.data_added < 1000, "{}", summary.data_added);
    assert_eq!(check(&thief.repo, ReadData::All, &Tally::default()).unwrap().num_errors, 0);
}

/// A few kilobytes that describe more records than anybody can read.
#[test]
fn a_list_of_entries_without_an_end_is_refused() {
    let mut thief = Thief::new();
    let mut plains = vec![vec![7; 100]];
    for _ in 0..4 {
        let below = plains.last().unwrap();
        let below = ChunkRef { id: thief.id(below), len: u32::try_from(below.len()).unwrap() };
        let mut list = Encoder::default();
        crate::manifest::encode_refs(&mut list, &[below; 100]);
        plains.push(list.bytes);
    }
    let chunks: Vec<Chunk<'_>> = plains.iter().map(|plain| (thief.id(plain), &**plain)).collect();
    let top = chunks[4];
    let signed = thief.bring(&[], &chunks, |snapshot, _| {
        snapshot.manifest.level = 4;
        snapshot.manifest.chunks = vec![(top.0, u32::try_from(top.1.len()).unwrap())];
    });
    thief.is_refused(&signed, "the same stretches come again and again");
}

#[test]
fn empty_records_and_lists_of_empty_chunks_are_refused() {
    let entry = Record::Entry(Box::new(Entry::stream("another", Time::default())));
    let nothing = ChunkRef { id: ChunkId([1; 32]), len: 0 };
    let (mut leaf, mut zero, mut list) = (Encoder::default(), Encoder::default(), Encoder::default());
    for (content, out) in [(vec![], &mut leaf), (vec![nothing], &mut zero)] {
        for record in [entry.clone(), Record::Chunks(content), Record::End(Ending::Complete, 0)] {
            record.encode(out);
        }
    }
    crate::manifest::encode_refs(&mut list, &[nothing]);
    for (level, plain) in [(0, leaf.bytes), (0, zero.bytes), (1, list.bytes)] {
        let mut thief = Thief::new();
        let chunk = (thief.id(&plain), &*plain);
        let signed = thief.bring(&[], &[chunk], |snapshot, _| {
            snapshot.manifest.level = level;
            snapshot.manifest.chunks = vec![(chunk.0, u32::try_from(plain.len()).unwrap())];
        });
        thief.is_refused(&signed, "is empty");
    }
}

#[test]
fn a_number_far_from_the_last_one_settles_nothing() {
    for (run, is_in) in [(1 << 20, true), ((1 << 20) + 1, false), (u64::MAX, false)] {
        let mut thief = Thief::new();
        thief.run = run - 1;
        let chunk = (thief.id(b"x"), &b"x"[..]);
        thief.bring(&[chunk], &[chunk], |_, _| ());
        let done = thief.admit();
        match is_in {
            true => assert!(matches!(*done, [Outcome::Admitted { .. }]), "{done:?}"),
            false => assert_eq!(done, [Outcome::Far { runs: 1 }]),
        }
        let hosts = thief.repo.store().hosts().unwrap();
        assert_eq!(hosts[0].run, if is_in { run } else { 0 });
    }
}

/// It would be called the stream of the server, and what is shorter would be forgotten.
#[test]
fn no_stream_goes_on_from_what_a_host_brought() {
    let mut thief = Thief::new();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |snapshot, _| {
        snapshot.paths = ["base", "log"].map(|name| format!("/system/h/{name}")).into();
    });
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let resumed = || {
        let (folder, origin) = ("system/h".to_owned(), "system://h".to_owned());
        let layout = Layout { kind: "system+stream", origin, folder, base: "base", stream: "log" };
        let options = FollowOptions {
            interval: Duration::from_secs(1),
            base_every: Duration::from_secs(1),
            backup: BackupOptions { hostname: "web1".into(), ..BackupOptions::default() },
            scratch: std::path::PathBuf::new(),
            clock: jiff::Timestamp::now,
        };
        let tally = Tally::default();
        let (growing, _) = Growing::resume(&thief.repo, layout, &options, &tally).unwrap();
        assert!(tally.errors().is_empty());
        growing.has_base()
    };
    assert!(!resumed());
    // Were it a full client's, the stream would go on from there.
    let listed = thief.repo.snapshots(&Tally::default()).unwrap().remove(0);
    let own = Snapshot { signed: None, ..listed.snapshot.clone() };
    thief.repo.replace_snapshot(&listed, &own).unwrap();
    assert!(resumed());
}
