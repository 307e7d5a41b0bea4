//! Flags and commands that users of restic know: each gives what restic 0.14 or 0.19 gives for the same files.

use crate::harness::{
    Process, Repo, certificates, expect, free_port, noise, server_if_there, text, wait_for,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

/// A folder with a few files, a repository of ours and one of restic's, each with a backup of it.
pub(crate) struct Both {
    pub(crate) repo: Repo,
    restic: std::path::PathBuf,
}

impl Both {
    pub(crate) fn new(name: &str) -> Option<Self> {
        let both = Self { restic: server_if_there(name)?, repo: Repo::new() };
        let root = both.repo.path("data");
        for (name, body) in [
            ("one.txt", text(1, 9000)),
            ("two.TXT", noise(2, 5000)),
            ("sub/copy.txt", text(1, 9000)),
            ("sub/deep/three.md", text(3, 200)),
            ("sub/empty", vec![]),
            ("odd/[1].txt", b"one".to_vec()),
            ("odd/a b", b"blank".to_vec()),
            ("odd/#hash", b"hash".to_vec()),
        ] {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), body).unwrap();
        }
        std::fs::hard_link(root.join("one.txt"), root.join("linked")).unwrap();
        both.theirs(["init"]);
        Some(both)
    }

    pub(crate) fn theirs<const N: usize>(&self, args: [&str; N]) -> String {
        let output = Command::new(&self.restic)
            .env("RESTIC_REPOSITORY", self.repo.path("restic"))
            .env("RESTIC_PASSWORD", "secret")
            .env("RESTIC_CACHE_DIR", self.repo.path("restic-cache"))
            .env("TZ", "UTC")
            .current_dir(self.repo.dir.path())
            .args(args)
            .output()
            .unwrap();
        expect(&output, 0)
    }

    /// Runs both with the same words and gives their lines that begin with a slash, in order.
    pub(crate) fn paths<const N: usize>(&self, args: [&str; N]) -> (Vec<String>, Vec<String>) {
        let lines = |text: String| {
            let mut lines: Vec<String> =
                text.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        (lines(self.repo.ok(args)), lines(self.theirs(args)))
    }

    pub(crate) fn same_paths<const N: usize>(&self, args: [&str; N]) -> usize {
        let (ours, theirs) = self.paths(args);
        assert_eq!(ours, theirs, "{args:?}");
        ours.len()
    }

    pub(crate) fn backup<const N: usize>(&self, args: [&str; N]) {
        self.repo.ok(["backup"].iter().chain(&args));
        let mut words = vec!["backup"];
        words.extend(args);
        let output = Command::new(&self.restic)
            .env("RESTIC_REPOSITORY", self.repo.path("restic"))
            .env("RESTIC_PASSWORD", "secret")
            .env("RESTIC_CACHE_DIR", self.repo.path("restic-cache"))
            .current_dir(self.repo.dir.path())
            .args(words)
            .output()
            .unwrap();
        expect(&output, 0);
    }
}

/// `ls` with folders shows these and what is in them; with --recursive, all beneath.
#[test]
fn ls_shows_folders_as_restic_does() {
    let Some(both) = Both::new("restic-0.14") else { return };
    let root = both.repo.path("data").display().to_string();
    both.backup([&root]);
    let all = both.same_paths(["ls", "latest"]);
    let sub = format!("{root}/sub");
    assert_eq!(both.same_paths(["ls", "latest", &sub]), 4);
    assert_eq!(both.same_paths(["ls", "latest", "--recursive", &sub]), 5);
    assert!(both.same_paths(["ls", "latest", "--recursive", &root]) < all);
    assert!(both.repo.fails(1, ["ls", "latest", "/nowhere"]).contains("/nowhere"));
    let sizes = both.repo.ok(["ls", "latest", "--recursive", "--sort", "size", "--long", &root]);
    let sizes: Vec<u64> =
        sizes.lines().map(|line| line.split_whitespace().nth(3).unwrap().parse().unwrap()).collect();
    assert!(sizes.is_sorted() && sizes.last() == Some(&9000), "{sizes:?}");
    let reversed = both.repo.ok(["ls", "latest", "--reverse"]);
    assert_eq!(
        reversed.lines().rev().collect::<Vec<_>>(),
        both.repo.ok(["ls", "latest"]).lines().collect::<Vec<_>>()
    );
    let export: Value = serde_json::from_str(&both.repo.ok(["ls", "latest", "--ncdu"])).unwrap();
    fn names(list: &Value, found: &mut Vec<String>) {
        match list {
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            item => found.extend(item["name"].as_str().map(str::to_owned)),
        }
    }
    let mut found = vec![];
    names(&export[3], &mut found);
    assert_eq!(found.len(), all + 1, "{found:?}");
}

