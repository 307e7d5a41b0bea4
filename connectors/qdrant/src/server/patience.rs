//! How long a server may take, and that it takes no longer.

use std::time::Duration;

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first answer, from a connection that stands.
    pub first: Duration,
    /// An answer to a question.
    pub answer: Duration,
    /// The first byte of a snapshot: the server writes to its disk before.
    pub begin: Duration,
    /// More bytes of a body.
    pub progress: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: connector_kit::handshake::SET_UP,
            answer: Duration::from_secs(120),
            begin: Duration::from_secs(600),
            progress: Duration::from_secs(120),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Came, Qdrant, Unsent, Upload};
    use engine::connector::Context;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    /// A server that says `words` to each of its clients, and nothing more; and what it is asked with little patience.
    fn asks(words: &'static str) -> Qdrant {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("qdrant+http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut held = vec![];
            for mut client in listener.incoming().map_while(Result::ok) {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(words.as_bytes());
                held.push(client);
            }
        });
        let short = Duration::from_millis(300);
        let patience = Patience { first: short, answer: short, begin: short, progress: short };
        let server = Qdrant::new(
            &url::Url::parse(&url).unwrap(),
            &Context::new(std::env::temp_dir(), jiff::Timestamp::now),
        )
        .unwrap();
        Qdrant { patience, ..server }
    }

    const HEAD: &str =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn silence_is_waited_for_and_no_longer() {
        let began = Instant::now();
        for words in
            ["", "HTTP/1.1 200 OK\r\nContent", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ver"]
        {
            let server = asks(words);
            for failed in [server.version().err(), server.collections().err()] {
                let why = failed.unwrap().error.to_string();
                assert!(why.contains(&server.address) && why.contains("no answer from"), "{words}: {why}");
            }
        }
        for (words, told) in [
            (HEAD.to_owned(), "sends nothing of the snapshot"),
            (format!("{HEAD}5\r\nabcde\r\n"), "sends nothing more"),
        ] {
            let server = asks(words.leak());
            let mut body = server.stream_snapshot("x", 0).ok().flatten().unwrap();
            let why = loop {
                match body.read(&mut [0; 64]) {
                    Ok(Came::End) => panic!("it has not ended"),
                    Ok(_) => {}
                    Err(why) => break why,
                }
            };
            assert!(why.contains(told) && why.contains(&server.address), "{why}");
        }
        // One that takes some of a body and no more; but one that waits for us is not silent.
        for (pause, len) in [(Duration::ZERO, 64 << 20), (Duration::from_secs(1), 1 << 20)] {
            let server = asks("");
            let upload = Upload { collection: "x", shard: 0, len, checksum: None, priority: "snapshot" };
            let done = server.upload(&upload, &|| false, |out| {
                std::thread::sleep(pause);
                match pause.is_zero() {
                    true => (0..64).try_for_each(|_| out.write_all(&vec![7; 1 << 20])).map_err(drop),
                    false => Err(()),
                }
            });
            match done {
                Err(Unsent::Failed(failed)) => {
                    assert!(pause.is_zero() && failed.error.why.contains("takes nothing more"));
                }
                Err(Unsent::Unread(())) => assert!(!pause.is_zero()),
                _ => panic!("it cannot be done"),
            }
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }

    #[test]
    fn who_has_had_enough_waits_no_longer() {
        let server = asks("");
        let stop = Arc::clone(&server.options.stop);
        let server = Qdrant { patience: Patience::default(), ..server };
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
        });
        let began = Instant::now();
        assert!(server.make_snapshot("x", 0).is_err());
        assert!(began.elapsed() < Duration::from_secs(1));
        // What is put in order has a moment, all of it together.
        assert!(server.delete_snapshot("x", 0, "y").is_err() && server.discard_collection("x").is_err());
        let took = began.elapsed();
        assert!(Duration::from_millis(1500) < took && took < Duration::from_millis(2500), "{took:?}");
    }
}
