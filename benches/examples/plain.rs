//! What a store takes and gives without esker: files uploaded and objects downloaded into files in parallel by the same
//! client library; and a proxy that adds a latency to every request. `benches/tiers.py` runs them.
//!
//! plain upload   ENDPOINT BUCKET PREFIX FOLDER CONNECTIONS
//! plain download ENDPOINT BUCKET PREFIX FOLDER CONNECTIONS
//! plain proxy    PORT TARGET-PORT MILLISECONDS

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ClientOptions, ObjectStore as _, ObjectStoreExt as _, PutPayload, path::Path};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["proxy", port, target, pause] => proxy(port.parse()?, target.parse()?, pause.parse()?),
        ["upload", endpoint, bucket, prefix, folder, connections] => {
            let files = files(folder.as_ref())?;
            let store = open(endpoint, bucket)?;
            timed(async {
                let uploads = files.into_iter().enumerate().map(|(number, file)| {
                    let path = Path::from(format!("{prefix}/{number}"));
                    let store = &store;
                    async move {
                        let body = tokio::fs::read(&file).await?;
                        let len = body.len();
                        store.put(&path, PutPayload::from(body)).await?;
                        Ok::<_, Box<dyn std::error::Error>>(len)
                    }
                });
                stream::iter(uploads).buffer_unordered(connections.parse()?).try_fold(0, add).await
            })
        }
        ["download", endpoint, bucket, prefix, folder, connections] => {
            let (store, folder) = (open(endpoint, bucket)?, std::path::PathBuf::from(folder));
            std::fs::create_dir_all(&folder)?;
            timed(async {
                let prefix = Path::from(prefix);
                let found: Vec<_> = store.list(Some(&prefix)).try_collect().await?;
                let downloads = found.into_iter().enumerate().map(|(number, meta)| {
                    let (store, file) = (&store, folder.join(number.to_string()));
                    async move {
                        let mut file = tokio::fs::File::create(file).await?;
                        let mut body = store.get(&meta.location).await?.into_stream();
                        let mut len = 0;
                        while let Some(bytes) = body.try_next().await? {
                            len += bytes.len();
                            tokio::io::AsyncWriteExt::write_all(&mut file, &bytes).await?;
                        }
                        tokio::io::AsyncWriteExt::flush(&mut file).await?;
                        Ok::<_, Box<dyn std::error::Error>>(len)
                    }
                });
                stream::iter(downloads).buffer_unordered(connections.parse()?).try_fold(0, add).await
            })
        }
        _ => Err("see the first lines of this file".into()),
    }
}

async fn add(sum: usize, len: usize) -> Outcome<usize> {
    Ok(sum + len)
}

fn timed(work: impl Future<Output = Outcome<usize>>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let start = Instant::now();
    let bytes = runtime.block_on(work)?;
    println!("{bytes} {}", start.elapsed().as_secs_f64());
    Ok(())
}

fn open(endpoint: &str, bucket: &str) -> Outcome<AmazonS3> {
    let http = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(120));
    Ok(AmazonS3Builder::from_env()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_allow_http(true)
        .with_client_options(http)
        .build()?)
}

fn files(folder: &std::path::Path) -> Outcome<Vec<std::path::PathBuf>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// Passes bytes on; what begins a request waits.
fn proxy(port: u16, target: u16, pause_ms: u64) -> Outcome<()> {
    for client in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let (client, server) = (client?, TcpStream::connect(("127.0.0.1", target))?);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        // Set when an answer has begun: what the client sends next is a new request.
        let answered = Arc::new(AtomicBool::new(true));
        let (from, to, asked) = (client.try_clone()?, server.try_clone()?, Arc::clone(&answered));
        std::thread::spawn(move || {
            pass(from, to, || {
                if asked.swap(false, Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(pause_ms));
                }
            });
        });
        std::thread::spawn(move || pass(server, client, || answered.store(true, Ordering::Relaxed)));
    }
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, before: impl Fn()) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(len) = from.read(&mut buffer) {
        before();
        if len == 0 || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