#[test]
fn find_by_time_and_pattern() {
    let Some(both) = Both::new("restic-0.14") else { return };
    let root = both.repo.path("data");
    for (name, day) in
        [("one.txt", "2020-01-01"), ("sub/copy.txt", "2021-06-01"), ("odd/[1].txt", "2022-01-01")]
    {
        crate::harness::run("touch", &["-d", &format!("{day} 12:00 UTC"), root.join(name).to_str().unwrap()]);
    }
    both.backup([root.to_str().unwrap()]);
    let at = ["find", "*.txt", "--oldest", "2020-06-01", "--newest", "2021-12-31"];
    assert_eq!(both.same_paths(at), 1);
    assert_eq!(both.same_paths(["find", "*.txt", "-O", "2021-01-01"]), 2);
    assert_eq!(both.same_paths(["find", "-i", "*.txt", "-N", "2020-01-01 12:00:00"]), 1);
    assert_eq!(both.same_paths(["find", "-i", "*.txt", "copy*"]), 4);
    let long = both.repo.ok(["find", "--long", "copy.txt"]);
    assert!(long.contains("-rw") && long.contains(" 9000 2021-06-01 12:00:00"), "{long}");
    let (ours, theirs): (Value, Value) = (
        both.repo.json(["find", "copy.txt"]),
        serde_json::from_str(&both.theirs(["find", "--json", "copy.txt"])).unwrap(),
    );
    for (key, value) in theirs[0]["matches"][0].as_object().unwrap() {
        let our = &ours[0]["matches"][0][key];
        match key.as_str() {
            "atime" | "mtime" | "ctime" => {
                let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
                assert_eq!(time(our), time(value), "{key}");
            }
            _ => assert_eq!(our, value, "{key}"),
        }
    }
}

/// Lists of paths: patterns and comments, lines as they are, NULs between; from a file or from standard input.
#[test]
fn lists_of_paths_and_patterns() {
    let Some(both) = Both::new("restic-0.19") else { return };
    let root = both.repo.path("data").display().to_string();
    let write = |name: &str, body: String| {
        std::fs::write(both.repo.path(name), body).unwrap();
    };
    write("globs", format!("# comment\n\n  {root}/*.txt  \n{root}/s?b/[a-d]*\n"));
    write("lines", format!("{root}/odd/#hash\n{root}/odd/[1].txt\n{root}/odd/a b\n"));
    write("nuls", format!("{root}/odd/a b\0{root}/sub/deep\0"));
    write("names", "*.TxT\n# comment\n\n".into());
    for words in [
        ["--files-from", "globs", "--no-scan"],
        ["--files-from-verbatim", "lines", "--no-scan"],
        ["--files-from-raw", "nuls", "--no-scan"],
    ] {
        both.backup(words);
        assert!(both.same_paths(["ls", "latest"]) > 2, "{words:?}");
    }
    both.backup([&root, "--iexclude-file", "names", "--read-concurrency", "2"]);
    assert_eq!(both.repo.ok(["ls", "latest"]).to_lowercase().matches(".txt").count(), 0);
    let (ours, _) = both.paths(["ls", "latest"]);
    assert!(!ours.is_empty());
    let list = std::fs::read(both.repo.path("nuls")).unwrap();
    expect(&both.repo.feed(["backup", "--files-from-raw", "-"], &list), 0);
    assert!(both.repo.ok(["ls", "latest"]).contains("three.md"));
    let cut = both.repo.feed(["backup", "--files-from-raw", "-"], &list[..list.len() - 1]);
    assert!(String::from_utf8_lossy(&cut.stderr).contains("does not end with a NUL"));
    assert_eq!(cut.status.code(), Some(1));
}

