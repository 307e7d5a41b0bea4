//! The clients of servers and stores, fed with what a hostile one might say: the bytes go over real sockets, and come out
//! of the code that ships. Each input has a bound of memory and of time ([`crate::bounds`]).

use crate::Target;

mod http;
mod mysql;
mod peer;
mod postgres;
mod redis;
pub(crate) mod seeds;
mod source;

/// All of them.
pub const TARGETS: [Target; 12] = [
    Target { name: "pglogin", run: postgres::login },
    Target { name: "pgwire", run: postgres::session },
    Target { name: "pgwal", run: postgres::wal },
    Target { name: "pgbase", run: source::base_backup },
    Target { name: "resp", run: redis::answer },
    Target { name: "psync", run: redis::transfer },
    Target { name: "redis", run: source::redis },
    Target { name: "mysql", run: mysql::printed },
    Target { name: "mydump", run: mysql::dump },
    Target { name: "binlog", run: mysql::log },
    Target { name: "qdrant", run: http::qdrant },
    Target { name: "cloud", run: http::cloud },
];
