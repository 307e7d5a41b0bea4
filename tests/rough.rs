//! A store that fails: a fifth of all requests is answered with a 5xx, one body in twenty is cut off, one name in
//! twenty is missing from a listing, connections are reset in the middle of an upload or fall silent. Commands do their
//! work or say that they did not. And a slow line, over which a first backup takes as long as it takes.

use crate::harness::{Process, Repo, expect, free_port, noise, wait_for};
use crate::seaweed::Weed;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What was done to requests. How many there are depends on the time that things take, so what befalls few of them is
/// counted among those: it befalls some in every run.
#[derive(Default)]
struct Toll {
    requests: AtomicU64,
    /// Uploads of packs, and names in listings.
    uploads: AtomicU64,
    names: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    hidden: AtomicU64,
    reset: AtomicU64,
    stalled: AtomicU64,
}

/// Longest time without progress, in seconds, for commands against such a store.
const PATIENCE: u64 = 2;

/// Stands between the client and the store, one thread for each connection.
struct Proxy {
    port: u16,
    toll: Arc<Toll>,
}

impl Proxy {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, toll) = (listener.local_addr().unwrap().port(), Arc::<Toll>::default());
        let shared = Arc::clone(&toll);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let toll = Arc::clone(&shared);
                std::thread::spawn(move || while pass_on(&client, to, &toll).unwrap_or(false) {});
            }
        });
        Self { port, toll }
    }

    fn counts(&self) -> [u64; 6] {
        let Toll { requests, refused, cut, hidden, reset, stalled, .. } = &*self.toll;
        [requests, refused, cut, hidden, reset, stalled].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Status or request line, and headers.
struct Head {
    lines: Vec<String>,
}

impl Head {
    fn read(stream: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Self>> {
        let mut lines = vec![];
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            match line.trim_end() {
                "" => return Ok(Some(Self { lines })),
                line => lines.push(line.to_owned()),
            }
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.lines[1..].iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn without(&self, names: &[&str]) -> String {
        let keep = |line: &&String| {
            let key = line.split(':').next().unwrap_or_default();
            names.iter().all(|name| !key.eq_ignore_ascii_case(name))
        };
        self.lines.iter().filter(keep).map(|line| format!("{line}\r\n")).collect()
    }
}

/// Passes one request on, and its answer back, or not; `false` when the connection is over.
fn pass_on(client: &TcpStream, to: u16, toll: &Toll) -> std::io::Result<bool> {
    let mut from_client = BufReader::new(client);
    let mut to_client = client;
    let Some(request) = Head::read(&mut from_client)? else { return Ok(false) };
    let mut body = vec![0; request.header("content-length").map_or(0, |len| len.parse().unwrap())];
    let number = toll.requests.fetch_add(1, Ordering::Relaxed);
    let dice = u64::from_le_bytes(noise(number + 77, 8).try_into().unwrap());
    if body.len() > 100_000 && toll.uploads.fetch_add(1, Ordering::Relaxed) % 4 == 1 {
        toll.reset.fetch_add(1, Ordering::Relaxed);
        from_client.read_exact(&mut body[..50_000])?;
        // What was not read makes it a reset.
        return Ok(false);
    }
    from_client.read_exact(&mut body)?;
    if number % 80 == 40 {
        toll.stalled.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(PATIENCE + 2));
        return Ok(false);
    }
    let refuse = |to_client: &mut &TcpStream| {
        toll.refused.fetch_add(1, Ordering::Relaxed);
        let status = ["500 Internal Server Error", "503 Slow Down"][(dice / 1000 % 2) as usize];
        write!(to_client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").map(|()| true)
    };
    // Half of the refused requests never reach the store; the others do, and nobody hears of it.
    if dice % 100 < 10 {
        return refuse(&mut to_client);
    }
    let store = TcpStream::connect(("127.0.0.1", to))?;
    let mut to_store = &store;
    write!(to_store, "{}Connection: close\r\n\r\n", request.without(&["connection", "expect"]))?;
    to_store.write_all(&body)?;
    let mut from_store = BufReader::new(&store);
    let Some(answer) = Head::read(&mut from_store)? else { return Ok(false) };
    let head_only = request.lines[0].starts_with("HEAD ");
    let mut body = vec![];
    from_store.read_to_end(&mut body)?;
    if dice % 100 < 20 {
        return refuse(&mut to_client);
    }
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        body = unchunk(&body);
    }
    if request.lines[0].contains("list-type=2") {
        body = hide(&body, toll);
    }
    let cut = !body.is_empty() && dice / 100 % 100 < 5;
    let len = match answer.header("content-length") {
        Some(len) if head_only => len.to_owned(),
        _ => body.len().to_string(),
    };
    let headers = answer.without(&["content-length", "transfer-encoding", "connection"]);
    write!(to_client, "{headers}Content-Length: {len}\r\n\r\n")?;
    if cut {
        toll.cut.fetch_add(1, Ordering::Relaxed);
        to_client.write_all(&body[..body.len() / 2])?;
        return client.shutdown(std::net::Shutdown::Both).map(|()| false);
    }
    to_client.write_all(&body)?;
    Ok(true)
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut plain = vec![];
    while let Some(end) = body.windows(2).position(|bytes| bytes == b"\r\n") {
        let size =
            std::str::from_utf8(&body[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(size) = size.filter(|size| *size > 0) else { break };
        plain.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    plain
}

/// Leaves one name in twenty out of a listing.
fn hide(body: &[u8], toll: &Toll) -> Vec<u8> {
    let text = String::from_utf8_lossy(body);
    let mut parts = text.split("<Contents>");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("</Contents>") {
            Some((_, rest)) if toll.names.fetch_add(1, Ordering::Relaxed) % 20 == 10 => {
                toll.hidden.fetch_add(1, Ordering::Relaxed);
                out.push_str(rest);
            }
            _ => {
                out.push_str("<Contents>");
                out.push_str(part);
            }
        }
    }
    out.into_bytes()
}

/// `ESKER_ROUGH_NIGHTS` for longer runs (`make rough`).
#[test]
fn a_store_that_fails_is_survived_or_told() {
    let weed = Weed::start();
    let proxy = Proxy::start(weed.options("").endpoint.rsplit(':').next().unwrap().parse().unwrap());
    // Made, and looked at in the end, without the trouble.
    let calm = weed.repo("rough");
    let rough = Repo::again(&calm, format!("s3:http://127.0.0.1:{}/bk1/rough", proxy.port));
    let patience = format!("s3.timeout={PATIENCE}");
    let nights = std::env::var("ESKER_ROUGH_NIGHTS").map_or(6, |text| text.parse().unwrap());
    let (mut kept, mut done, mut failed) = (vec![], 0, 0);
    for night in 0..nights {
        // Pieces that come again, and new ones.
        let data = [noise(night / 4, 300_000), noise(1000 + night, 200_000)].concat();
        let output = rough.feed(["-o", &patience, "--json", "backup", "--stdin", "--pack-size", "1"], &data);
        match output.status.code() {
            Some(0) => {
                let text = expect(&output, 0);
                let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
                kept.push((last["snapshot_id"].as_str().unwrap().to_owned(), data));
                done += 1;
            }
            // Loudly.
            code => {
                assert!(code.is_some_and(|code| code != 0) && !output.stderr.is_empty(), "{code:?}");
                println!("night {night}: {code:?} {}", String::from_utf8_lossy(&output.stderr));
                failed += 1;
            }
        }
        if night % 4 == 3 && kept.len() > 2 {
            let (oldest, _) = kept.remove(0);
            for args in [&["forget", oldest.as_str()][..], &["prune", "--max-unused", "0"]] {
                let output = rough.run(["-o", &patience].iter().chain(args));
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(
                    !stderr.contains("panicked") && (output.status.success() || !stderr.is_empty()),
                    "{stderr}"
                );
            }
        }
        // What is read is right, or is not read.
        if let Some((id, data)) = kept.last() {
            let output = rough.run(["-o", &patience, "dump", id, "stdin"]);
            assert!(!output.status.success() || output.stdout == *data, "wrong bytes of {id}");
        }
    }
    for (id, data) in &kept {
        let output = calm.run(["dump", id, "stdin"]);
        expect(&output, 0);
        assert!(output.stdout == *data, "snapshot {id}");
    }
    calm.ok(["check", "--read-data"]);
    calm.ok(["prune"]);
    calm.ok(["check", "--read-data"]);
    let [requests, refused, cut, hidden, reset, stalled] = proxy.counts();
    println!(
        "{requests} requests, {refused} answered 5xx, {cut} bodies cut, {hidden} names hidden, {reset} uploads reset, \
         {stalled} requests stalled: {done} backups done, \
         {failed} failed and said so"
    );
    assert!(
        refused > requests / 7 && cut > 0 && hidden > 0 && reset > 0 && stalled > 0 && done > nights / 2,
        "{requests} {refused} {cut} {hidden} {reset} {stalled} {done}"
    );
}

/// Bytes a second of the line.
const RATE: u64 = 450_000;

/// `ESKER_SLOW_MB` for more than 8 MB (`make rough`: 200).
#[test]
fn a_slow_line_takes_its_time() {
    let weed = Weed::start();
    let calm = weed.repo("slow");
    let port = free_port();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/slow_line.py");
    let mut line = std::process::Command::new("python3");
    line.arg(script).args([port, weed.port()].map(|port| port.to_string())).arg(RATE.to_string());
    let _line = Process::start(&mut line);
    wait_for("line", 10, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let slow = Repo::again(&calm, format!("s3:http://127.0.0.1:{port}/bk1/slow"));
    let megabytes = std::env::var("ESKER_SLOW_MB").map_or(8, |text| text.parse().unwrap());
    let data = noise(5, megabytes * 1_000_000);
    let began = Instant::now();
    // Each upload takes longer than nothing may move.
    let patience = format!("s3.timeout={}", PATIENCE + 1);
    let output = slow.feed(["-o", &patience, "backup", "--stdin", "--stdin-filename", "all"], &data);
    expect(&output, 0);
    let seconds = began.elapsed().as_secs_f64();
    println!("{megabytes} MB over {RATE} bytes/s: {seconds:.0} s");
    let least = data.len() as f64 / RATE as f64;
    assert!(seconds > least * 0.9, "the line was not slow: {seconds} s of at least {least}");
    let output = calm.run(["dump", "latest", "all"]);
    assert!(output.stdout == data);
}
