//! A small S3 of our own, in memory, that can be told to behave badly: it keeps objects, compares and swaps, lists, and
//! knows no call for many deletes. It notes locks, and refuses those that are over by its own clock, which stands still. What its tricks do is what a broken or hostile store does.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// No answer.
    Silent,
    /// Headers of an answer of 100 kB, then a byte a second.
    Drips,
    /// An answer that says that it has 8 TB, and zeros without end.
    Huge,
    /// A page of a listing that is followed by another, for ever.
    Pages,
    /// The same without anything on the pages.
    EmptyPages,
    /// 503 for ever.
    Unavailable,
    /// 501, with a code.
    Refuses,
    /// Half of one answer to a listing, after which the connection ends.
    CutsOnce,
}

/// What the tests and the server's threads share.
#[derive(Default)]
struct Shared {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Until when objects are locked.
    locks: Mutex<BTreeMap<String, jiff::Timestamp>>,
    /// Whether it says that it was made with object lock.
    has_locks: Mutex<bool>,
    /// Method, a part of the target, and what is done then.
    trick: Mutex<Option<(&'static str, &'static str, Trick)>>,
    /// Requests that a trick was played on, and all requests for deletion of many.
    tricked: Mutex<u64>,
    bulk: Mutex<u64>,
}

/// A running store; its threads end with the test's process.
pub(crate) struct Bucket {
    port: u16,
    shared: Arc<Shared>,
}

impl Bucket {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                // Answers are written in parts: a later one waits for no acknowledgement of the first.
                client.set_nodelay(true).unwrap();
                std::thread::spawn(move || while serve(&client, &shared).unwrap_or(false) {});
            }
        });
        Self { port, shared }
    }

    pub(crate) fn place(&self) -> String {
        format!("s3:http://127.0.0.1:{}/bucket/folder", self.port)
    }

    /// The same server as Azure's service.
    pub(crate) fn azure_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/account", self.port)
    }

    /// Plays a trick on requests of `method` (any if empty) whose target contains `part`.
    pub(crate) fn play(&self, method: &'static str, part: &'static str, trick: Trick) {
        *self.shared.trick.lock().unwrap() = Some((method, part, trick));
        *self.shared.tricked.lock().unwrap() = 0;
    }

    pub(crate) fn behave(&self) {
        *self.shared.trick.lock().unwrap() = None;
    }

    /// How many requests the trick was played on.
    pub(crate) fn tricked(&self) -> u64 {
        *self.shared.tricked.lock().unwrap()
    }

    /// How many requests were for the deletion of many.
    pub(crate) fn bulk(&self) -> u64 {
        *self.shared.bulk.lock().unwrap()
    }

    /// One that was made with object lock.
    pub(crate) fn with_locks() -> Self {
        let bucket = Self::start();
        *bucket.shared.has_locks.lock().unwrap() = true;
        bucket
    }

    /// What its clock says, always.
    pub(crate) fn now() -> jiff::Timestamp {
        "2026-11-26T08:00:00Z".parse().unwrap()
    }

    /// Until when objects are locked, by their names.
    pub(crate) fn locks(&self) -> BTreeMap<String, jiff::Timestamp> {
        self.shared.locks.lock().unwrap().clone()
    }

    /// Names of all objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.shared.objects.lock().unwrap().keys().cloned().collect()
    }
}

fn answer(mut client: &TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let date = "Last-Modified: Thu, 26 Nov 2026 08:00:00 GMT\r\n";
    write!(client, "HTTP/1.1 {status}\r\n{date}{headers}Content-Length: {}\r\n\r\n", body.len())?;
    client.write_all(body)
}

fn tag(body: &[u8]) -> String {
    format!("\"{:016x}\"", BuildHasherDefault::<DefaultHasher>::default().hash_one(body))
}