/// Patterns of a restore that ignore the case, or stand in files.
#[test]
fn patterns_of_restores() {
    let Some(both) = Both::new("restic-0.19") else { return };
    let root = both.repo.path("data").display().to_string();
    both.backup([&root]);
    std::fs::write(both.repo.path("wanted"), "*.Txt\n").unwrap();
    let files = |folder: &std::path::Path| -> BTreeSet<String> {
        let list = crate::harness::run("find", &[folder.to_str().unwrap(), "-type", "f", "-printf", "%P\n"]);
        list.lines().map(str::to_owned).collect()
    };
    for (number, words) in [
        ["--iinclude", "*.TXT"],
        ["--iexclude", "*.txt"],
        ["--include-file", "wanted"],
        ["--iinclude-file", "wanted"],
        ["--exclude-file", "wanted"],
        ["--iexclude-file", "wanted"],
    ]
    .iter()
    .enumerate()
    {
        let (a, b) = (both.repo.path(&format!("a{number}")), both.repo.path(&format!("b{number}")));
        for folder in [&a, &b] {
            std::fs::create_dir(folder).unwrap();
        }
        let ours = both.repo.run(["restore", "latest", "--target", a.to_str().unwrap(), words[0], words[1]]);
        both.theirs(["restore", "latest", "--target", b.to_str().unwrap(), words[0], words[1]]);
        assert_eq!(files(&a), files(&b), "{words:?}");
        // What fits nothing may be refused; all else is done.
        assert!(ours.status.success() || files(&b).is_empty(), "{words:?}");
    }
    std::fs::write(both.repo.path("wanted"), "# nothing\n").unwrap();
    let said = both.repo.fails(2, ["restore", "latest", "--target", "none", "--include-file", "wanted"]);
    assert!(said.contains("hold no pattern"), "{said}");
}

/// Sizes in restic's sense.
#[test]
fn modes_of_stats() {
    let Some(both) = Both::new("restic-0.14") else { return };
    let root = both.repo.path("data").display().to_string();
    both.backup([&root]);
    std::fs::write(both.repo.path("data/two.TXT"), noise(9, 7000)).unwrap();
    both.backup([&root]);
    let theirs = |mode: &str| -> Value {
        serde_json::from_str(&both.theirs(["stats", "--json", "--mode", mode])).unwrap()
    };
    for mode in ["restore-size", "files-by-contents", "blobs-per-file"] {
        let (ours, theirs) = (both.repo.json(["stats", "--mode", mode]), theirs(mode));
        assert_eq!(ours["total_size"], theirs["total_size"], "{mode}");
        assert_eq!(ours["snapshots_count"], theirs["snapshots_count"], "{mode}");
        assert_eq!(ours["total_file_count"], theirs["total_file_count"], "{mode}");
    }
    assert_eq!(both.repo.json(["stats"])["total_size"], theirs("restore-size")["total_size"]);
    let raw = both.repo.json(["stats", "--mode", "raw-data"]);
    for key in [
        "total_size",
        "total_uncompressed_size",
        "total_blob_count",
        "compression_ratio",
        "compression_progress",
    ] {
        assert!(raw[key].as_f64().unwrap() > 0.0, "{key}: {raw}");
    }
    let one = both.repo.json(["stats", "--mode", "raw-data", "latest"]);
    assert!(one["total_size"].as_u64() < raw["total_size"].as_u64(), "{one} {raw}");
    let stored: u64 = std::fs::read_dir(both.repo.folder().join("packs")).map_or(0, |_| {
        let list = crate::harness::run(
            "find",
            &[both.repo.folder().join("packs").to_str().unwrap(), "-type", "f", "-printf", "%s\n"],
        );
        list.lines().map(|line| line.parse::<u64>().unwrap()).sum()
    });
    assert!(raw["total_size"].as_u64().unwrap() <= stored, "{raw} {stored}");
    assert!(both.repo.ok(["stats", "--mode", "raw-data"]).contains("Total Size:"));
}

