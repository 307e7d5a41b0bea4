//! Option files: the one that MariaDB's programs get from us, and what we read of the user's own.
//! Source: MariaDB's documentation, "Configuring MariaDB with Option Files".

use rustix::fs::{MemfdFlags, Mode};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// Lines of a group.
pub(super) struct Lines {
    pub(super) lines: Vec<String>,
}

impl Lines {
    pub(super) fn new(group: &str) -> Self {
        Self { lines: vec![format!("[{group}]")] }
    }

    /// Adds an option, quoted as option files have it.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        let mut text = String::new();
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                other => text.push(other),
            }
        }
        self.lines.push(format!("{name}=\"{text}\""));
    }
}

/// A file in memory that children inherit.
pub(super) fn file(lines: &[String]) -> Result<File, String> {
    // The programs pass over a file that others could write to.
    rustix::fs::memfd_create("esker-login", MemfdFlags::empty())
        .and_then(|file| rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map(|()| File::from(file)))
        .map_err(std::io::Error::from)
        .and_then(|mut file| {
            file.write_all((lines.join("\n") + "\n").as_bytes())?;
            Ok(file)
        })
        .map_err(|error| format!("cannot write a file for the login: {error}"))
}

/// Who the user is, by a file of his own.
#[derive(Default, Debug, PartialEq)]
pub(super) struct UserFile {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

/// `[client]` of `~/.my.cnf`.
pub(super) fn user_file(home: Option<&String>) -> Result<UserFile, String> {
    let Some(home) = home else { return Ok(UserFile::default()) };
    let path = Path::new(home).join(".my.cnf");
    match std::fs::read(&path) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(UserFile::default())
        }
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn parse(text: &str) -> UserFile {
    let mut found = UserFile::default();
    let mut is_client = false;
    for line in text.lines().map(str::trim) {
        if let Some(group) = line.strip_prefix('[') {
            is_client = group.split(']').next().is_some_and(|group| group.trim() == "client");
        } else if let Some((key, value)) = line.split_once('=')
            && is_client
        {
            match key.trim() {
                "user" => found.user = Some(value_of(value)),
                "password" => found.password = Some(value_of(value)),
                _ => {}
            }
        }
    }
    found
}

/// A value: up to a comment, without quotes, with its escapes resolved.
fn value_of(text: &str) -> String {
    let text = text.trim_start();
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''));
    let mut characters = text.chars().skip(usize::from(quote.is_some())).peekable();
    let mut value = String::new();
    while let Some(character) = characters.next() {
        match character {
            '#' if quote.is_none() => break,
            other if Some(other) == quote => break,
            '\\' => match characters.next() {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some('b') => value.push('\u{8}'),
                Some('s') => value.push(' '),
                Some(other @ ('\\' | '"' | '\'')) => value.push(other),
                Some(other) => value.extend(['\\', other]),
                None => value.push('\\'),
            },
            other => value.push(other),
        }
    }
    if quote.is_none() {
        value.truncate(value.trim_end().len());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_users_file_only_user_and_password_of_client() {
        let text = "user=x\n[mysqld]\nuser=mysql\n[client]\nport=7\n# password=no\nuser = keeper # me\npassword='ses\"a\\\\me#'\n[mysql]\npassword=z\n";
        let expected = UserFile { user: Some("keeper".into()), password: Some("ses\"a\\me#".into()) };
        assert_eq!(parse(text), expected);
        assert_eq!(parse("[client]\npassword=\"a b\\n\"").password.as_deref(), Some("a b\n"));
        assert_eq!(parse("[client]\npassword"), UserFile::default());
    }

    #[test]
    fn a_value_comes_back_as_it_was() {
        for value in ["", "plain", "a\"b'c\\d#e;f", " blanks ", "line\nfeed\ttab\rend\\"] {
            let mut lines = Lines::new("client");
            lines.add("password", value);
            assert_eq!(parse(&lines.lines.join("\n")).password.as_deref(), Some(value));
        }
    }
}
