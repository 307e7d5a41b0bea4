//! Commands as Redis writes them to replicas and to append-only files: where each ends, what it is, and whether
//! a transaction is open. Nothing is kept of their arguments but the beginning of the first, and values in RDB format. Source: "Redis
//! serialization protocol specification" (redis.io/docs), `aof.c` for annotations, redis.io/commands/restore.

/// A complete command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Its name in upper case, cut after 32 bytes.
    pub name: Vec<u8>,
    /// Its first argument, cut after 32 bytes.
    pub first: Vec<u8>,
    /// The value that a `RESTORE` brings, as `DUMP` gives it, cut after [`MAX_PAYLOAD`] bytes; of others nothing.
    pub payload: Vec<u8>,
}

/// What is kept of the value of a `RESTORE`, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 20;

impl Command {
    /// Whether it brings a value as `DUMP` gives it: its key, its time to live, and the value.
    #[must_use]
    pub fn is_restore(&self) -> bool {
        [&b"RESTORE"[..], b"RESTORE-ASKING"].iter().any(|name| self.name.eq_ignore_ascii_case(name))
    }
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A command or an annotation.
    #[default]
    Start,
    /// The length of a word; so many are left.
    Len { words: u64 },
    /// So many bytes of a word and its line end; so many words are left after it.
    Word { bytes: u64, words: u64 },
}

/// Reads commands however they are cut up.
#[derive(Clone, Debug, Default)]
pub struct Resp {
    state: State,
    line: Vec<u8>,
    current: Command,
    /// Words of the current command so far.
    word: u64,
    in_transaction: bool,
    /// Number of bytes so far.
    offset: u64,
}

/// Longest line: a number, or an annotation.
const MAX_LINE: usize = 1024;
/// What is kept of a name.
const KEPT: usize = 32;
/// `proto-max-bulk-len` and the number of words that Redis allows, with room.
const MAX_BULK: u64 = 4 << 30;
const MAX_WORDS: u64 = 64 << 20;

impl Resp {
    /// Reads on. Calls `each` at the end of every command, with the number of bytes of `bytes` up to there.
    ///
    /// # Errors
    /// What is wrong, and where, if these are no commands.
    pub fn feed(&mut self, bytes: &[u8], each: &mut dyn FnMut(usize, &Command)) -> Result<(), String> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            match self.state {
                State::Word { bytes: left, words } => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.keep(&bytes[at..at + len], left);
                    at += len;
                    self.offset += len as u64;
                    if len as u64 == left {
                        self.word += 1;
                        self.next_word(words, at, each);
                    } else {
                        self.state = State::Word { bytes: left - len as u64, words };
                    }
                }
                _ => {
                    at += 1;
                    self.offset += 1;
                    self.line.push(byte);
                    if byte == b'\n' {
                        let line = std::mem::take(&mut self.line);
                        self.line_ended(line.trim_ascii_end())?;
                        self.line = line;
                        self.line.clear();
                    } else if self.line.len() > MAX_LINE {
                        return Err(format!("no command at byte {}", self.offset));
                    }
                }
            }
        }
        Ok(())
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<(), String> {
        let bad = |offset: u64| format!("no command at byte {offset}");
        let number = |most: u64| -> Result<u64, String> {
            let digits = std::str::from_utf8(line.get(1..).unwrap_or_default()).ok();
            digits
                .and_then(|digits| digits.parse().ok())
                .filter(|number| *number <= most)
                .ok_or(bad(self.offset))
        };
        match (self.state, line.first()) {
            // An empty line is a master's sign of life; annotations tell the time in append-only files.
            (State::Start, None | Some(b'#')) => Ok(()),
            (State::Start, Some(b'*')) => {
                let words = number(MAX_WORDS)?;
                self.current = Command::default();
                self.word = 0;
                if words == 0 {
                    return Err(bad(self.offset));
                }
                self.state = State::Len { words };
                Ok(())
            }
            (State::Len { words }, Some(b'$')) => {
                self.state = State::Word { bytes: number(MAX_BULK)? + 2, words: words - 1 };
                Ok(())
            }
            _ => Err(bad(self.offset)),
        }
    }

    /// Remembers the beginnings of the first two words; `left` bytes of the word were to come, its line end
    /// among them.
    fn keep(&mut self, bytes: &[u8], left: u64) {
        let own = usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX).min(bytes.len());
        let kept = match self.word {
            0 => &mut self.current.name,
            1 => &mut self.current.first,
            3 if self.current.is_restore() => {
                let room = MAX_PAYLOAD.saturating_sub(self.current.payload.len()).min(own);
                self.current.payload.extend_from_slice(&bytes[..room]);
                return;
            }
            _ => return,
        };
        let room = KEPT.saturating_sub(kept.len()).min(own);
        kept.extend_from_slice(&bytes[..room]);
    }

    fn next_word(&mut self, words: u64, at: usize, each: &mut dyn FnMut(usize, &Command)) {
        if words > 0 {
            self.state = State::Len { words };
            return;
        }
        self.state = State::Start;
        self.current.name.make_ascii_uppercase();
        match self.current.name.as_slice() {
            b"MULTI" => self.in_transaction = true,
            b"EXEC" | b"DISCARD" => self.in_transaction = false,
            _ => {}
        }
        each(at, &self.current);
    }

    /// Whether a transaction was begun and not ended.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Whether the last byte ended a command, and no transaction is open.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.state == State::Start && self.line.is_empty() && !self.in_transaction
    }
}

/// A command as it is sent.
#[must_use]
pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_any_cut() {
        let mut bytes = b"\n#TS:1700000000\r\n".to_vec();
        bytes.extend(encode(&[b"select", b"3"]));
        bytes.extend(encode(&[b"MULTI"]));
        bytes.extend(encode(&[b"SET", b"key\r\n*1", b""]));
        let inside = bytes.len();
        bytes.extend(encode(&[b"EXEC"]));
        let names = |bytes: &[u8], cut: usize| {
            let mut resp = Resp::default();
            let mut all = vec![];
            let mut before = 0;
            for part in bytes.chunks(cut) {
                resp.feed(part, &mut |at, command| all.push((before + at, command.clone()))).unwrap();
                before += part.len();
            }
            (all, resp.is_whole(), resp.in_transaction())
        };
        let (all, whole, _) = names(&bytes, bytes.len());
        let words: Vec<_> =
            all.iter().map(|(_, command)| String::from_utf8(command.name.clone()).unwrap()).collect();
        assert_eq!(words, ["SELECT", "MULTI", "SET", "EXEC"]);
        assert_eq!((all[0].1.first.as_slice(), all[3].0, whole), (&b"3"[..], bytes.len(), true));
        for cut in 1..bytes.len() {
            assert_eq!(names(&bytes, cut).0, all, "in parts of {cut}");
        }
        let ends: Vec<_> = all.iter().map(|(at, _)| *at).collect();
        for len in 17..bytes.len() {
            let (_, whole, open) = names(&bytes[..len], 7);
            assert_eq!(whole, len == ends[0] || len == 17, "cut at {len}");
            assert_eq!(open, len >= ends[1], "{len} {inside}");
        }
    }

    #[test]
    fn what_is_no_command() {
        for bad in [&b"GET a\r\n"[..], b"*0\r\n", b"*x\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$-1\r\n"] {
            assert!(Resp::default().feed(bad, &mut |_, _| {}).is_err());
        }
        assert!(Resp::default().feed(&[b'*'; 2000], &mut |_, _| {}).is_err());
    }
}
