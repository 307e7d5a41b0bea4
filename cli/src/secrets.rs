//! What opens a repository: a password, a key of 256 bits, shares of one, or a key service. Keys and shares are read from files, in any of
//! their forms, or group by group from a terminal.

use crate::exit::Failure;
use crate::passwords::Password;
use crate::small;
use crate::trust::warn_of_others;
use chunkstore::ObjectId;
use chunkstore::keys::{
    KeyText, KeyTextError, Method, NewSlot, RawKey, Share, Shares, SlotHeader, SlotSecret,
};
use engine::shown;
use keyservices::ServiceSecret;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Most groups of words of one text.
const MOST_GROUPS: usize = 12;
/// Bytes of a line that is typed.
const LONGEST_LINE: usize = 4 << 10;
/// How many mistakes are made good.
const ATTEMPTS: usize = 5;

/// A secret of a key slot. It has no `Debug`, so that it cannot be printed by mistake.
#[derive(Clone)]
pub(crate) enum Secret {
    /// A password.
    Password(Password),
    /// A key, of a key file or a recovery sheet.
    Key(RawKey),
    /// Shares, as many as are needed at least.
    Shares(Shares),
    /// A key service.
    Kms(Arc<ServiceSecret>),
}

impl Secret {
    /// The password, for what is opened by nothing else.
    pub(crate) fn password(self) -> Result<Password, Failure> {
        match self {
            Self::Password(password) => Ok(password),
            Self::Key(_) | Self::Shares(_) | Self::Kms(_) => Err(Failure::new(
                "a repository of restic is opened by its password: give it with --from-password-file or \
                 --from-password-command",
            )),
        }
    }

    /// The key in a file.
    pub(crate) fn key_file(path: &Path) -> Result<Self, Failure> {
        match read(path)? {
            KeyText::Key(key) => Ok(Self::Key(key)),
            KeyText::Share(share) => Err(Failure::new(format!(
                "{} has a share of a key, number {} of {}: give it with --share, together with others until there are {}",
                shown::path(path),
                share.number(),
                share.of().1,
                share.of().0
            ))),
        }
    }

    /// The shares in files.
    pub(crate) fn shares(paths: &[PathBuf]) -> Result<Self, Failure> {
        let share = |path: &PathBuf| match read(path)? {
            KeyText::Share(share) => Ok((shown::path(path), share)),
            KeyText::Key(_) => Err(Failure::new(format!(
                "{} has a whole key, not a share: give it with --key-file",
                shown::path(path)
            ))),
        };
        let shares: Vec<(String, Share)> = paths.iter().map(share).collect::<Result<_, Failure>>()?;
        Ok(Self::Shares(Shares::of(shares)?))
    }

    /// Asks on the terminal for the words of a sheet, and of as many shares as are needed. They are seen while they are typed:
    /// nobody types so many words unseen.
    pub(crate) fn ask_words() -> Result<Self, Failure> {
        let mut shares: Vec<(String, Share)> = vec![];
        loop {
            match ask_one()? {
                KeyText::Key(key) if shares.is_empty() => return Ok(Self::Key(key)),
                KeyText::Key(_) => {
                    return Err(Failure::new("these are the words of a whole key, not of a share"));
                }
                KeyText::Share(share) => {
                    let needed = usize::from(share.of().0);
                    shares.push((format!("share {} as typed", share.number()), share));
                    match Shares::of(shares.clone()) {
                        Ok(all) => return Ok(Self::Shares(all)),
                        Err(chunkstore::Error::TooFewShares { .. }) => {
                            say(&format!("{} of {needed} shares; now the next one", shares.len()))?;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
}

impl SlotSecret for Secret {
    fn name(&self) -> &str {
        match self {
            Self::Password(password) => password.as_bytes().name(),
            Self::Key(key) => key.name(),
            Self::Shares(shares) => shares.name(),
            Self::Kms(service) => service.name(),
        }
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        match self {
            Self::Password(password) => password.as_bytes().is_for(header),
            Self::Key(key) => key.is_for(header),
            Self::Shares(shares) => shares.is_for(header),
            Self::Kms(service) => service.is_for(header),
        }
    }

    fn cost(&self, header: &SlotHeader) -> u64 {
        match self {
            Self::Password(password) => password.as_bytes().cost(header),
            Self::Key(key) => key.cost(header),
            Self::Shares(shares) => shares.cost(header),
            Self::Kms(service) => service.cost(header),
        }
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> chunkstore::Result<Zeroizing<[u8; 32]>> {
        match self {
            Self::Password(password) => password.as_bytes().open(slot, header),
            Self::Key(key) => key.open(slot, header),
            Self::Shares(shares) => shares.open(slot, header),
            Self::Kms(service) => service.open(slot, header),
        }
    }

    fn opened(&self, slot: &ObjectId, header: &SlotHeader) {
        match self {
            Self::Password(password) => password.as_bytes().opened(slot, header),
            Self::Key(key) => key.opened(slot, header),
            Self::Shares(shares) => shares.opened(slot, header),
            Self::Kms(service) => service.opened(slot, header),
        }
    }

    fn make(&self, new: &NewSlot<'_>) -> chunkstore::Result<(Method, Zeroizing<[u8; 32]>)> {
        match self {
            Self::Password(password) => password.as_bytes().make(new),
            Self::Key(key) => key.make(new),
            Self::Shares(shares) => shares.make(new),
            Self::Kms(service) => service.make(new),
        }
    }
}

fn read(path: &Path) -> Result<KeyText, Failure> {
    warn_of_others(path);
    let text = small::secret(path)?;
    KeyText::parse(&text).map_err(|error| Failure::new(format!("{}: {error}", shown::path(path))))
}

fn say(text: &str) -> Result<(), Failure> {
    let mut terminal = std::fs::OpenOptions::new().write(true).open("/dev/tty")?;
    Ok(writeln!(terminal, "{text}")?)
}

/// Asks for one text, a group at a time. A group is looked at as soon as it is there, so that one is typed again, not all.
fn ask_one() -> Result<KeyText, Failure> {
    let no_terminal = |error| {
        Failure::new(format!(
            "--recovery asks on a terminal, and there is none ({error}): --key-file and --share read files"
        ))
    };
    let terminal =
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    let mut lines = BufReader::new(terminal.try_clone()?);
    let mut terminal = &terminal;
    writeln!(terminal, "Type the words of the sheet, a group of four at a time, each with Enter.")?;
    let mut text = Zeroizing::new(String::with_capacity(1 << 10));
    let (mut group, mut failed) = (1, 0);
    loop {
        write!(terminal, "group {group}: ")?;
        let (typed, back) = small::interruptible(move || {
            let mut typed = Zeroizing::new(String::with_capacity(LONGEST_LINE));
            let read = lines.by_ref().take(LONGEST_LINE as u64).read_line(&mut typed);
            (read.map(|_| typed), lines)
        })?;
        lines = back;
        let typed = typed?;
        if typed.is_empty() {
            return Err(Failure::new("the terminal was closed before all words were typed"));
        }
        let kept = text.len();
        text.push_str(&typed);
        text.push('\n');
        match KeyText::parse(text.as_bytes()) {
            Ok(read) => return Ok(read),
            // Whole groups that fit, and more to come.
            Err(KeyTextError::Words { words }) if words == 4 * group && group < MOST_GROUPS => group += 1,
            Err(error) => {
                failed += 1;
                if failed == ATTEMPTS {
                    return Err(Failure::new(format!("what was typed is no key: {error}")));
                }
                text.truncate(kept);
                writeln!(terminal, "{error}. Type group {group} again.")?;
            }
        }
    }
}
