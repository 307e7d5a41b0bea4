//! End-to-end tests, one binary. They run the real `esker` against real servers that they start
//! themselves on free ports in temporary folders, and stop, pass or fail.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and long ones count"
)]

mod azurite;
mod chaos;
mod cli;
mod concurrent;
mod damage;
mod glacier;
mod golden;
mod harness;
mod journal;
mod keys;
mod mariadb;
mod model;
mod nights;
mod pg;
mod physical;
mod plan;
mod postgres;
mod qdrant;
mod redis;
mod relay;
mod retention;
mod rough;
mod roundtrip;
mod run;
mod s3;
mod seaweed;
mod seek;
mod sets;
mod streams;
mod tidy;
mod tiers;
mod trees;
