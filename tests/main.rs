//! End-to-end tests, one binary. They run the real `esker` against real servers that they start
//! themselves on free ports in temporary folders, and stop, pass or fail.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and long ones count"
)]

mod chaos;
mod cli;
mod concurrent;
mod damage;
mod golden;
mod harness;
mod model;
mod nights;
mod plan;
mod postgres;
mod redis;
mod rough;
mod s3;
mod seaweed;
mod streams;
mod tidy;
mod trees;
