//! Names and contents that a tenant chooses, given to every connector that reads files: each comes back as it was, or is refused before
//! anything is stored; never a snapshot that cannot be read, nor a name that hides another.

use crate::harness::{Repo, expect, noise, run};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Names of files that some part of esker, or of what restores, could take for something else.
fn names() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        &b"plain"[..],
        b"...",
        b"..x",
        b".hidden",
        b" ",
        b" leading and trailing ",
        b"-",
        b"--help",
        b"%",
        b"%2E",
        b"%2E%2E",
        b"%2F",
        b"%00",
        b"a%2Fb",
        b"a:b",
        b"a\\b",
        b"*",
        b"?[x]",
        b"!x",
        b"#x",
        b"line\nfeed",
        b"tab\t, return\r, bell\x07, escape\x1b[31m, delete\x7f",
        b"latin \xe9",
        b"latin \xe8",
        b"half \xe2\x82",
        "žluť 日本 🗝".as_bytes(),
        "a\u{202e}b\u{feff}".as_bytes(),
        b"x.index",
        b"x.rdb",
        b"x.rdb.index",
        b"x.rdb.usage",
        b"x.sql.index",
        b"toc.dat",
        b"globals.sql",
        b"collection.json",
        b"shard-0.snapshot",
        b"x.esker-partial",
        b"appendonly.aof.manifest",
        b"x.tar",
        b"x.gz",
        b"latest",
    ]
    .map(<[u8]>::to_vec)
    .into();
    all.push(vec![b'n'; 255]);
    all.push([&vec![b'n'; 254][..], b"\xff"].concat());
    all
}

fn join(folder: &Path, name: &[u8]) -> PathBuf {
    folder.join(OsStr::from_bytes(name))
}

