//! Passwords are bytes. From a file or a command comes the first line without its end (`\n` or `\r\n`), from a variable
//! all of it, from a terminal what was typed: nothing else is trimmed, and no byte is replaced. The empty one is taken
//! from `--insecure-no-password` and its like alone: a file that is empty, or a command that prints nothing, is a
//! mistake that would make a repository which anybody can read.

use crate::exit::{Code, Failure};
use crate::{shell, small};
use engine::shown;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// A password. Its memory is wiped when it is dropped. It has no `Debug`, so that it cannot be printed by mistake.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(Zeroizing<Vec<u8>>);

/// What a password is for, which decides the flag that asks for the empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// To open the repository.
    Open,
    /// To open the repository that is copied from.
    OpenSource,
    /// For a new key slot.
    New,
}

impl Use {
    fn flag_for_none(self) -> &'static str {
        match self {
            Self::Open => "--insecure-no-password",
            Self::OpenSource => "--from-insecure-no-password",
            Self::New => "--new-insecure-no-password",
        }
    }
}

impl Password {
    /// The empty one, which was asked for.
    pub(crate) fn nothing() -> Self {
        Self(Zeroizing::new(vec![]))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What came from somewhere, unless it is empty.
    fn of(bytes: Zeroizing<Vec<u8>>, whence: &str, wanted: Use) -> Result<Self, Failure> {
        if bytes.is_empty() {
            return Err(Failure::new(format!(
                "{whence} is empty: an empty password is refused; {} if that is meant",
                wanted.flag_for_none()
            )));
        }
        Ok(Self(bytes))
    }

    /// The first line of a file.
    pub(crate) fn in_file(file: &Path, wanted: Use) -> Result<Self, Failure> {
        let bytes = small::secret(file)?;
        Self::of(first_line(bytes), &format!("the first line of {}", shown::path(file)), wanted)
    }

    /// The first line that a command for `/bin/sh` prints.
    pub(crate) fn from_command(command: &OsStr, passed: &[String], wanted: Use) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("password command: {error}"));
        let (status, printed) = shell::run(shell::command(command, passed))?.map_err(failed)?;
        if !status.success() {
            return Err(Failure::new(format!("the password command failed: {status}")));
        }
        Self::of(first_line(printed), "the first line of the password command's output", wanted)
    }

    /// All of a variable; none if it is not set or empty.
    pub(crate) fn in_variable(name: &str) -> Option<Self> {
        std::env::var_os(name)
            .map(OsString::into_vec)
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// Asks on the terminal, twice if it is to be confirmed.
    pub(crate) fn ask(prompt: &str, confirm: bool, wanted: Use) -> Result<Self, Failure> {
        let mut typed = prompted(prompt, wanted)?;
        if confirm && prompted("again: ", wanted)? != typed {
            return Err(Failure::new("the two passwords differ"));
        }
        Self::of(Zeroizing::new(std::mem::take(&mut *typed).into_bytes()), "what was typed", wanted)
    }
}

fn prompted(prompt: &str, wanted: Use) -> Result<Zeroizing<String>, Failure> {
    rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| match error.kind() {
        std::io::ErrorKind::Interrupted => engine::Error::Interrupted.into(),
        std::io::ErrorKind::InvalidData => {
            Failure::new("what was typed is not UTF-8: give such a password in a file")
        }
        // The variables have what opens the repository now.
        _ if wanted == Use::New => Failure::new(
            "no new password: give --new-password-file, --new-key-file, --new-kms or --new-insecure-no-password, or run on a \
             terminal",
        ),
        _ => Failure {
            code: Code::Failed,
            message:
                "no password: set ESKER_PASSWORD, ESKER_PASSWORD_FILE, ESKER_PASSWORD_COMMAND, ESKER_KEY_FILE or ESKER_KMS, \
                or run on a terminal"
                    .into(),
        },
    })
}

/// The bytes before the first `\n`, or `\r\n`; all where there is none.
pub(crate) fn first_line(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        bytes.truncate(end);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_taken_off_and_nothing_else() {
        for (bytes, expected) in [
            (&b"secret"[..], &b"secret"[..]),
            (b"secret\n", b"secret"),
            (b"secret\r\n", b"secret"),
            (b"secret\r", b"secret\r"),
            (b"secret\r\r\n", b"secret\r"),
            (b" secret \t\nsecond\n", b" secret \t"),
            (b"\n secret\n", b""),
            (b"\xff\xfe\0\n", b"\xff\xfe\0"),
            (b"", b""),
        ] {
            assert_eq!(first_line(bytes.to_vec().into()).as_slice(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_stay_different() {
        let from = |octal: &str| {
            Password::from_command(format!("printf '{octal}'").as_ref(), &[], Use::Open).ok().unwrap()
        };
        assert_eq!(from("\\377\\376").as_bytes(), b"\xff\xfe");
        assert!(from("\\377") != from("\\376") && from("\\351") != from("\\303\\251"));
    }

    #[test]
    fn nothing_is_no_password() {
        for command in ["true", "printf '\\nsecret'", "printf '\\r\\n'"] {
            let failure = Password::from_command(command.as_ref(), &[], Use::Open).err().unwrap();
            assert!(failure.message.contains("empty password is refused"), "{}", failure.message);
        }
        let new = Password::from_command("true".as_ref(), &[], Use::New).err().unwrap();
        assert!(new.message.contains("; --new-insecure-no-password if"), "{}", new.message);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\n secret\n").unwrap();
        assert!(Password::in_file(file.path(), Use::Open).is_err());
        std::fs::write(file.path(), " secret\n").unwrap();
        assert_eq!(Password::in_file(file.path(), Use::Open).ok().unwrap().as_bytes(), b" secret");
    }
}
