//! The end of JSON: every bracket closed, every string ended. Other rules of the grammar are not checked.

use engine::source::end_mark::EndMark;

pub(super) struct JsonEndMark {
    /// Whether several values may follow each other, a line each.
    lines: bool,
    /// Open brackets.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    /// Whether a word or a number is open at the top.
    values: u64,
    error: Option<&'static str>,
    /// Of the bytes outside of strings, the last that is no white space.
    last: u8,
}

/// Deeper than any document.
const MAX_DEPTH: usize = 1 << 20;

impl JsonEndMark {
    pub(super) fn new(lines: bool) -> Self {
        Self { lines, open: vec![], in_string: false, escaped: false, values: 0, error: None, last: 0 }
    }

    fn byte(&mut self, byte: u8) {
        if self.in_string {
            match (self.escaped, byte) {
                (true, _) => self.escaped = false,
                (false, b'\\') => self.escaped = true,
                (false, b'"') => self.in_string = false,
                // A line end within a string: this is no JSON.
                (false, b'\n') => self.error = Some("a string that is not ended"),
                _ => {}
            }
            return;
        }
        let inside = !self.open.is_empty();
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            b'{' | b'[' => {
                // Before a value stands nothing, an opening bracket, a comma or a colon.
                if inside && !matches!(self.last, b'{' | b'[' | b',' | b':') || self.open.len() >= MAX_DEPTH {
                    self.error = Some("a bracket where none belongs");
                }
                self.values += u64::from(!inside);
                self.open.push(byte);
            }
            b'}' | b']' => {
                let opened = if byte == b'}' { b'{' } else { b'[' };
                if self.open.pop() != Some(opened) {
                    self.error = Some("a bracket that was not opened");
                }
            }
            b'"' if inside => {
                if !matches!(self.last, b'{' | b'[' | b',' | b':') {
                    self.error = Some("a string where none belongs");
                }
                self.in_string = true;
            }
            b',' | b':' if inside => {}
            // Words and numbers.
            b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.' | b'E' if inside => {
                if matches!(self.last, b'{' | b'}' | b']' | b'"') {
                    self.error = Some("a word where none belongs");
                }
            }
            _ => self.error = Some("something that is no JSON"),
        }
        self.last = byte;
    }
}

impl EndMark for JsonEndMark {
    fn see(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.error.is_some() {
                return;
            }
            self.byte(*byte);
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.error {
            Some(error) => Err(error.into()),
            None if !self.open.is_empty() => Err("it ends before its last bracket".into()),
            None if self.values == 0 => Err("it has no value".into()),
            None if self.values > 1 && !self.lines => Err("more than one value".into()),
            None => Ok(()),
        }
    }

    fn is_something_else(&self) -> bool {
        self.error.is_some()
    }
}
