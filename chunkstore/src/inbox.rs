//! What a write-only host and the repository have in common: the host's bundle, the commit of a run, the reply to it; and
//! the host's own side, its book and its outbox. docs/decisions/0018 says why it is so, docs/hosts.md how to use it.
//!
//! | file | noun |
//! |---|---|
//! | [`bundle`] | the file that a host gets |
//! | [`commit`] | what a run brings, signed by the host and sealed to the inbox |
//! | [`reply`] | the answer to a run |
//! | [`signature`] | who made a snapshot |
//! | [`book`], [`outbox`] | what a host remembers of what it stored; where its packs go |
//! | `lists` | block lists of it, against which its next night is compared |
//! | [`runs`] | what lies in the inbox of a host |

mod arrival;
pub mod book;
pub mod bundle;
pub mod commit;
pub(crate) mod lists;
mod noted;
pub mod outbox;
pub mod reply;
pub mod runs;
pub mod signature;

pub use book::Book;
pub use bundle::Bundle;
pub use commit::{Brought, Commit, Earlier, Header, SignedCommit};
pub use outbox::Outbox;
pub use reply::{Reply, Verdict};
pub use runs::{Inbox, Run};
pub use signature::{PublicKey, SigningKey};
