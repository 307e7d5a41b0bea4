//! What HTTP servers answer: Qdrant, and stores of the kinds of S3 and Azure.

use super::peer::Web;
use crate::bounds::bounded;
use bytes::Bytes;
use chunkstore::storage::azure::{self, AzureOptions};
use chunkstore::storage::cloud::CloudStorage;
use chunkstore::storage::s3::{self, S3Options};
use chunkstore::storage::shelf::{Placing, Retrieval};
use chunkstore::storage::{HttpOptions, Storage as _, Version};
use connector_qdrant::server::{Came, Qdrant, Upload};
use engine::connector::Context;
use std::sync::LazyLock;

/// Memory for one input: buffers of a connection, and JSON or XML in memory, which is a multiple of what it is on the line.
const MOST: usize = 48 << 20;

/// What is asked, then the answers.
pub(super) fn qdrant(data: &[u8]) {
    static WEB: LazyLock<(Web, Qdrant)> = LazyLock::new(|| {
        let web = Web::new();
        let url = format!("qdrant+http://127.0.0.1:{}", web.port());
        let context = Context::new(std::env::temp_dir(), jiff::Timestamp::now);
        let server = Qdrant::new(&url.parse().expect("a URL"), &context).expect("a server");
        (web, server)
    });
    let Some((what, answers)) = data.split_first() else { return };
    let (web, server) = &*WEB;
    web.says(answers.to_vec());
    bounded(MOST, || match what % 10 {
        0 => drop(server.version()),
        1 => {
            for name in server.collections().unwrap_or_default() {
                let _ = server.collection(&name);
            }
        }
        2 => {
            if let Ok(cluster) = server.cluster("c") {
                assert!(cluster.local(true).count() <= cluster.local(false).count());
            }
        }
        3 => drop((server.peers(), server.aliases())),
        4 => drop((server.count("c"), server.collection("c"))),
        5 => drop(server.snapshots("c", 0)),
        6 => {
            if let Ok(made) = server.make_snapshot("c", 0) {
                let _ = server.delete_snapshot("c", 0, &made.name);
            }
        }
        7 => {
            let Ok(Some(mut body)) = server.stream_snapshot("c", 0) else { return };
            let (mut buffer, mut len) = ([0; 512], 0);
            while let Ok(came) = body.read(&mut buffer) {
                match came {
                    Came::End => break,
                    Came::Nothing => {}
                    Came::Bytes(some) => len += some,
                }
                assert!(len <= answers.len(), "more than was sent");
            }
        }
        8 => {
            let upload = Upload { collection: "c", shard: 0, len: 3, checksum: None, priority: "snapshot" };
            drop(server.upload(&upload, &|| false, |out| out.write_all(b"abc").map_err(drop)));
        }
        _ => drop(server.delete_collection("c")),
    });
}

struct Stores {
    web: Web,
    s3: CloudStorage,
    azure: CloudStorage,
}

static STORES: LazyLock<Stores> = LazyLock::new(|| {
    let web = Web::new();
    let endpoint = format!("http://127.0.0.1:{}", web.port());
    let http = HttpOptions { retries: 0, timeout_s: 5, ..HttpOptions::default() };
    let s3 = s3::open(&S3Options {
        endpoint: endpoint.clone(),
        bucket: "b".into(),
        prefix: "p".into(),
        access_key_id: "key".into(),
        secret_access_key: "secret".into(),
        http: http.clone(),
        ..S3Options::default()
    });
    let azure = azure::open(&AzureOptions {
        endpoint,
        account: "a".into(),
        container: "c".into(),
        prefix: "p".into(),
        access_key: "a2V5".into(),
        http,
        ..AzureOptions::default()
    });
    Stores { web, s3: s3.expect("a store"), azure: azure.expect("a store") }
});

/// Which store and what is asked, then the answers.
pub(super) fn cloud(data: &[u8]) {
    let Some((what, answers)) = data.split_first() else { return };
    let stores = &*STORES;
    let store = if what % 2 == 0 { &stores.s3 } else { &stores.azure };
    stores.web.says(answers.to_vec());
    bounded(MOST, || ask(store, what / 2, answers.len()));
}

fn ask(store: &CloudStorage, what: u8, sent: usize) {
    let shelf = store.shelf().expect("a shelf");
    match what % 16 {
        0 => drop(store.read_versioned("HEAD")),
        1 => {
            if let Ok(body) = store.get("packs/x", 1000) {
                assert!(body.len() <= 1000);
            }
        }
        2 => {
            if let Ok(body) = store.get_range("packs/x", 5, 100) {
                assert_eq!(body.len(), 100);
            }
        }
        3 => {
            let mut len = 0;
            let whole = store.stream_range("packs/x", 5, 100, &mut |part| len += part.len());
            assert!(len <= 100 && (whole.is_err() || len == 100));
        }
        4 => drop(store.len("packs/x")),
        5 => {
            let mut names = 0;
            let _ = store.list("packs", &mut |name, _| names += name.len());
            assert!(names <= sent, "more names than came");
        }
        6 => drop(store.put("packs/x", Bytes::from_static(b"abc"))),
        7 => drop(store.swap("HEAD", Some(&Version("x".into())), Bytes::from_static(b"abc"))),
        8 => drop(store.delete("packs/x")),
        9 => drop((shelf.look("packs/x"), store.written_ms("packs/x"))),
        10 => drop(shelf.hazards()),
        11 => drop((shelf.is_versioned(), shelf.hidden())),
        12 => drop(shelf.remove_hidden("packs/x")),
        13 => drop(shelf.bring_back()),
        14 => drop(shelf.thaw("packs/x", 3, Retrieval::Standard)),
        _ => {
            let placing = Placing { class: Some("GLACIER".into()), locked_until: Some(4_000_000_000) };
            drop(shelf.put_as("packs/x", Bytes::from_static(b"abc"), &placing));
        }
    }
}
