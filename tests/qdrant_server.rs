//! Backups of Qdrant: what servers and their keys do, and what may go meanwhile.

use crate::harness::{Repo, certificates, expect, wait_for};
use crate::qdrant_double::Qdrant;
use serde_json::json;
use std::process::Stdio;

const LEFT: &str = "print(json.dumps([s.name for s in client.list_shard_snapshots('things', 0)]))";

#[test]
fn a_snapshot_that_a_killed_run_left_is_removed_by_the_next() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), None);
    qdrant.client("fill('things', 50, size=4)");
    // While it reads: a snapshot that the server still makes has no name that it could remember.
    let killed = |request: &str| {
        qdrant.fault("slow", Some(""));
        let before = qdrant.log().matches(request).count();
        let mut child = repo.command(["backup", &qdrant.url()]).stderr(Stdio::null()).spawn().unwrap();
        wait_for("the download", 60, || qdrant.log().matches(request).count() > before);
        child.kill().unwrap();
        child.wait().unwrap();
        qdrant.fault("slow", None);
    };
    // What is streamed never lies on the server's disk.
    killed("GET /collections/things/shards/0/snapshot ");
    assert_eq!(qdrant.client(LEFT), json!([]));
    qdrant.fault("nostream", Some(""));
    killed("GET /collections/things/shards/0/snapshots/");
    assert_eq!(qdrant.client(LEFT).as_array().unwrap().len(), 1);
    // One that somebody else made stays.
    let other = qdrant.client("print(json.dumps(client.create_shard_snapshot('things', 0).name))");
    repo.ok(["backup", &qdrant.url()]);
    assert_eq!(qdrant.client(LEFT), json!([other]));
}

#[test]
fn a_collection_that_goes_meanwhile_is_left_out() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), None);
    for how in ["stream", "nostream"] {
        qdrant.client("fill('zzz', 5, size=4)");
        if how == "nostream" {
            qdrant.fault("nostream", Some(""));
        } else {
            qdrant.client("fill('things', 50, size=4)");
        }
        qdrant.fault("gone", Some("zzz"));
        let told = repo.fails(3, ["backup", &qdrant.url()]);
        assert!(told.contains("'zzz'") && told.contains("removed while"), "{told}");
        qdrant.fault("gone", None);
        let target = Qdrant::start(&repo.path(&format!("target-{how}")), None);
        repo.ok(["restore", "latest", "--to", &target.url()]);
        assert_eq!(target.everything(), qdrant.everything());
    }
    // One that was asked for by its name must be there.
    qdrant.client("fill('zzz', 5, size=4)");
    qdrant.fault("gone", Some("zzz"));
    assert!(repo.fails(25, ["backup", &format!("{}/zzz", qdrant.url())]).contains("zzz"));
}

#[test]
fn keys_and_their_rights() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), Some("sesame"));
    qdrant.client("fill('err404', 5, size=4); fill('things', 5, size=4); alias(current='things')");
    let with = |key: &str, place: &str| {
        let url = qdrant.url().replace("http://", &format!("http://{key}@")) + place;
        let output = repo.run(["backup", &url]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains("sesame"), "{text}");
        (output.status.code().unwrap(), text)
    };
    // The name of a collection in an answer is no status.
    let (code, told) = with(":sesame-ro", "/err404");
    assert!(code == 25 && told.contains("too few rights") && told.contains("Global manage access"), "{told}");
    let (code, told) = with(":wrong-sesame", "");
    assert!(
        code == 25 && told.contains("401: Invalid API key") && told.contains("missing or wrong"),
        "{told}"
    );
    // In the user's place it is the key, too, and is not shown.
    let (code, told) = with("sesame", "");
    assert_eq!(code, 0, "{told}");
    let (_, told) = with("sesame", "/nothing");
    assert!(told.contains("no collection 'nothing'"), "{told}");
    let (code, told) = with("sesame", "/current");
    assert!(code == 1 && told.contains("alias") && told.contains("'things'"), "{told}");
    let listed = repo.ok(["cat", "snapshot", "latest"]) + &repo.ok(["snapshots", "--json"]);
    assert!(!listed.contains("sesame"), "{listed}");
    // A key goes to the server of the URL, and to no other.
    let other = Qdrant::start(&repo.path("other"), None);
    qdrant.fault("elsewhere", Some(&format!("http://127.0.0.1:{}", other.port())));
    let (code, told) = with("sesame", "");
    assert!(code == 25 && told.contains("sends elsewhere"), "{told}");
    assert_eq!(other.log(), "");
    qdrant.fault("elsewhere", None);
    let proxy = format!("http://127.0.0.1:{}", other.port());
    let url = qdrant.url().replace("http://", "http://sesame@");
    let mut command = repo.command(["backup", &url]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"] {
        command.env(name, &proxy);
    }
    expect(&command.output().unwrap(), 0);
    assert_eq!(other.log(), "");
    assert!(repo.fails(25, ["backup", &format!("{url}?timeout=5")]).contains("no parameters"));
}

#[test]
fn what_is_wrong_with_tls_is_told() {
    let repo = Repo::new();
    certificates(&repo);
    let qdrant = Qdrant::start(&repo.path("qdrant"), None);
    qdrant.client("fill('things', 5, size=4)");
    let both = |name: &str| {
        let read = |end: &str| std::fs::read_to_string(repo.path(&format!("{name}.{end}"))).unwrap();
        read("pem") + &read("key")
    };
    let secure = qdrant.url().replace("http://", "https://");
    let authority = format!("tls.ca={}", repo.path("ca.pem").display());
    let other = format!("tls.ca={}", repo.path("other.pem").display());
    assert!(repo.fails(25, ["-o", &authority, "backup", &secure]).contains("corrupt message"));
    qdrant.fault("tls.pem", Some(&both("server")));
    repo.ok(["-o", &authority, "backup", &secure]);
    let told = repo.fails(25, ["-o", &other, "backup", &secure]);
    assert!(told.contains("invalid peer certificate"), "{told}");
    // An authority's certificate is none for a server.
    qdrant.fault("tls.pem", Some(&both("ca")));
    let told = repo.fails(25, ["-o", &authority, "backup", &secure]);
    assert!(told.contains("invalid peer certificate"), "{told}");
    let told = repo.fails(25, ["backup", &qdrant.url()]);
    assert!(told.contains("cut off: ") && !told.trim_end().ends_with("client error (SendRequest)"), "{told}");
}
