//! A client's connection: commands of the library, sent and answered over our own link, so that a signal ends every wait
//! and every answer has a bound. Source: "Redis serialization protocol specification" (redis.io/docs), version 2.

use super::link::{Link, Wire};
use engine::log;
use redis::{Cmd, ConnectionLike, RedisResult, Value};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::time::Duration;

/// Memory that one answer may take. A value of more than 512 MiB cannot be given back to a server either, unless its
/// `proto-max-bulk-len` is raised.
const MAX_ANSWER: u64 = 1 << 30;
/// The same of what is no value of a key.
const MAX_OTHER: u64 = 64 << 20;
/// Longest line: a number, a status, an error.
const MAX_LINE: u64 = 64 << 10;
/// Deepest nesting of lists; the answers of the commands that are sent have two.
const MAX_DEPTH: u32 = 8;
/// What an element takes beside its bytes.
const PER_ELEMENT: u64 = 64;
/// Memory that is taken for a text before it came.
const FIRST: u64 = 1 << 20;
/// The rate that an answer has to come with, in bytes a second, beside the time for its first byte.
const RATE: u64 = 8 << 10;

/// The connection, logged in.
pub struct Client {
    link: Link,
    /// Longest wait for an answer.
    patience: Duration,
}

impl Client {
    pub(super) fn new(
        mut link: Link,
        patience: Duration,
    ) -> std::result::Result<Self, engine::source::SourceError> {
        link.set_patience(patience)?;
        Ok(Self { link, patience })
    }

    /// The addresses of both ends, ours first; `None` of a Unix socket.
    pub(crate) fn ends(&mut self) -> Option<(std::net::SocketAddr, std::net::SocketAddr)> {
        self.link.ends()
    }

    /// Sends commands without waiting for their answers.
    ///
    /// # Errors
    /// Of the connection.
    pub fn send(&mut self, commands: &[u8]) -> RedisResult<()> {
        let asked = log::asked();
        let sent = self.put(commands);
        asked.told("redis", || format!("{}, {} bytes sent", name(commands), commands.len()), &sent);
        sent
    }

    fn put(&mut self, commands: &[u8]) -> RedisResult<()> {
        self.link.waiting().asked();
        let wire = self.link.wire();
        Ok(wire.write_all(commands).and_then(|()| wire.flush())?)
    }

    /// The next answer; a refusal is a [`Value::ServerError`].
    ///
    /// # Errors
    /// Of the connection, and of an answer that is none or has no end.
    pub fn answer(&mut self) -> RedisResult<Value> {
        self.answer_of(MAX_OTHER)
    }

    fn answer_of(&mut self, most: u64) -> RedisResult<Value> {
        let patience = self.patience;
        let value = Reading { stream: self.link.stream(), patience, room: most }.answer();
        self.link.waiting().set_deadline(None);
        value
    }
}

/// The answer that some bytes begin with, as from a server that says nothing else.
///
/// # Errors
/// If they are no answer, or one that takes more than 64 MiB.
pub fn parse_answer(mut bytes: &[u8]) -> RedisResult<Value> {
    Reading { stream: &mut bytes, patience: Duration::ZERO, room: MAX_OTHER }.answer()
}

/// What an answer is read from, in a time.
trait Timed: BufRead {
    /// From now on all must come within so long.
    fn set_deadline(&mut self, limit: Duration);
}

impl Timed for BufReader<Wire> {
    fn set_deadline(&mut self, limit: Duration) {
        self.get_mut().waiting().set_deadline(Some(limit));
    }
}

impl Timed for &[u8] {
    fn set_deadline(&mut self, _: Duration) {}
}

/// An answer that is read.
struct Reading<'a, S> {
    stream: &'a mut S,
    patience: Duration,
    /// Memory that it may still take.
    room: u64,
}

impl<S: Timed> Reading<'_, S> {
    fn answer(mut self) -> RedisResult<Value> {
        self.allow(0);
        self.value(0)
    }

    /// Gives the rest of an answer the time for so many more bytes.
    fn allow(&mut self, bytes: u64) {
        self.stream.set_deadline(self.patience + Duration::from_secs(bytes / RATE));
    }

    fn take(&mut self, len: u64) -> Result<()> {
        self.room = self.room.checked_sub(len).ok_or_else(too_long)?;
        Ok(())
    }

    fn value(&mut self, depth: u32) -> RedisResult<Value> {
        self.take(PER_ELEMENT)?;
        let line = self.line()?;
        let Some((kind, rest)) = line.split_first() else { return Err(no_answer().into()) };
        let number = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
        Ok(match kind {
            b'+' if rest == b"OK" => Value::Okay,
            b'+' => Value::SimpleString(String::from_utf8_lossy(rest).into_owned()),
            // The library knows what its errors look like.
            b'-' => redis::parse_redis_value(&[&line, &b"\r\n"[..]].concat())?,
            b':' => Value::Int(number().ok_or_else(no_answer)?),
            b'$' | b'*' if rest == b"-1" => Value::Nil,
            b'$' => {
                let len = number().and_then(|len| u64::try_from(len).ok()).ok_or_else(no_answer)?;
                self.take(len)?;
                self.allow(len);
                Value::BulkString(self.text(len)?)
            }
            b'*' if depth < MAX_DEPTH => {
                let count = number().and_then(|count| u64::try_from(count).ok()).ok_or_else(no_answer)?;
                if count.checked_mul(PER_ELEMENT).is_none_or(|bytes| bytes > self.room) {
                    return Err(too_long().into());
                }
                self.allow(count * PER_ELEMENT);
                let mut all = vec![];
                for _ in 0..count {
                    all.push(self.value(depth + 1)?);
                }
                Value::Array(all)
            }
            b'*' => return Err(bad(format!("lists in it are nested deeper than {MAX_DEPTH}")).into()),
            _ => return Err(no_answer().into()),
        })
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = vec![];
        self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(line.to_vec()),
            None if line.len() as u64 == MAX_LINE => {
                Err(bad(format!("a line in it has more than {MAX_LINE} bytes")))
            }
            None if line.ends_with(b"\n") => Err(no_answer()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// A text of so many bytes, and the line's end after it.
    fn text(&mut self, len: u64) -> Result<Vec<u8>> {
        let mut text = Vec::with_capacity(usize::try_from((len + 2).min(FIRST)).unwrap_or_default());
        self.stream.by_ref().take(len + 2).read_to_end(&mut text)?;
        if text.len() as u64 != len + 2 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if !text.ends_with(b"\r\n") {
            return Err(no_answer());
        }
        text.truncate(text.len() - 2);
        Ok(text)
    }
}

fn bad(why: String) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the server's answer cannot be taken: {why}"))
}