fn files(folder: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().as_bytes().to_vec(), std::fs::read(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

/// A night with hostile names can be read, and does not stop what concerns all nights.
fn readable(repo: &Repo) {
    repo.ok(["ls", "latest"]);
    repo.ok(["--json", "ls", "latest"]);
    repo.ok(["check", "--read-data"]);
    repo.ok(["prune"]);
}

fn url(scheme: &str, path: &Path) -> String {
    let escaped: String = path
        .as_os_str()
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'/' => "/".to_owned(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    format!("{scheme}://{escaped}")
}

#[test]
fn files_of_every_name_come_back() {
    let repo = Repo::new();
    let folder = repo.path("source");
    std::fs::create_dir(&folder).unwrap();
    for (number, name) in names().into_iter().enumerate() {
        std::fs::write(join(&folder, &name), number.to_string()).unwrap();
    }
    repo.ok(["backup", "source"]);
    readable(&repo);
    repo.ok(["restore", "latest", "--target", "out", "--verify"]);
    assert!(files(&folder) == files(&repo.path("out/source")));
    // One by one, by name.
    for (number, name) in names().into_iter().enumerate() {
        let Ok(name) = String::from_utf8(name) else { continue };
        assert_eq!(repo.ok(["dump", "latest", &format!("/source/{name}")]), number.to_string(), "{name:?}");
    }
}

#[test]
fn streams_of_every_name_come_back_or_are_refused() {
    let repo = Repo::new();
    let bytes = noise(1, 1000);
    for name in names().into_iter().filter_map(|name| String::from_utf8(name).ok()) {
        let words = ["backup", "--stdin", &format!("--stdin-filename={name}")];
        expect(&repo.feed(words, &bytes), 0);
        let dumped = repo.run(["dump", "latest", &format!("/{name}")]);
        assert!(dumped.stdout == bytes, "{name:?}");
    }
    let good = repo.snapshot_count();
    for name in ["", "/", ".", "..", "a/../b", "../../etc/passwd", "a//b", "a/./b"] {
        let refused = repo.feed(["backup", "--stdin", &format!("--stdin-filename={name}")], &bytes);
        assert!(refused.status.code() == Some(1), "{name:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("not a usable name"), "{name:?}");
    }
    assert_eq!(repo.snapshot_count(), good);
    readable(&repo);
}

/// A dump of Redis with one key, without a checksum.
fn rdb(key: &str) -> Vec<u8> {
    let mut bytes = b"REDIS0009\xfe\x00\x00".to_vec();
    bytes.push(u8::try_from(key.len()).unwrap());
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(b"\x05value\xff\0\0\0\0\0\0\0\0");
    bytes
}

#[test]
fn dumps_of_every_name_come_back_and_none_hides_another() {
    let repo = Repo::new();
    let folder = repo.path("dumps");
    std::fs::create_dir(&folder).unwrap();
    let mut urls = vec![];
    for (number, name) in names().into_iter().enumerate() {
        let path = join(&folder, &name);
        std::fs::write(&path, rdb(&format!("key-{number}"))).unwrap();
        // An index of another dump's name lies beside that dump; alone it is a dump like any other.
        let side = [&b".index"[..], b".usage"].iter().any(|end| name.ends_with(end));
        // Encoded, or with an index beside it, the longest names are longer than a folder takes; a snapshot takes them.
        if side || name.len() > 200 {
            repo.ok(["backup", &url("redis+rdb", &path)]);
            let listed = repo.ok(["ls", "latest:redis/0/"]);
            assert!(listed.contains(&format!("key-{number}")), "{:?}: {listed}", name.escape_ascii());
        } else {
            urls.push((number, url("redis+rdb", &path)));
        }
    }
    let mut words = vec!["backup".to_owned(), "-o".into(), "redis.order=raw".into()];
    words.extend(urls.iter().map(|(_, url)| url.clone()));
    repo.ok(&words);
    readable(&repo);
    repo.ok(["restore", "latest:redis/files", "--target", "out"]);
    let mut found: Vec<Vec<u8>> = files(&repo.path("out")).into_iter().map(|(_, bytes)| bytes).collect();
    let mut wanted: Vec<Vec<u8>> = urls.iter().map(|(number, _)| rdb(&format!("key-{number}"))).collect();
    found.sort();
    wanted.sort();
    assert!(found == wanted, "{} of {}", found.len(), wanted.len());
}

#[test]
fn append_only_files_in_folders_of_every_name_come_back() {
    let repo = Repo::new();
    let command = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
    let mut words = vec!["backup".to_owned()];
    let wanted = names().into_iter().filter(|name| name.len() < 200).count();
    for name in names().into_iter().filter(|name| name.len() < 200) {
        let folder = join(&repo.path("aof"), &name);
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = "file x.aof.1.base.rdb seq 1 type b\nfile x.aof.1.incr.aof seq 1 type i\n";
        std::fs::write(folder.join("x.aof.manifest"), manifest).unwrap();
        std::fs::write(folder.join("x.aof.1.base.rdb"), rdb("a")).unwrap();
        std::fs::write(folder.join("x.aof.1.incr.aof"), command).unwrap();
        words.push(url("redis+aof", &folder));
    }
    repo.ok(&words);
    readable(&repo);
    repo.ok(["restore", "latest:redis/files", "--target", "out"]);
    let folders: Vec<PathBuf> =
        std::fs::read_dir(repo.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), wanted);
    for folder in folders {
        assert!(std::fs::read(folder.join("x.aof.1.incr.aof")).unwrap() == command);
    }
}

/// Archives by GNU tar, in every format of it, of files whose names and contents look like parts of archives.
#[test]
fn archives_of_hostile_members_come_back_byte_by_byte_and_cut_ones_do_not() {
    let repo = Repo::new();
    let folder = repo.path("members");
    let put = |path: &str, bytes: &[u8]| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    put("zeros", &vec![0; 200_000]);
    put("end", &[&noise(2, 511)[..], &[0; 4096], &noise(3, 100_000)].concat());
    put("PaxHeaders/x", b"20 size=99999999999\n");
    put("size=7\n12 size=0", b"a name like a record");
    put("././@LongLink", b"a name like a long name's");
    put(&format!("{}/{}", "d".repeat(200), "f".repeat(200)), &noise(4, 70_000));
    put("b", &noise(5, 300_000));
    run(
        "tar",
        &["-cf", folder.join("a.tar").to_str().unwrap(), "-C", folder.to_str().unwrap(), "zeros", "b"],
    );
    let sparse = std::fs::File::create(folder.join("sparse")).unwrap();
    for number in 0..64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(number, 4096), number * 65_536).unwrap();
    }
    sparse.set_len(64 * 65_536).unwrap();
    for format in ["gnu", "oldgnu", "pax", "ustar", "v7", "sparse"] {
        let path = repo.path(&format!("{format}.tar"));
        let how = if format == "sparse" { "--sparse" } else { &format!("--format={format}") };
        let words = ["-c", how, "-f", path.to_str().unwrap(), "-C", folder.to_str().unwrap(), "."];
        // Formats without long names leave those out, with a word and an exit code.
        let made = std::process::Command::new("tar").args(words).output().unwrap();
        assert!(made.status.success() || ["ustar", "v7"].contains(&format), "{format}");
        let bytes = std::fs::read(&path).unwrap();
        expect(&repo.feed(["backup", "--stdin", "--stdin-filename", format, "--expect", "tar"], &bytes), 0);
        let dumped = repo.run(["dump", "latest", &format!("/{format}")]);
        assert!(dumped.stdout == bytes, "{format}");
        let count = repo.snapshot_count();
        let blocks = bytes.len() / 512;
        for number in 0..7 {
            let at = number * blocks / 7 * 512 + number;
            let cut =
                repo.feed(["backup", "--stdin", "--stdin-filename", format, "--expect", "tar"], &bytes[..at]);
            let code = cut.status.code().unwrap();
            assert!([21, 26].contains(&code), "{format}, cut at {at}: {code}");
        }
        assert_eq!(repo.snapshot_count(), count);
    }
    // 8 GiB and more do not fit into a header; pax says it beside.
    let made = std::process::Command::new("python3")
        .args(["-c", LARGE_PAX])
        .arg(repo.path("large.tar"))
        .status()
        .unwrap();
    assert!(made.success());
    let bytes = std::fs::read(repo.path("large.tar")).unwrap();
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "large", "--expect", "tar"], &bytes), 0);
    let cut = repo.feed(["backup", "--stdin", "--expect", "tar"], &bytes[..100_000]);
    expect(&cut, 21);
    readable(&repo);
}

/// A member whose length stands only in its pax header, as it does when it is 8 GiB or more.
const LARGE_PAX: &str = r#"
import io, sys, tarfile
class Small(tarfile.TarInfo):
    def create_pax_header(self, info, encoding):
        self.pax_headers = {"size": str(info["size"])}
        return super().create_pax_header({**info, "size": 0}, encoding)
data = bytes(range(256)) * 800
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as archive:
    for name in ("one", "two"):
        member = Small(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
with tarfile.open(sys.argv[1]) as archive:
    assert [archive.extractfile(member).read() for member in archive] == [data, data]
"#;
