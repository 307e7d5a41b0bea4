//! Servers that answer with another place: what belongs to the one that was asked goes nowhere else.

use crate::harness::Repo;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Answers each request by `status` with `location`; notes what it was asked.
fn server(status: u16, location: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(vec![]));
    let notes = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = vec![0; 64 << 10];
            let read = stream.read(&mut bytes).unwrap_or_default();
            notes.lock().unwrap().push(String::from_utf8_lossy(&bytes[..read]).into_owned());
            let answer = format!(
                "HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            // Whoever asked may be gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, asked)
}

#[test]
fn no_key_follows_an_answer_elsewhere() {
    let repo = Repo::new();
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
        ("AWS_SESSION_TOKEN", "topkey"),
        ("AZURE_STORAGE_ACCOUNT", "acc"),
        ("AZURE_STORAGE_KEY", "dG9wa2V5"),
        ("ESKER_QDRANT_API_KEY", "topkey"),
    ];
    for status in [301, 302, 303, 307, 308] {
        let (other, stolen) = server(200, "/".into());
        for path in ["/x", ""] {
            let (rogue, asked) = server(status, format!("http://{other}{path}"));
            let qdrant = format!("qdrant+http://{rogue}");
            let s3 = format!("s3:http://{rogue}/bucket/x");
            let few = ["-o", "s3.retries=0", "-o", "s3.timeout=2"];
            let azure = format!("http://{rogue}");
            let commands: [Vec<&str>; 3] = [
                vec!["backup", &qdrant],
                [&["-r", &s3][..], &few, &["snapshots"]].concat(),
                [&["-r", "azure://container/x"][..], &few, &["snapshots"]].concat(),
            ];
            for words in commands {
                let before = asked.lock().unwrap().len();
                let mut command = repo.command(&words);
                command.envs(keys).env("AZURE_STORAGE_ENDPOINT", &azure).env("NO_PROXY", "*");
                let output = command.output().unwrap();
                assert!(!output.status.success(), "{status} {words:?}: {output:?}");
                assert!(asked.lock().unwrap().len() > before, "{words:?} asked nothing: {output:?}");
                let stolen = stolen.lock().unwrap();
                assert!(stolen.is_empty(), "{status} {words:?} went on to {stolen:?}");
            }
        }
    }
}
