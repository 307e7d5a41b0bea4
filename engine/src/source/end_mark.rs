//! What proves that a stream is whole: a dump that was cut off must not become a snapshot.

use crate::Monitor;
use std::rc::Rc;

/// What was found wrong in a stream that is whole all the same.
pub trait Flaws: std::fmt::Debug {
    /// How many of each kind there are, for the snapshot's record.
    fn details(&self) -> Vec<(&'static str, String)>;
    /// Tells of them; `path` is the stream's.
    fn tell(&self, path: &str, monitor: &dyn Monitor);
}

/// Looks at a stream's bytes as they pass and knows at the end whether it was whole.
pub trait EndMark {
    /// The next bytes.
    fn see(&mut self, bytes: &[u8]);
    /// `Err` says what is missing.
    fn finish(&mut self) -> Result<(), String>;
    /// What is wrong in what passed, although it is whole; `None` after the first call.
    fn flaws(&mut self) -> Option<Rc<dyn Flaws>> {
        None
    }
    /// Whether these bytes cannot be of this format, whatever they began like.
    fn is_something_else(&self) -> bool {
        false
    }
}

impl<M: EndMark + ?Sized> EndMark for Box<M> {
    fn see(&mut self, bytes: &[u8]) {
        (**self).see(bytes);
    }
    fn finish(&mut self) -> Result<(), String> {
        (**self).finish()
    }
    fn flaws(&mut self) -> Option<Rc<dyn Flaws>> {
        (**self).flaws()
    }
    fn is_something_else(&self) -> bool {
        (**self).is_something_else()
    }
}

/// No end mark: a stream is whole when it ends.
pub struct NoEndMark;

impl EndMark for NoEndMark {
    fn see(&mut self, _: &[u8]) {}
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}
