//! End-to-end tests, one binary. They run the real `esker` against real servers that they start
//! themselves on free ports in temporary folders, and stop, pass or fail.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and long ones count"
)]

mod azurite;
mod chaos;
mod children;
mod cli;
mod concurrent;
mod damage;
mod glacier;
mod golden;
mod harness;
mod hints;
mod journal;
mod keys;
mod maria_hostile;
mod maria_place;
mod maria_schema;
mod maria_tenants;
mod mariadb;
mod model;
mod names;
mod nights;
mod pg;
mod pg_elsewhere;
mod pg_names;
mod pg_parts;
mod pg_replace;
mod pgr_databases;
mod pgr_hostile;
mod pgr_needs;
mod pgr_tables;
mod physical;
mod plan;
mod postgres;
mod qdrant;
mod qdrant_cluster;
mod qdrant_double;
mod qdrant_restore;
mod qdrant_server;
mod qdrant_volumes;
mod rdb_corrupt;
mod rdb_dumps;
mod rdb_formats;
mod redis;
mod redis_neighbours;
mod redis_wire;
mod relay;
mod retention;
mod rough;
mod roundtrip;
mod run;
mod s3;
mod seaweed;
mod seek;
mod sets;
mod stream_names;
mod streams;
mod tidy;
mod tiers;
mod trees;
