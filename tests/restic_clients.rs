//! Programs of others that call `restic`, each in its main job, with scripts/restic-shim under that name: `resticpy`, `runrestic`,
//! `restverify` and `restic-exporter`, as PyPI has them.

use crate::harness::{
    Process, Repo, esker_binary, expect, free_port, noise, server_if_there, source_root, text, wait_for,
};
use serde_json::Value;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder to back up, a place for a repository, and restic's variables.
struct Client {
    repo: Repo,
    python: PathBuf,
}

impl Client {
    fn new() -> Option<Self> {
        let python = server_if_there("restic-clients/bin/python")?;
        let client = Self { python, repo: Repo::empty() };
        let bin = client.repo.path("bin");
        std::fs::create_dir(&bin).unwrap();
        symlink(source_root().join("scripts/restic-shim"), bin.join("restic")).unwrap();
        symlink(esker_binary(), bin.join("esker")).unwrap();
        let root = client.repo.path("data");
        for (name, body) in [
            ("report.txt", text(1, 50_000)),
            ("photo.raw", noise(2, 300_000)),
            ("deep/er/note [1].md", text(3, 700)),
            ("deep/skip.tmp", noise(4, 100)),
        ] {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), body).unwrap();
        }
        std::fs::write(client.repo.path("password"), "of the client\n").unwrap();
        Some(client)
    }

    /// A program with nothing but restic's variables; `restic` is the shim.
    fn command(&self, program: &std::path::Path) -> Command {
        let path = format!("{}:/usr/bin:/bin", self.repo.path("bin").display());
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.repo.dir.path())
            .env("RESTIC_REPOSITORY", self.repo.path("repo"))
            .env("RESTIC_PASSWORD_FILE", self.repo.path("password"))
            .env("RESTIC_CACHE_DIR", self.repo.path("cache"))
            .env("RESTIC_HOST", "client")
            .current_dir(self.repo.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn restic<const N: usize>(&self, args: [&str; N]) -> String {
        expect(&self.command(&self.repo.path("bin/restic")).args(args).output().unwrap(), 0)
    }

    fn script(&self, script: &str) -> String {
        expect(&self.command(&self.python).args(["-c", script]).output().unwrap(), 0)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.python.with_file_name(name)
    }
}

#[test]
fn resticpy_does_all_that_it_knows() {
    let Some(client) = Client::new() else { return };
    let said = client.script(
        r#"
import restic, json, os
restic.repository, restic.password_file = os.path.abspath('repo'), os.path.abspath('password')
assert len(restic.init(repository_version=2)) >= 16
open('excluded', 'w').write('*.tmp\n')
one = restic.backup(paths=['data'], tags=['first', 'two'], exclude_files=['excluded'], scan=False)
assert one['files_new'] == 3 and one['total_bytes_processed'] > 350000, one
open('data/report.txt', 'a').write('more')
two = restic.backup(paths=['data'], host='other', exclude_patterns=['*.tmp'])
open('list', 'w').write('data/deep\n')
three = restic.backup(files_from=['list'], dry_run=True)
same = restic.backup(paths=['data'], host='other', exclude_patterns=['*.tmp'], skip_if_unchanged=True)
snapshots = restic.snapshots()
assert [s['id'] for s in snapshots] == [one['snapshot_id'], two['snapshot_id']], snapshots
assert restic.snapshots(snapshot_id=one['snapshot_id'])[0]['tags'] == ['first', 'two']
assert len(restic.snapshots(host='other')) == 1 and len(restic.snapshots(tags=['first'])) == 1
groups = restic.snapshots(group_by=['host'])
assert sorted(g['group_key']['hostname'] for g in groups) == ['client', 'other'], groups
found = restic.find('*.raw')
assert len(found) == 2 and found[0]['hits'] == 1 and found[0]['matches'][0]['size'] == 300000, found
stats = restic.stats(mode='restore-size')
assert stats['total_size'] == one['total_bytes_processed'] + two['total_bytes_processed'], stats
assert restic.stats(mode='raw-data')['total_blob_count'] > 3
assert restic.stats(host='other')['snapshots_count'] == 1
restic.restore(snapshot_id=one['snapshot_id'], target_dir='back')
assert restic.check(read_data=True) is not None and restic.check(read_data_subset='50%') is not None
assert restic.cat.config()['repository_id'] if 'repository_id' in restic.cat.config() else restic.cat.config()
assert restic.list.locks() == []
restic.unlock()
open('new', 'w').write('another\n')
keys = restic.key.list()
assert len(keys) == 1 and keys[0]['current'], keys
restic.key.add(host='laptop', user='ann', new_password_file='new')
added = [k for k in restic.key.list() if not k['current']][0]
assert (added['hostName'], added['userName']) == ('laptop', 'ann'), added
restic.key.remove(added['id'])
kept = restic.forget(keep_last=1, group_by=['host'], prune=True)
assert len(kept) == 2 and all(len(g['keep']) == 1 for g in kept), kept
restic.forget(snapshot_id=two['snapshot_id'])
assert [s['id'] for s in restic.snapshots()] == [one['snapshot_id']]
assert restic.version()['architecture'] and restic.version()['restic_version']
print('all done')
"#,
    );
    assert!(said.contains("all done"), "{said}");
    let back = client.repo.path("back");
    let found = crate::harness::run("find", &[back.to_str().unwrap(), "-name", "photo.raw"]);
    assert_eq!(std::fs::read(found.trim()).unwrap(), noise(2, 300_000));
}

