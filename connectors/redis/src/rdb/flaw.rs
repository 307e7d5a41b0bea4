//! What is wrong with a value of a dump.

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A server that checks refuses it, and with it all of the dump.
    Corrupt(&'static str),
    /// A collection without elements: servers since 6.2.7 leave it out when they load it, older ones keep or refuse it.
    Empty,
    /// Too large to be looked into.
    Unchecked,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Corrupt(why) => write!(f, "the value is corrupt: {why}"),
            Self::Empty => f.write_str("a collection without elements, which servers since 6.2.7 leave out"),
            Self::Unchecked => f.write_str("too large to be looked into"),
        }
    }
}