fn no_answer() -> Error {
    bad("this is no answer that a Redis gives here".into())
}

fn too_long() -> Error {
    bad(format!("it takes more than {} MiB, or {} MiB for a value", MAX_OTHER >> 20, MAX_ANSWER >> 20))
}

/// The first command of those that were packed (RESP: its words, each with its length), without its arguments: they are
/// keys, values and passwords.
fn name(commands: &[u8]) -> String {
    let word = commands.split(|byte| *byte == b'\n').nth(2).unwrap_or_default();
    String::from_utf8_lossy(word.trim_ascii()).to_ascii_uppercase()
}

/// Whether a command asks for values of keys.
fn asks_for_values(commands: &[u8]) -> bool {
    commands.windows(6).any(|some| some == b"\r\nDUMP")
}

impl ConnectionLike for Client {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        let asked = log::asked();
        let most = if asks_for_values(command) { MAX_ANSWER } else { MAX_OTHER };
        let answer = self.put(command).and_then(|()| self.answer_of(most));
        asked.told("redis", || name(command), &answer);
        answer
    }

    fn req_packed_commands(
        &mut self,
        commands: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let asked = log::asked();
        let most = if asks_for_values(commands) { MAX_ANSWER } else { MAX_OTHER };
        let answers = self.put(commands).and_then(|()| {
            let mut all = vec![];
            for at in 0..offset.saturating_add(count) {
                let value = self.answer_of(most)?;
                if at >= offset {
                    all.push(value);
                }
            }
            Ok(all)
        });
        asked.told("redis", || format!("{} and others, {count} in all", name(commands)), &answers);
        answers
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        redis::Cmd::new().arg("PING").query::<()>(self).is_ok()
    }

    fn is_open(&self) -> bool {
        true
    }

    fn req_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.req_packed_command(&command.get_packed_command())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Server;
    use engine::connector::Context;
    use std::net::TcpListener;

    /// What a client makes of an answer.
    fn answered(answer: &[u8]) -> RedisResult<Value> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let server =
            Server::new(&url.parse().unwrap(), &Context::new(std::env::temp_dir(), jiff::Timestamp::now))
                .unwrap();
        let answer = [b"+PONG\r\n", answer].concat();
        let theirs = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(&answer);
            // The client may have had enough.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        let answered = server.connect().unwrap().answer();
        theirs.join().unwrap();
        answered
    }

    #[test]
    fn answers_are_read() {
        let text = |text: &str| Value::BulkString(text.into());
        for (answer, value) in [
            ("+OK\r\n", Value::Okay),
            ("+odd one\r\n", Value::SimpleString("odd one".into())),
            (":-7\r\n", Value::Int(-7)),
            ("$-1\r\n", Value::Nil),
            ("*-1\r\n", Value::Nil),
            ("$3\r\na\r\n\r\n", text("a\r\n")),
            ("*2\r\n*1\r\n:1\r\n$0\r\n\r\n", Value::Array(vec![Value::Array(vec![Value::Int(1)]), text("")])),
        ] {
            assert_eq!(answered(answer.as_bytes()).unwrap(), value, "{answer:?}");
        }
        let refused = answered(b"-ERR no such thing\r\n").unwrap().extract_error().unwrap_err();
        assert_eq!((refused.code(), refused.detail()), (Some("ERR"), Some("no such thing")));
    }

    #[test]
    fn answers_that_are_none_are_errors() {
        let deep = "*1\r\n".repeat(1_000_000);
        let long = "x".repeat(1_000_000);
        for (answer, words) in [
            ("$99999999999\r\nabc", "more than 64 MiB"),
            ("$18446744073709551615\r\n", "no answer"),
            ("$-7\r\n", "no answer"),
            ("*99999999999\r\n", "more than 64 MiB"),
            ("*2000000\r\n", "more than 64 MiB"),
            (":9223372036854775808\r\n", "no answer"),
            ("$3\r\nabcde", "no answer"),
            ("HTTP/1.1 400 Bad Request\r\n", "no answer"),
            ("\r\n", "no answer"),
            (&deep, "nested deeper"),
            (&format!("+{long}\r\n"), "more than 65536 bytes"),
            ("$3\r\nab", ""),
            ("*2\r\n:1\r\n", ""),
            ("", ""),
        ] {
            let told = answered(answer.as_bytes()).unwrap_err().to_string();
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