fn play(mut client: &TcpStream, trick: Trick, range: Option<&str>) -> std::io::Result<()> {
    let ok = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nLast-Modified: Thu, 26 Nov 2026 08:00:00 GMT\r\n";
    match trick {
        Trick::Silent => std::thread::sleep(Duration::from_secs(600)),
        Trick::Drips => {
            let from = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
            match from {
                None => write!(client, "{ok}Content-Length: 100000\r\n\r\n")?,
                Some::<u64>(from) => {
                    let ok = ok.replace("200 OK", "206 Partial Content");
                    let left = 100_000 - from;
                    write!(
                        client,
                        "{ok}Content-Range: bytes {from}-99999/100000\r\nContent-Length: {left}\r\n\r\n"
                    )?;
                }
            }
            for _ in 0..600 {
                client.write_all(b"<")?;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Trick::Huge => {
            write!(client, "{ok}Content-Length: 8000000000000\r\n\r\n")?;
            loop {
                client.write_all(&[0; 1 << 16])?;
            }
        }
        Trick::Pages | Trick::EmptyPages => {
            let keys: String = (0..if trick == Trick::Pages { 1000 } else { 0 })
                .map(|number| {
                    let random = BuildHasherDefault::<DefaultHasher>::default().hash_one(number);
                    format!(
                        "<Contents><Key>folder/{random:064x}</Key><LastModified>2026-11-26T08:00:00.000Z\
                         </LastModified><Size>1</Size></Contents>"
                    )
                })
                .collect();
            let page = format!(
                "<ListBucketResult>{keys}<IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>more</NextContinuationToken></ListBucketResult>"
            );
            answer(client, "200 OK", "", page.as_bytes())?;
        }
        Trick::Unavailable => answer(client, "503 Slow Down", "", b"")?,
        Trick::Refuses | Trick::CutsOnce => {
            answer(client, "501 Not Implemented", "", b"<Error><Code>NotImplemented</Code></Error>")?;
        }
    }
    Ok(())
}

/// Answers one request; `false` when the connection is over.
fn serve(client: &TcpStream, shared: &Shared) -> std::io::Result<bool> {
    let mut reader = BufReader::new(client);
    let mut lines = vec![];
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        lines[1..].iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut words = lines[0].split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body = vec![0; header("content-length").map_or(0, |len| len.parse().unwrap())];
    let trick = *shared.trick.lock().unwrap();
    let mut cuts = false;
    if let Some((of, part, trick)) = trick
        && (of.is_empty() || of == method)
        && target.contains(part)
    {
        *shared.tricked.lock().unwrap() += 1;
        if trick == Trick::CutsOnce {
            *shared.trick.lock().unwrap() = None;
            cuts = true;
        } else {
            if trick != Trick::Silent {
                reader.read_exact(&mut body)?;
            }
            play(client, trick, header("range").as_deref())?;
            return Ok(true);
        }
    }
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let name = path.splitn(3, '/').nth(2).unwrap_or_default().to_owned();
    let mut objects = shared.objects.lock().unwrap();
    let found = objects.get(&name).cloned();
    let sent = String::from_utf8_lossy(&body).into_owned();
    let retention = sent.split("<RetainUntilDate>").nth(1).and_then(|rest| rest.split('<').next());
    let until = retention.map(str::to_owned).or_else(|| header("x-amz-object-lock-retain-until-date"));
    let until = until.map(|until| until.parse::<jiff::Timestamp>().unwrap());
    if until.is_some_and(|until| until <= Bucket::now()) {
        let why = b"<Error><Code>InvalidArgument</Code><Message>The retain until date must be in the future!</Message></Error>";
        answer(client, "400 Bad Request", "", why)?;
        return Ok(true);
    }
    let mut locks = shared.locks.lock().unwrap();
    let locked = locks.get(&name).map(|until| format!("x-amz-object-lock-retain-until-date: {until}\r\n"));
    let locked = locked.unwrap_or_default();
    match (method, query) {
        ("GET", "versioning=") if *shared.has_locks.lock().unwrap() => {
            let status = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
            answer(client, "200 OK", "", status)?;
        }
        ("PUT", "retention=") => {
            locks.extend(until.filter(|_| found.is_some()).map(|until| (name, until)));
            answer(client, "200 OK", "", b"")?;
        }
        ("GET", query) if query.contains("list-type=2") => {
            let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix="));
            let prefix = prefix.unwrap_or_default().replace("%2F", "/");
            let all: String = objects
                .iter()
                .filter(|(name, _)| name.starts_with(&prefix))
                .map(|(name, body)| {
                    format!(
                        "<Contents><Key>{name}</Key><LastModified>2026-11-26T08:00:00.000Z</LastModified>\
                         <Size>{}</Size></Contents>",
                        body.len()
                    )
                })
                .collect();
            let all = format!("<ListBucketResult>{all}<IsTruncated>false</IsTruncated></ListBucketResult>");
            if cuts {
                write!(&mut &*client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", all.len())?;
                (&mut &*client).write_all(&all.as_bytes()[..all.len() / 2])?;
                client.shutdown(std::net::Shutdown::Both)?;
                return Ok(false);
            }
            answer(client, "200 OK", "", all.as_bytes())?;
        }
        ("POST", query) if query.starts_with("delete") => {
            *shared.bulk.lock().unwrap() += 1;
            answer(client, "200 OK", "", b"")?;
        }
        (_, query) if !query.is_empty() => {
            answer(client, "501 Not Implemented", "", b"<Error><Code>NotImplemented</Code></Error>")?;
        }
        ("PUT", _) => {
            let stands = match (header("if-match"), header("if-none-match")) {
                (Some(wanted), _) => found.as_ref().is_some_and(|body| tag(body) == wanted),
                (_, Some(_)) => found.is_none(),
                _ => true,
            };
            if stands {
                let headers = format!("ETag: {}\r\n", tag(&body));
                locks.extend(until.map(|until| (name.clone(), until)));
                objects.insert(name, body);
                answer(client, "200 OK", &headers, b"")?;
            } else {
                answer(
                    client,
                    "412 Precondition Failed",
                    "",
                    b"<Error><Code>PreconditionFailed</Code></Error>",
                )?;
            }
        }
        ("DELETE", _) => {
            objects.remove(&name);
            write!(&mut &*client, "HTTP/1.1 204 No Content\r\n\r\n")?;
        }
        (_, _) => match found {
            None if method == "HEAD" => write!(&mut &*client, "HTTP/1.1 404 Not Found\r\n\r\n")?,
            None => answer(client, "404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>")?,
            Some(body) => {
                let whole = format!("ETag: {}\r\n", tag(&body));
                let range = header("range").and_then(|range| {
                    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
                    Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?.min(body.len() - 1)))
                });
                match range {
                    _ if method == "HEAD" => write!(
                        &mut &*client,
                        "HTTP/1.1 200 OK\r\nLast-Modified: Thu, 26 Nov 2026 08:00:00 GMT\r\n{whole}{locked}\
                         Content-Length: {}\r\n\r\n",
                        body.len()
                    )?,
                    Some((from, to)) if from <= to => {
                        let headers = format!("{whole}Content-Range: bytes {from}-{to}/{}\r\n", body.len());
                        answer(client, "206 Partial Content", &headers, &body[from..=to])?;
                    }
                    Some(_) => answer(client, "416 Range Not Satisfiable", "", b"")?,
                    None => answer(client, "200 OK", &whole, &body)?,
                }
            }
        },
    }
    Ok(true)
}
