//! Names of databases that a server takes as they are. It cuts longer ones without a word, also in a login, and then means
//! another database. Source: PostgreSQL's documentation, "Identifiers and Key Words": `NAMEDATALEN` is 64.

/// Bytes of the longest name.
const MOST: usize = 63;

/// That a server does not take a database's name for another one.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub(crate) fn check(name: &str) -> Result<(), String> {
    match name.len() {
        ..=MOST => Ok(()),
        len => Err(format!(
            "database '{}': the name has {len} bytes, and PostgreSQL cuts names after {MOST} bytes, so that it would be another database's; choose a shorter one",
            engine::shown::line(name)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn bytes_count_and_not_characters() {
        for (name, is_taken) in [("x".repeat(63), true), ("x".repeat(64), false), ("é".repeat(32), false)] {
            assert_eq!(check(&name).is_ok(), is_taken, "{name}");
        }
    }
}
