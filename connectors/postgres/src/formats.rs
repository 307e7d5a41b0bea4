//! The formats of pg_dump and pg_dumpall, as streams.

use crate::end_mark::{CustomEndMark, PlainEndMark};
use engine::connector::Format;

/// All of them.
pub static ALL: &[&Format] = &[&CUSTOM, &SQL];

/// pg_dump's custom format.
pub static CUSTOM: Format = Format {
    name: "pg-custom",
    rank: 0,
    detect: |head| head.starts_with(b"PGDMP"),
    end_mark: |_| Box::new(CustomEndMark::default()),
    decoder: None,
};

/// SQL of pg_dump or pg_dumpall.
pub static SQL: Format = Format {
    name: "pg-sql",
    rank: 2,
    detect: |head| {
        let text = String::from_utf8_lossy(head.get(..512).unwrap_or(head));
        text.contains("-- PostgreSQL database dump\n")
            || text.contains("-- PostgreSQL database cluster dump\n")
    },
    end_mark: |_| Box::new(PlainEndMark::default()),
    decoder: None,
};
