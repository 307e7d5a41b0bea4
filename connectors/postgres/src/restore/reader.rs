//! The pg_restore that reads a dump and that a server understands: what there is of both is found out before anything is made.
//! Source: PostgreSQL's release notes and `pg_backup_archiver.h` (versions of the archive's format), and what pg_restore
//! 17 sends at its beginning.

use crate::Server;
use crate::programs::Programs;
use crate::toc::Toc;
use engine::source::SourceErrorKind;
use engine::{Error, Result};

/// The first version that sets `transaction_timeout`, which servers before it refuse.
const SETS_MORE: u32 = 17;

/// The first pg_restore that reads archives of a version.
fn first_reader(version: (u8, u8)) -> u32 {
    match version {
        _ if version >= (1, 16) => 17,
        _ if version >= (1, 15) => 16,
        _ if version >= (1, 14) => 12,
        _ => 0,
    }
}

/// The pg_restore for a dump, and for a server of version `major`.
///
/// # Errors
/// That none is here, and which package has it; that there can be none.
pub(super) fn reader(server: &Server, major: u32, toc: &Toc, path: Option<&str>) -> Result<Programs> {
    let least = major.max(first_reader(toc.version));
    if major >= SETS_MORE {
        return Ok(Programs::find(server, least, "pg_restore", path)?);
    }
    let number = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    let (dumped, dumper) = (number(&toc.server_version), number(&toc.dump_version));
    if least < SETS_MORE {
        let found = Programs::find_before(SETS_MORE, server, least, "pg_restore", path);
        return found.map_err(|error| match least == major {
            true => error.into(),
            false => server
                .error(
                    SourceErrorKind::Command,
                    format!("the dump is by pg_dump {dumper}, which no pg_restore before {least} reads, and the server is PostgreSQL {major}, which none after {least} is for; install the package postgresql-client-{least}"),
                )
                .into(),
        });
    }
    let by = dumper.split('.').next().unwrap_or_default();
    Err(Error::Refused(format!(
        "{}: the dump is of a PostgreSQL {dumped}, by pg_dump {dumper}, and the server is PostgreSQL {major}: only pg_restore {SETS_MORE} and newer read it (archive version {}.{}), and these set what servers before {SETS_MORE} do not know (transaction_timeout); restore into PostgreSQL {SETS_MORE} or newer, or write the dump to a folder with --target DIR and use there the pg_restore of the package postgresql-client-{by}, which goes on behind the setting that is refused; backups of older servers by the package postgresql-client-{major} do not have this limit",
        server.shown, toc.version.0, toc.version.1
    )))
}