/// What has nothing to do is taken, says so in its help, and does no harm; names of what is there are listed.
#[test]
fn locks_lists_and_versions() {
    let repo = Repo::new();
    std::fs::write(repo.path("file"), noise(1, 100_000)).unwrap();
    repo.ok([
        "--no-lock",
        "--retry-lock",
        "5m",
        "--key-hint",
        "ab",
        "--no-extra-verify",
        "backup",
        "file",
        "--read-concurrency",
        "4",
    ]);
    assert!(repo.ok(["unlock"]).contains("nothing to unlock"));
    repo.ok(["unlock", "--remove-all"]);
    repo.fails(12, ["unlock", "--insecure-no-password"]);
    for flag in ["--no-lock", "--retry-lock", "--key-hint", "--no-extra-verify", "--cleanup-cache"] {
        let help = repo.ok(["snapshots", "--help"]);
        let at = help.find(flag).unwrap_or_else(|| panic!("{flag}"));
        assert!(help[at..].chars().take(300).collect::<String>().contains("Nothing to do"), "{flag}");
    }
    let count = |what: &str| repo.ok(["list", what]).lines().count();
    assert_eq!((count("snapshots"), count("keys"), count("index"), count("locks")), (1, 1, 1, 0));
    assert!(count("packs") >= 2 && count("blobs") >= 2);
    let stats = repo.json(["stats"]);
    assert_eq!(count("packs") as u64, stats["packs"].as_u64().unwrap());
    let version = repo.json(["version"]);
    for key in ["version", "go_version", "go_os", "go_arch"] {
        assert!(version[key].is_string(), "{key}");
    }
    let said = repo.ok(["backup", "file"]);
    for line in ["Files:", "Dirs:", "Added to the repository:", "processed 1 files,", "snapshot "] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn limits_hold_for_any_repository() {
    let repo = Repo::new();
    std::fs::write(repo.path("file"), noise(1, 4 << 20)).unwrap();
    // The last transfer is not waited for: what counts is what comes before it.
    let start = Instant::now();
    repo.ok(["backup", "file", "--pack-size", "1", "--limit-upload", "1024"]);
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds > 2.5, "{seconds}");
    let start = Instant::now();
    assert_eq!(repo.run(["dump", "latest", "file", "--limit-download", "1024"]).stdout.len(), 4 << 20);
    assert!(start.elapsed().as_secs_f64() > 1.5);
    assert_eq!(repo.run(["dump", "latest", "file", "--limit-download", "0"]).stdout.len(), 4 << 20);
}

/// A store with a certificate of an authority that the system does not know.
#[test]
fn authorities_of_stores() {
    let repo = Repo::empty();
    certificates(&repo);
    let port = free_port();
    let script = "import http.server, ssl, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.agents.append(self.headers['user-agent'])
        open('agents', 'a').write(self.headers['user-agent'] + chr(10))
        empty = b'<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>' if 'list-type=2' in self.path else b''
        self.send_response(200 if empty else 404); self.send_header('content-length', str(len(empty))); self.end_headers()
        self.wfile.write(empty)
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H); s.agents = []
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('server.pem', 'server.key')
s.socket = c.wrap_socket(s.socket, server_side=True); s.serve_forever()";
    let mut command = Command::new("python3");
    command.args(["-c", script, &port.to_string()]).current_dir(repo.dir.path());
    let _server = Process::start(&mut command);
    wait_for("the server", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let place = format!("s3:https://127.0.0.1:{port}/bucket/prefix");
    let words = ["-r", &place, "-o", "s3.retries=0", "snapshots"];
    let run = |more: &[&str]| {
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")];
        let mut command = repo.command(words.iter().chain(more));
        let output = command.envs(keys).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).to_lowercase())
    };
    let (code, said) = run(&[]);
    assert!(code == Some(1) && said.contains("certificate"), "{code:?} {said}");
    assert_eq!(run(&["--cacert", "ca.pem", "--http-user-agent", "night shift"]).0, Some(10));
    assert_eq!(run(&["--insecure-tls"]).0, Some(10));
    assert_eq!(run(&["--cacert", "other.pem"]).0, Some(1));
    assert!(run(&["--cacert", "server.key-none"]).1.contains("cannot read"));
    assert!(std::fs::read_to_string(repo.path("agents")).unwrap().contains("night shift"));
}