#[test]
fn runrestic_runs_and_counts() {
    let Some(client) = Client::new() else { return };
    let path = |name: &str| client.repo.path(name).display().to_string();
    let toml = format!(
        "name = \"night\"\nrepositories = [\"{}\"]\n[environment]\nRESTIC_PASSWORD_FILE = \"{}\"\n\
         [execution]\nretry_count = 0\n\
         [backup]\nsources = [\"{}\"]\nexclude_patterns = [\"*.tmp\"]\n[prune]\nkeep-last = 2\ngroup-by = \"host,paths\"\n\
         [check]\nchecks = [\"read-data\"]\n[metrics.prometheus]\npath = \"{}\"\n",
        path("repo"),
        path("password"),
        path("data"),
        path("metrics.prom")
    );
    std::fs::write(path("night.toml"), toml).unwrap();
    std::fs::set_permissions(path("night.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let run = |actions: &[&str]| {
        let mut command = client.command(&client.program("runrestic"));
        let output = command.args(["--config", &path("night.toml")]).args(actions).output().unwrap();
        let all =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{all}");
        assert!(!all.contains("WARNING") && all.contains("with 0 errors"), "{all}");
        std::fs::read_to_string(path("metrics.prom")).unwrap_or_default()
    };
    run(&["init"]);
    run(&[]);
    for night in 0..2u64 {
        std::fs::write(client.repo.path(&format!("data/night{night}")), noise(night, 10_000)).unwrap();
        run(&[]);
    }
    std::fs::write(client.repo.path("data/last"), noise(77, 2_000_000)).unwrap();
    let metrics = run(&[]);
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.5;
    assert!(near(value("restic_backup_files_new"), 1.0), "{metrics}");
    assert!(near(value("restic_backup_files_unmodified"), 5.0), "{metrics}");
    assert!(value("restic_backup_added_to_repo") > 1_900_000.0, "{metrics}");
    assert!(value("restic_backup_processed_size_bytes") > 2_300_000.0, "{metrics}");
    assert!(near(value("restic_forget_removed_snapshots"), 1.0), "{metrics}");
    assert!(near(value("restic_check_rc"), 0.0) && near(value("restic_check_read_data"), 1.0), "{metrics}");
    let stats: Value = serde_json::from_str(&client.restic(["stats", "--json"])).unwrap();
    assert!(near(value("restic_stats_total_size_bytes"), stats["total_size"].as_f64().unwrap()), "{metrics}");
    let listed: Value = serde_json::from_str(&client.restic(["snapshots", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    run(&["unlock"]);
}

#[test]
fn restverify_verifies_and_finds_what_differs() {
    let Some(client) = Client::new() else { return };
    client.restic(["init"]);
    let data = client.repo.path("data").display().to_string();
    client.restic(["backup", &data]);
    let repo = client.repo.path("repo").display().to_string();
    let run = |words: &[&str]| {
        let mut command = client.command(&client.program("restverify"));
        let output = command.args(words).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, said) = run(&["run", "-r", &repo, "--source", &data, "--json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"status\": \"pass\""), "{said}");
    let (code, said) = run(&["prove", "-r", &repo]);
    assert_eq!(code, Some(0), "{said}");
    std::fs::write(client.repo.path("data/report.txt"), text(9, 50_000)).unwrap();
    let (code, said) = run(&["run", "-r", &repo, "--source", &data]);
    assert!(code == Some(2) && said.contains("report.txt"), "{code:?} {said}");
    let (code, said) = run(&["run", "-r", &client.repo.path("nowhere").display().to_string()]);
    assert!(code == Some(1), "{code:?} {said}");
}

/// The exporter of PyPI writes to InfluxDB; a server that takes what it sends stands in for that.
#[test]
fn restic_exporter_exports_snapshots_and_backups() {
    let Some(client) = Client::new() else { return };
    client.restic(["init"]);
    for tag in ["one", "two"] {
        client.restic(["backup", "data", "--tag", tag]);
    }
    let port = free_port();
    let sink = "import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('content-length') or 0))
        code = 200 if self.path.startswith('/query') else 204
        if code == 204: open('points', 'ab').write(body + b'\\n')
        answer = b'{\"results\": [{}]}' if code == 200 else b''
        self.send_response(code); self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(answer))); self.end_headers(); self.wfile.write(answer)
    do_GET = do_POST
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()";
    let mut command = Command::new("python3");
    command.args(["-c", sink, &port.to_string()]).current_dir(client.repo.dir.path());
    let _sink = Process::start(&mut command);
    wait_for("the sink", 20, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let module = client.script("import restic_exporter.restic_exporter as m; print(m.__file__)");
    let exporter = |input: Stdio, more: &[&str]| {
        let mut command = client.command(&client.python);
        command.args([
            module.trim(),
            "influxdb",
            "--influxdb-port",
            &port.to_string(),
            "--group-by",
            "host,paths",
        ]);
        command.args(["--backup-path", "data"]).args(more);
        expect(&command.stdin(input).output().unwrap(), 0);
        std::fs::read_to_string(client.repo.path("points")).unwrap_or_default()
    };
    // Without a terminal it reads what a backup prints.
    let backup = client.restic(["backup", "data", "--json", "--tag", "three"]);
    std::fs::write(client.repo.path("printed"), &backup).unwrap();
    let printed = std::fs::File::open(client.repo.path("printed")).unwrap();
    let points = exporter(printed.into(), &["--backup-host", "client"]);
    let summary: Value = serde_json::from_str(backup.lines().last().unwrap()).unwrap();
    let line = points.lines().find(|line| line.starts_with("restic_backup_summary")).unwrap();
    for key in ["files_new", "files_unmodified", "dirs_unmodified", "data_added", "total_bytes_processed"] {
        assert!(line.contains(&format!("{key}={}i", summary[key])), "{key}: {line}");
    }
    assert!(line.contains(summary["snapshot_id"].as_str().unwrap()), "{line}");
    // On one it exports the newest snapshot of each group, with its sizes.
    let script = format!(
        "import pty, sys; sys.exit(pty.spawn([{:?}, {:?}, 'influxdb', '--influxdb-port', '{port}', '--group-by', 'host,paths', '--backup-path', 'data']) >> 8)",
        client.python.display().to_string(),
        module.trim()
    );
    client.script(&script);
    let points = std::fs::read_to_string(client.repo.path("points")).unwrap();
    let lines: Vec<&str> = points.lines().filter(|line| line.starts_with("restic_snapshots")).collect();
    assert_eq!(lines.len(), 1, "{points}");
    let sizes: Value = serde_json::from_str(&client.restic(["stats", "--json", "latest"])).unwrap();
    assert!(lines[0].contains(&format!("restore_size={}i", sizes["total_size"])), "{lines:?}");
    assert!(lines[0].contains("raw_blob_count=") && lines[0].contains("hostname=client"), "{lines:?}");
}

/// The exporter for Prometheus that most use asks these, and reads these answers.
#[test]
fn what_the_prometheus_exporter_asks() {
    let Some(client) = Client::new() else { return };
    client.restic(["init"]);
    client.restic(["backup", "data"]);
    let json = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let groups = json(client.restic([
        "--no-lock",
        "snapshots",
        "--json",
        "--latest",
        "1",
        "--group-by",
        "host,paths",
    ]));
    let snapshot = &groups[0]["snapshots"][0];
    for key in ["time", "hostname", "username", "paths", "id", "program_version"] {
        assert!(!snapshot[key].is_null(), "{key}: {snapshot}");
    }
    for key in [
        "files_new",
        "files_changed",
        "files_unmodified",
        "total_files_processed",
        "total_bytes_processed",
        "data_added",
        "backup_start",
        "backup_end",
    ] {
        assert!(!snapshot["summary"][key].is_null(), "{key}: {snapshot}");
    }
    let id = snapshot["id"].as_str().unwrap();
    let raw = json(client.restic(["--no-lock", "stats", "--json", "--mode", "raw-data"]));
    for key in
        ["total_size", "total_uncompressed_size", "compression_ratio", "total_blob_count", "snapshots_count"]
    {
        assert!(raw[key].as_f64().unwrap() > 0.0, "{key}: {raw}");
    }
    let one = json(client.restic(["--no-lock", "stats", "--json", id]));
    assert!(one["total_size"].as_u64() > Some(0) && one["total_file_count"].as_u64() > Some(0), "{one}");
    client.restic(["--no-lock", "check", "--insecure-tls"]);
    assert_eq!(client.restic(["--no-lock", "list", "locks"]), "");
}
