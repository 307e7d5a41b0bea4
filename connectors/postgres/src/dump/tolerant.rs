//! A dump of one database, or of the globals, whose failure need not be the end of the others.

use engine::source::{Content, Opener, Piece, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::rc::Rc;

/// Why it failed, if it did.
pub(super) type Outcome = Rc<RefCell<Option<String>>>;

/// A content whose program may fail.
pub(super) struct Tolerant {
    inner: Box<dyn Content>,
    name: String,
    keep_going: bool,
    outcome: Outcome,
}

impl Tolerant {
    /// Wraps what `open` opens.
    pub(super) fn open(open: Opener, name: String, keep_going: bool) -> (Opener, Outcome) {
        let outcome = Outcome::default();
        let told = Rc::clone(&outcome);
        let open: Opener = Box::new(move || {
            let inner = open().map_err(|error| turned(error, &name, keep_going, &told))?;
            Ok(Box::new(Self { inner, name, keep_going, outcome: told }) as Box<dyn Content>)
        });
        (open, outcome)
    }
}

impl Content for Tolerant {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        self.inner.read(buffer).map_err(|error| turned(error, &self.name, self.keep_going, &self.outcome))
    }
}

/// The failure as one of this item alone, if that is wanted.
fn turned(error: SourceError, name: &str, keep_going: bool, outcome: &Outcome) -> SourceError {
    let is_own =
        matches!(error.kind, SourceErrorKind::Command | SourceErrorKind::Incomplete | SourceErrorKind::Empty);
    match (is_own, keep_going) {
        (true, true) => {
            let why = error.why.trim_end_matches("; nothing was saved");
            *outcome.borrow_mut() = Some(why.to_owned());
            SourceError::new(SourceErrorKind::Item, name, format!("left out: {why}"))
        }
        (true, false) => {
            SourceError { why: format!("{}; --keep-going leaves it out and goes on", error.why), ..error }
        }
        (false, _) => error,
    }
}
