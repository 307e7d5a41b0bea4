//! Tables of contents in both formats.

use super::*;

impl TocEntry {
    /// Rows of a table.
    pub(crate) fn named(oid: usize, namespace: &[u8], tag: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let bytes = NameBytes { tag: tag.to_vec(), namespace: namespace.to_vec(), ..NameBytes::default() };
        Self {
            id: 1,
            oid: oid.to_string(),
            tag: text(tag),
            kind: "TABLE DATA".into(),
            section: Some(Section::Data),
            definition: String::new(),
            copy: String::new(),
            namespace: text(namespace),
            bytes,
            tablespace: String::new(),
            owner: String::new(),
            needs: vec![],
            has_data: true,
            file: String::new(),
            raw: vec![],
            definition_at: (0, 0),
            drop_at: (0, 0),
            tablespace_at: (0, 0),
            needs_len: 0,
        }
    }
}

/// The table of contents of a custom archive with one table and one large object.
pub(crate) fn sample() -> Vec<u8> {
    fn int(out: &mut Vec<u8>, value: i32) {
        out.push(u8::from(value < 0));
        out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }
    fn string(out: &mut Vec<u8>, text: &str) {
        int(out, text.len() as i32);
        out.extend_from_slice(text.as_bytes());
    }
    let mut out = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
    int(&mut out, 0);
    (0..7).for_each(|_| int(&mut out, 1));
    ["db", "15", "15"].iter().for_each(|text| string(&mut out, text));
    int(&mut out, 3);
    for (id, flag) in [(1, OFFSET_NO_DATA), (2, OFFSET_NOT_SET), (3, OFFSET_NOT_SET)] {
        int(&mut out, id);
        int(&mut out, 1);
        (0..4).for_each(|_| string(&mut out, "x"));
        int(&mut out, 3);
        (0..8).for_each(|_| string(&mut out, "y"));
        string(&mut out, "1");
        int(&mut out, -1);
        out.push(flag);
        out.extend_from_slice(&[0; 8]);
    }
    out
}

#[test]
fn one_format_from_the_other() {
    let custom = sample();
    let (toc, used) = Toc::parse(&custom).unwrap();
    assert_eq!((used, toc.with_data()), (custom.len(), [2, 3].into()));
    assert_eq!(toc.entries[1].needs, [1]);
    let files = [(2, "public.t.dat".to_owned()), (3, "blobs.toc".to_owned())].into();
    let directory = toc.write(ArchiveFormat::Directory, &files);
    let (again, used) = Toc::parse(&directory).unwrap();
    assert_eq!((used, again.with_data()), (directory.len(), toc.with_data()));
    assert_eq!(again.entries[1].file, "public.t.dat");
    assert_eq!(again.write(ArchiveFormat::Custom, &BTreeMap::new()), custom);
    let mut other = toc.clone();
    other.set_needs(2, vec![3, 70_000]);
    other.set_drop(2, b"a command");
    let (again, _) = Toc::parse(&other.write(ArchiveFormat::Custom, &BTreeMap::new())).unwrap();
    let needs = |toc: &Toc| toc.entries.iter().map(|entry| entry.needs.clone()).collect::<Vec<_>>();
    assert_eq!(needs(&again), [vec![1], vec![3, 70_000], vec![1]]);
    other.set_needs(2, vec![1]);
    other.set_drop(2, b"x");
    assert_eq!(other.write(ArchiveFormat::Custom, &BTreeMap::new()).len(), custom.len());
    for len in 0..custom.len() {
        assert_eq!(Toc::parse(&custom[..len]).map(drop), Err(Stop::More), "cut at {len}");
    }
}
