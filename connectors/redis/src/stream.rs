//! A live stream of a Redis server: a base dump, and after it the commands that the server sends to its replicas, in
//! segments with the time of their arrival.
//!
//! It is a snapshot like any other: `dump.rdb` with its index, and beside it a folder `stream` of segments. While esker
//! is attached, it replaces the snapshot by a longer one every few seconds, which takes over all earlier content. So
//! there is one snapshot for each base, and it is complete whenever the program ends. Only durable offsets are
//! acknowledged, so the server's `WAIT` waits for the repository.

pub mod follow;
mod receiver;
pub mod replay;
pub mod segment;
mod source;
mod times;

/// Kind of source in the snapshot's record.
pub const KIND: &str = "redis+stream";
