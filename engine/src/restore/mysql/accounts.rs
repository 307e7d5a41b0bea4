//! Accounts and their rights. An account that is there already keeps its own way to log in: the one that restores must not
//! lock itself out, and nobody's password changes because another server had an account of that name.

use super::Work;
use super::client::write;
use crate::Result;
use std::collections::BTreeMap;

impl Work<'_> {
    /// Accounts and their rights. Those that are refused do not keep the rest from coming back; they are returned, by the line
    /// of `path` that says them.
    pub(super) fn accounts(&self, path: &str) -> Result<BTreeMap<String, String>> {
        let text = self.text(path)?;
        // Every server has this one, and nobody but root may give it.
        let lines = text.lines().filter(|line| !line.starts_with("GRANT PROXY ON ``@`%` TO `root`@"));
        let text: String = lines.map(|line| rights(line) + "\n").collect();
        let (_, complaints) = self.run(true, &mut |out| write(out, &text).map(|()| text.len() as u64))?;
        let line = |text: &str| {
            let (_, at) = text.strip_prefix("ERROR ")?.split_once(" at line ")?;
            Some((at.split_once(':')?.0.to_owned(), text.to_owned()))
        };
        Ok(complaints.lines().filter_map(line).collect())
    }
}

/// A line without what a GRANT says of the account itself, which `CREATE USER` has said if the account is new.
fn rights(line: &str) -> String {
    let end = match line.starts_with("GRANT ") {
        true => [" IDENTIFIED ", " REQUIRE ", " WITH "].iter().filter_map(|word| unquoted(line, word)).min(),
        false => None,
    };
    match end {
        Some(end) => {
            let option =
                match unquoted(line, " WITH GRANT OPTION").or_else(|| unquoted(line, " WITH ADMIN OPTION")) {
                    Some(at) => &line[at..at + " WITH GRANT OPTION".len()],
                    None => "",
                };
            format!("{}{option};", &line[..end])
        }
        None => line.to_owned(),
    }
}

/// Where a word stands outside of quotes.
fn unquoted(line: &str, word: &str) -> Option<usize> {
    let mut quote = None;
    let mut skip = false;
    for (at, byte) in line.bytes().enumerate() {
        match (quote, byte) {
            _ if std::mem::take(&mut skip) => {}
            (Some(open), _) if open != b'`' && byte == b'\\' => skip = true,
            (Some(open), _) if open == byte => quote = None,
            (None, b'`' | b'\'' | b'"') => quote = Some(byte),
            (None, _) if line.as_bytes()[at..].starts_with(word.as_bytes()) => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::rights;

    #[test]
    fn a_grant_says_nothing_of_the_login() {
        for (line, expected) in [
            ("GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*B6';", "GRANT USAGE ON *.* TO `a`@`%`;"),
            (
                "GRANT ALL PRIVILEGES ON *.* TO `a IDENTIFIED `@`%` IDENTIFIED VIA x USING 'y\\' WITH GRANT OPTION' REQUIRE X509 WITH GRANT OPTION MAX_USER_CONNECTIONS 3;",
                "GRANT ALL PRIVILEGES ON *.* TO `a IDENTIFIED `@`%` WITH GRANT OPTION;",
            ),
            ("GRANT USAGE ON *.* TO `a`@`%` REQUIRE SSL;", "GRANT USAGE ON *.* TO `a`@`%`;"),
            ("GRANT USAGE ON *.* TO `a`@`%` WITH MAX_QUERIES_PER_HOUR 1;", "GRANT USAGE ON *.* TO `a`@`%`;"),
            ("GRANT `r` TO `a`@`%` WITH ADMIN OPTION;", "GRANT `r` TO `a`@`%` WITH ADMIN OPTION;"),
            ("GRANT SELECT ON ` WITH `.* TO `a`@`%`;", "GRANT SELECT ON ` WITH `.* TO `a`@`%`;"),
            (
                "CREATE USER `a`@`%` IDENTIFIED BY PASSWORD '*B6';",
                "CREATE USER `a`@`%` IDENTIFIED BY PASSWORD '*B6';",
            ),
        ] {
            assert_eq!(rights(line), expected);
        }
    }
}
