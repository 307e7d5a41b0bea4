//! A server of lists for the example connector: pages of JSON, with a token, in memory.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Items of a page.
const PAGE: usize = 7;

/// What the tests and the server's threads share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) items: Mutex<BTreeMap<String, Value>>,
    /// Requests, a line each.
    pub(super) log: Mutex<Vec<String>>,
}

/// A running server; its threads end with the test's process.
pub(super) struct ListServer {
    pub(super) port: u16,
    pub(super) shared: Arc<Shared>,
}

/// The token that it asks for.
pub(super) const TOKEN: &str = "open-sesame-4711";

impl ListServer {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                std::thread::spawn(move || while serve(&client, &shared).is_some() {});
            }
        });
        Self { port, shared }
    }
}

/// Answers one request; `None` at the end of the connection.
fn serve(mut client: &TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(client);
    let mut request = String::new();
    reader.read_line(&mut request).ok().filter(|len| *len > 0)?;
    let (mut len, mut knows_token) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length: ") {
            len = value.parse().ok()?;
        }
        knows_token |= header.ends_with(&format!("Bearer {TOKEN}"));
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    shared.log.lock().unwrap().push(request.trim().to_owned());
    let target = request.split(' ').nth(1)?;
    let url = url_decoded(target.split_once('=')?.1);
    let (status, answer) = match (knows_token, request.starts_with("PUT")) {
        (false, _) => ("401 Unauthorized", json!({})),
        (true, true) => {
            shared.items.lock().unwrap().insert(url, serde_json::from_slice(&body).ok()?);
            ("200 OK", json!({}))
        }
        (true, false) => {
            let (number, items): (usize, _) = (url.parse().ok()?, shared.items.lock().unwrap().clone());
            // Not in the order of names.
            let page: Vec<Value> = items
                .iter()
                .rev()
                .skip(number * PAGE)
                .take(PAGE)
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect();
            let next = ((number + 1) * PAGE < items.len()).then_some(number + 1);
            ("200 OK", json!({"items": page, "next": next}))
        }
    };
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
    client.write_all((head + &answer).as_bytes()).ok()
}

/// The text of a query's value (application/x-www-form-urlencoded).
fn url_decoded(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
