//! Every moment of a Redis, not only those of its backups: a base dump, and after it the commands that the
//! server sends to its replicas, each stretch of them with the time it came.
//!
//! A journal is a snapshot like any other: `dump.rdb` with its index, and beside it a folder `stream` of
//! segments. While esker is attached, the snapshot is replaced by a longer one every few seconds, in
//! which everything that was there is taken over; so there is one for each base, and whatever ends the program
//! leaves one that is whole. Only offsets that are durable are acknowledged, so the server's `WAIT` waits
//! for the repository.

pub mod follow;
mod receiver;
pub mod replay;
pub mod segment;
mod source;
mod times;

/// Kind of source in the snapshot's record.
pub const KIND: &str = "redis+stream";
