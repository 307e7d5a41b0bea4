//! Public RDB and append-only files: what a real server loads comes back equal by DEBUG DIGEST; what none of them loads is told.

use super::{Findings, is_large, piece};
use crate::harness::{Repo, free_port, server};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server; killed when dropped.
struct Loaded {
    process: Child,
    port: u16,
}

impl Loaded {
    /// One on a folder that is as it should be, or what the server says where it refuses what is in it.
    fn on(binary: &Path, dir: &Path, args: &[&str]) -> Result<Self, String> {
        let port = free_port();
        // Corrupt files make servers ask for memory without end.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 8000000; ulimit -t 300; exec \"$0\" \"$@\""]).arg(binary);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--enable-debug-command", "local"]);
        // Else it waits for five seconds for more replicas.
        command.args(["--repl-diskless-sync-delay", "0"]);
        command.arg("--dir").arg(dir).args(args);
        let log = dir.join("log");
        command.stdin(Stdio::null()).stdout(std::fs::File::create(&log).unwrap()).stderr(Stdio::null());
        let mut loaded = Self { process: command.spawn().unwrap(), port };
        let start = Instant::now();
        while loaded.ask(&["PING"]).as_deref() != Some("PONG") {
            if loaded.process.try_wait().unwrap().is_some() || start.elapsed() > Duration::from_secs(20) {
                return Err(std::fs::read_to_string(log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(loaded)
    }

    fn ask(&self, args: &[&str]) -> Option<String> {
        let port = self.port.to_string();
        let output =
            Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// All that can be compared: keys with their values, how many there are and expire in each database, libraries.
    fn state(&self) -> String {
        let keyspace = self.ask(&["INFO", "keyspace"]).unwrap();
        // Without the mean of what is left of the expiries.
        let counts: Vec<_> = keyspace
            .lines()
            .filter_map(|line| line.trim().split_once(",avg_ttl"))
            .map(|(line, _)| line)
            .collect();
        let mut libraries: Vec<_> =
            self.ask(&["FUNCTION", "LIST", "WITHCODE"]).unwrap().lines().map(str::to_owned).collect();
        libraries.sort();
        format!("{} {counts:?} {libraries:?}", self.ask(&["DEBUG", "DIGEST"]).unwrap())
    }

    /// How many keys it has in all databases.
    fn keys(&self) -> usize {
        let keyspace = self.ask(&["INFO", "keyspace"]).unwrap();
        let counts = keyspace.split("keys=").skip(1).filter_map(|rest| rest.split(',').next());
        counts.map(|count| count.parse::<usize>().unwrap()).sum()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The servers that are asked, oldest first.
fn servers() -> [PathBuf; 2] {
    [PathBuf::from("redis-server"), server("redis-8")]
}

/// The files of a piece, by their names.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// A fresh folder in which a file has a name.
fn folder_with(repo: &Repo, file: &Path, name: &str) -> PathBuf {
    let dir = repo.path(&format!("server-{}", free_port()));
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(file, dir.join(name)).unwrap();
    dir
}

/// Runs esker; says what it said if it did not end as it should.
fn esker(repo: &Repo, args: &[&str]) -> Result<(), String> {
    let output = repo.run(args);
    if output.status.success() {
        return Ok(());
    }
    let code = output.status.code().map_or("none".into(), |code| code.to_string());
    Err(format!("'esker {}' ended with {code}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// Restores the latest snapshot into an empty server.
fn restore(repo: &Repo, empty: &Loaded) -> Result<(), String> {
    empty.ask(&["FLUSHALL"]).unwrap();
    empty.ask(&["FUNCTION", "FLUSH"]).unwrap();
    esker(repo, &["restore", "latest", "--to", &empty.url(), "--whole", "--yes"])
}

fn same(way: &str, found: &Loaded, wanted: &Loaded) -> Result<(), String> {
    if found.state() == wanted.state() {
        return Ok(());
    }
    // Fields of hashes whose expiry has passed are removed some time after they were loaded.
    std::thread::sleep(Duration::from_secs(3));
    let (found, wanted) = (found.state(), wanted.state());
    if found == wanted { Ok(()) } else { Err(format!("{way}: {found} instead of {wanted}")) }
}

/// A dump that a server has loaded: key by key; where all is asked for, as a file and from the live server, too.
fn dump(repo: &Repo, binary: &Path, file: &Path, loaded: &Loaded, empty: &Loaded) -> Result<(), String> {
    esker(repo, &["backup", &format!("redis+rdb://{}", file.display())])?;
    if is_large() {
        let out = format!("out-{}", free_port());
        esker(repo, &["restore", "latest", "--target", &out])?;
        let found = Command::new("find").arg(repo.path(&out)).args(["-name", "*.rdb"]).output().unwrap();
        let found = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim_end());
        let again = Loaded::on(binary, &folder_with(repo, &found, "dump.rdb"), &["--dbfilename", "dump.rdb"]);
        let again =
            again.map_err(|log| format!("the server does not load the dump that came back: {log}"))?;
        same("the dump that came back", &again, loaded)?;
    }
    restore(repo, empty)?;
    same("key by key", empty, loaded)?;
    if is_large() {
        esker(repo, &["backup", &loaded.url()])?;
        restore(repo, empty)?;
        same("key by key, from the live server", empty, loaded)?;
    }
    Ok(())
}

/// What no server loads must not be a good snapshot without a word.
fn refused(repo: &Repo, source: &str) -> Result<(), String> {
    let output = repo.run(["--json", "backup", source]);
    let text = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(3 | 21) if !text.trim().is_empty() => Ok(()),
        Some(0) => {
            // A version of the format that esker does not know is kept as it is, and the snapshot says so.
            let record = repo.json(["snapshots"]);
            let details = &record.as_array().unwrap().last().unwrap()["sources"][0]["details"];
            let told = details["order"] == "raw";
            if told { Ok(()) } else { Err(format!("no server loads it; backup ended with 0: {details}")) }
        }
        code => Err(format!("no server loads it; backup ended with {code:?}: {text}")),
    }
}

fn dumps(name: &str) {
    let Some(folder) = piece(name) else { return };
    let mut findings = Findings::new(name);
    let (repo, mut compared, mut keys, mut refusals) = (Repo::new(), 0, 0, 0);
    let empty: Vec<_> = servers()
        .iter()
        .map(|binary| {
            let dir = repo.path(&format!("empty-{}", free_port()));
            std::fs::create_dir(&dir).unwrap();
            Loaded::on(binary, &dir, &[]).unwrap()
        })
        .collect();
    for file in files(&folder, "rdb") {
        let shown = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut said = vec![];
        for (binary, empty) in servers().iter().zip(&empty) {
            let dir = folder_with(&repo, &file, "dump.rdb");
            let loaded = match Loaded::on(binary, &dir, &["--dbfilename", "dump.rdb"]) {
                Ok(loaded) => loaded,
                Err(log) => {
                    said.push(log);
                    continue;
                }
            };
            (compared, keys) = (compared + 1, keys + loaded.keys());
            let back = dump(&repo, binary, &file, &loaded, empty);
            // Of a file that its authors made corrupt, servers leave out what is, and esker says so.
            let is_told = |why: &String| {
                shown.starts_with("corrupt")
                    && (why.contains("ended with 3:") || why.contains("ended with 21:"))
            };
            match back {
                Err(why) if is_told(&why) => refusals += 1,
                Err(why) => findings.differs(&format!("{shown}, {}: {why}", binary.display())),
                Ok(()) => {}
            }
            if !is_large() {
                break;
            }
        }
        if said.iter().any(|log| log.contains("module")) {
            println!("{name}: {shown} needs a module that is not here");
        } else if said.len() == servers().len() {
            refusals += 1;
            if let Err(why) = refused(&repo, &format!("redis+rdb://{}", file.display())) {
                findings.differs(&format!("{shown}: {why}"));
            }
        }
    }
    println!(
        "{name}: {compared} dumps with {keys} keys compared, {refusals} refused by servers and by esker"
    );
    findings.end();
}

#[test]
fn dumps_of_redis_itself() {
    dumps("rdb-redis");
}

#[test]
fn dumps_of_a_parser_in_go() {
    dumps("rdb-cupcake");
}

#[test]
fn dumps_of_a_parser_in_rust() {
    dumps("rdb-rust");
}

#[test]
fn append_only_files_of_redis_itself() {
    let Some(folder) = piece("rdb-redis") else { return };
    let mut findings = Findings::new("append-only files");
    let (repo, mut keys) = (Repo::new(), 0);
    for file in files(&folder, "aof") {
        let shown = file.file_name().unwrap().to_string_lossy().into_owned();
        let dir = folder_with(&repo, &file, "appendonly.aof");
        let binary = &servers()[0];
        let loaded = Loaded::on(binary, &dir, &["--appendonly", "yes"]).unwrap();
        keys += loaded.keys();
        let empty = repo.path(&format!("empty-{}", free_port()));
        std::fs::create_dir(&empty).unwrap();
        let empty = Loaded::on(binary, &empty, &[]).unwrap();
        let back = esker(&repo, &["backup", &format!("redis+aof://{}", file.display())])
            .and_then(|()| restore(&repo, &empty))
            .and_then(|()| same("key by key", &empty, &loaded));
        if let Err(why) = back {
            findings.differs(&format!("{shown}: {why}"));
        }
    }
    println!("append-only files: {keys} keys compared");
    findings.end();
}
