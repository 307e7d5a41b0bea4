//! The table of exit codes (docs/exit-codes.md): restic's where it has one, ours from 20 up.

use chunkstore::format::names;
use chunkstore::storage::ErrorKind;
use engine::source::SourceErrorKind;
use std::process::ExitCode;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// All of it was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The arguments cannot be followed, whatever there is.
    Usage = 2,
    /// Done, but some sources could not be read, or some snapshots not removed.
    Incomplete = 3,
    /// There is no repository.
    NoRepository = 10,
    /// Another run stands in the way; running again helps.
    Busy = 11,
    /// Wrong password, key or shares.
    WrongPassword = 12,
    /// The command that was to be backed up failed.
    SourceCommand = 20,
    /// A dump ended without its end mark.
    SourceIncomplete = 21,
    /// What is needed is frozen, and being thawed or to be thawed.
    Frozen = 22,
    /// A drill found that a restore fails, or does not keep what is promised.
    DrillFailed = 24,
    /// Another tier was made the primary: this one is out of date.
    Superseded = 28,
    /// A server to be backed up is down or refuses.
    SourceUnavailable = 25,
    /// A source gave nothing at all.
    SourceEmpty = 26,
    /// The repository's storage has no room left.
    RepositoryFull = 27,
    /// A key service is down, or does not answer.
    KeyServiceAway = 29,
    /// ctrl-C.
    Interrupted = 130,
    /// Whoever read the output had enough; as a shell shows it of programs that SIGPIPE ended.
    HungUp = 141,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// An error with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
}

/// Messages of libraries and programs of others name URLs as they were given to them.
fn harmless(message: String) -> String {
    match engine::secrets::in_message(&message) {
        std::borrow::Cow::Borrowed(_) => message,
        std::borrow::Cow::Owned(shown) => shown,
    }
}

/// Result of a command.
pub(crate) type CommandResult = Result<Code, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: Code::Failed, message: harmless(message.into()) }
    }

    /// Of arguments that cannot be followed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: Code::Usage, ..Self::new(message) }
    }
}

impl Failure {
    /// Of a look at the arguments alone, before anything is opened: what is wrong there is a wrong argument.
    pub(crate) fn of_arguments(failure: impl Into<Self>) -> Self {
        let failure = failure.into();
        match failure.code {
            Code::Failed => Self { code: Code::Usage, ..failure },
            _ => failure,
        }
    }

    /// Of a restore: code 20 speaks of what was backed up, and no program of ours is that.
    pub(crate) fn of_restore(mut self) -> Self {
        if matches!(self.code, Code::SourceCommand | Code::SourceIncomplete | Code::SourceEmpty) {
            self.code = Code::Failed;
        }
        self
    }

    /// Of an error that speaks of a snapshot: which one.
    pub(crate) fn in_snapshot(error: engine::Error, found: &engine::snapshot::Listed) -> Self {
        match error {
            engine::Error::NoEntry { path } => {
                Self::new(format!("'{path}' is not in snapshot {}", found.id.short()))
            }
            error => error.into(),
        }
    }

    /// Of an error of opening a place: where what opens it is damaged, `command` makes that anew.
    pub(crate) fn with_way_out(error: engine::Error, command: &str) -> Self {
        let opens = |object: &str| {
            [names::HEAD, names::CONFIG, names::KEYS].contains(&object)
                || names::grants_epoch(object).is_some()
        };
        match &error {
            engine::Error::Store(chunkstore::Error::Corrupt { object, .. }) if opens(object) => {
                let mut message = chunkstore::store::describe(&error);
                if !message.contains("repair head") {
                    message.push_str(&format!("; '{command}' rebuilds it"));
                }
                Self::new(message)
            }
            _ => error.into(),
        }
    }

    /// Adds what mends content that is damaged or gone, where the message names no command.
    fn or_heal(mut self, error: &chunkstore::Error) -> Self {
        let object = match error {
            chunkstore::Error::Corrupt { object, .. } => object,
            chunkstore::Error::Storage(error) if error.kind == ErrorKind::NotFound => &error.object,
            _ => return self,
        };
        let is_content = [names::PACKS, names::INDEX, names::SNAPSHOTS, names::MAPS]
            .iter()
            .any(|folder| object.split('/').any(|part| part == *folder));
        if is_content && !self.message.contains("'esker ") {
            self.message.push_str(
                "; 'esker check' names all that is damaged, 'esker heal' mends what parity or another tier has",
            );
        }
        self
    }

    /// Adds what can be done, where the message alone does not say so.
    fn with_advice(mut self) -> Self {
        if self.code == Code::RepositoryFull {
            self.message.push_str("; make room: a few MiB are enough for 'esker forget' and 'esker prune'");
        }
        if self.code == Code::Frozen {
            self.message.push_str("; 'esker thaw plan' says what that takes");
        }
        self
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        let code = match &error {
            engine::Error::Store(error) => store_code(error),
            engine::Error::Source(error) => match error.kind {
                SourceErrorKind::Command => Code::SourceCommand,
                SourceErrorKind::Incomplete => Code::SourceIncomplete,
                SourceErrorKind::Unavailable => Code::SourceUnavailable,
                SourceErrorKind::Empty => Code::SourceEmpty,
                SourceErrorKind::Item
                | SourceErrorKind::Vanished
                | SourceErrorKind::Replaced
                | SourceErrorKind::Missing => Code::Failed,
            },
            engine::Error::Interrupted => Code::Interrupted,
            _ => Code::Failed,
        };
        let failure = Self { code, message: harmless(chunkstore::store::describe(&error)) };
        match &error {
            engine::Error::Store(error) => failure.with_advice().or_heal(error),
            _ => failure.with_advice(),
        }
    }
}

impl From<chunkstore::Error> for Failure {
    fn from(error: chunkstore::Error) -> Self {
        Self { code: store_code(&error), message: harmless(chunkstore::store::describe(&error)) }
            .with_advice()
            .or_heal(&error)
    }
}

impl From<chunkstore::storage::StorageError> for Failure {
    fn from(error: chunkstore::storage::StorageError) -> Self {
        chunkstore::Error::from(error).into()
    }
}

impl From<engine::source::SourceError> for Failure {
    fn from(error: engine::source::SourceError) -> Self {
        engine::Error::from(error).into()
    }
}

impl From<engine::patterns::PatternError> for Failure {
    fn from(error: engine::patterns::PatternError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

fn store_code(error: &chunkstore::Error) -> Code {
    match error {
        chunkstore::Error::NoRepository { .. } | chunkstore::Error::UnknownHost { .. } => Code::NoRepository,
        chunkstore::Error::WrongPassword { .. }
        | chunkstore::Error::TooFewShares { .. }
        | chunkstore::Error::KeyService { is_away: false, .. }
        | chunkstore::Error::NotGranted { .. } => Code::WrongPassword,
        chunkstore::Error::KeyService { is_away: true, .. } => Code::KeyServiceAway,
        chunkstore::Error::Fenced { .. } => Code::Busy,
        chunkstore::Error::Superseded => Code::Superseded,
        chunkstore::Error::Interrupted => Code::Interrupted,
        error if error.is_full() => Code::RepositoryFull,
        chunkstore::Error::Storage(error) if error.kind == ErrorKind::Frozen => Code::Frozen,
        chunkstore::Error::Storage(error) if error.kind == ErrorKind::Stopped => Code::Interrupted,
        _ => Code::Failed,
    }
}
