//! What goes wrong in a session: the server refuses, or is gone.
//! Source: PostgreSQL's documentation, "Error and Notice Message Fields".

use super::server::Server;
use engine::source::{SourceError, SourceErrorKind};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend;

/// What went wrong in a session.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// The server refuses.
    #[error("{message}")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// What it says, with its detail and hint.
        message: String,
    },
    /// The connection is not, or no longer, there.
    #[error("{0}")]
    Lost(String),
}

impl PgError {
    /// The SQLSTATE, if the server gave one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Lost(_) => "",
        }
    }

    /// Whether there is no session, and it speaks of that and not of what was asked.
    /// Source: PostgreSQL's documentation, "PostgreSQL Error Codes".
    pub(super) fn is_no_session(&self) -> bool {
        let code = self.code();
        matches!(self, Self::Lost(_)) || code.starts_with("08") || matches!(code, "53300" | "57P03")
    }
}

impl From<std::io::Error> for PgError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Lost("the server hung up".into()),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                Self::Lost("the server did not answer in time".into())
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// Result of a session.
pub type PgResult<T> = Result<T, PgError>;

/// Error and detail as psql shows them.
pub(super) fn refusal(body: &backend::ErrorResponseBody) -> PgError {
    let (mut code, mut message) = (String::new(), String::new());
    let (mut detail, mut hint) = (None, None);
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text,
            b'M' => message = text,
            b'D' => detail = Some(text),
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    for more in [detail, hint].into_iter().flatten() {
        message += &format!("; {more}");
    }
    PgError::Refused { code, message }
}

impl Server {
    /// What went wrong in a session, as an error of the source.
    #[must_use]
    pub fn failed(&self, error: &PgError) -> SourceError {
        self.error(SourceErrorKind::Unavailable, error)
    }
}

/// That a message came where another one was due.
pub(super) fn unexpected(tag: u8) -> PgError {
    PgError::Lost(format!("an unexpected message '{}' from the server", char::from(tag)))
}
