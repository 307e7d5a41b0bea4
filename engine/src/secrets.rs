//! Parts of a URL, or of a message with URLs in it, that must not be shown or stored: the userinfo and the parameters
//! with passwords, keys and tokens. The rule works on text, for every scheme and for malformed URLs, because those
//! appear in messages. Ambiguous text is hidden. Source: RFC 3986, section 3.2.1 (userinfo); section 7.5: clear-text
//! passwords in a URL are not to be rendered.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// What stands for something that was hidden.
pub(crate) const HIDDEN: &str = "…";

/// What is known of the userinfo of schemes.
const SCHEMES: &str = include_str!("secrets/schemes.txt");

/// What stands before the `@` of a URL.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Userinfo {
    /// A user's name.
    Names,
    /// Nothing without a colon in it.
    None,
    /// A key, perhaps.
    Keys,
    /// Nobody knows.
    Unknown,
}

impl Userinfo {
    /// That of a scheme, of which only what stands before a `+` is given, in lower case.
    fn of(scheme: &str) -> Self {
        let rows = SCHEMES.lines().filter(|line| !line.starts_with('#'));
        let row = rows.filter_map(|line| line.split_once(' ')).find(|(_, names)| {
            let mut names = names.split(' ');
            names.any(|name| name == scheme)
        });
        match row {
            Some(("names", _)) => Self::Names,
            Some(("none", _)) => Self::None,
            Some(("keys", _)) => Self::Keys,
            _ => Self::Unknown,
        }
    }
}

/// Names of parameters that hold secrets, in lower case and without `-`, `_`, `.`.
const WHOLE: &[&str] = &["pass", "pwd", "pw", "auth", "key", "sig", "sas", "bearer", "jwt"];
/// The same, as a part of a name.
const WITHIN: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "accountkey",
    "signature",
    "credential",
    "authorization",
];

/// Whether a parameter of this name holds a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let decoded = percent_decode_str(name).decode_utf8_lossy();
    let plain: String = decoded
        .chars()
        .filter(|character| !matches!(character, '-' | '_' | '.') && !character.is_whitespace())
        .flat_map(char::to_lowercase)
        .collect();
    WHOLE.contains(&plain.as_str()) || WITHIN.iter().any(|part| plain.contains(part))
}

/// A URL, or whatever was given in the place of one, without its secrets. Of a database's URL the user stays; one
/// without secrets stays as it is, byte by byte.
#[must_use]
pub fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = split_scheme(url) else { return without_parameters(url) };
    let slashes = rest.len() - rest.trim_start_matches(['/', '\\']).len();
    let (slashes, rest) = rest.split_at(slashes.min(rest.len()));
    let base = scheme.split_once('+').map_or(scheme, |(base, _)| base).to_ascii_lowercase();
    if slashes.is_empty() {
        // `s3:https://…`, or a URL that lost its slashes.
        let inner = split_scheme(rest).filter(|(_, after)| after.starts_with(['/', '\\']));
        let shown = match inner {
            Some(_) => without_secrets(rest),
            None => without_userinfo(&base, rest),
        };
        return format!("{scheme}:{shown}");
    }
    if slashes.len() > 2 && slashes.starts_with("///") {
        // A URL without a host, such as that of a file.
        return format!("{scheme}:{slashes}{}", without_parameters(rest));
    }
    format!("{scheme}:{slashes}{}", without_userinfo(&base, rest))
}

/// Scheme and what follows the colon, of what may be a URL: RFC 3986, section 3.1, and `_`, which others take.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_'));
    is_scheme.then_some((scheme, rest))
}

/// The text after `scheme://`.
fn without_userinfo(scheme: &str, rest: &str) -> String {
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let userinfo = Userinfo::of(scheme);
    let has_named_users = userinfo == Userinfo::Names;
    if let Some((who, place)) = authority.rsplit_once('@') {
        let after = without_parameters(after);
        let user = without_password(who);
        return match (has_named_users, user.is_empty()) {
            // Without a password it may be that of a scheme that takes one without a user.
            (true, false) => format!("{user}@{place}{after}"),
            (true, true) => format!("{place}{after}"),
            (false, _) if who.is_empty() => format!("{place}{after}"),
            (false, _) => format!("{HIDDEN}@{place}{after}"),
        };
    }
    // No literal `@` in front of the first slash: either there is no userinfo, or it has a slash or an encoded `@` in it.
    let lower = authority.to_ascii_lowercase();
    if let Some(at) = lower.rfind("%40") {
        return format!("{HIDDEN}@{}{}", &authority[at + 3..], without_parameters(after));
    }
    let ports: Vec<&str> = authority.split(',').filter_map(port).collect();
    let is_sound = ports.iter().all(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let may_be_user =
        !authority.is_empty() && (!ports.is_empty() || !matches!(userinfo, Userinfo::Names | Userinfo::None));
    if let Some(at) = after.rfind('@').filter(|_| may_be_user) {
        // In a parameter's value it is no end of a userinfo, if the port is one.
        let question = after.find('?').filter(|question| *question < at);
        let is_value = question.is_some_and(|question| after[question..at].contains('='));
        if !(is_sound && is_value) {
            return format!("{HIDDEN}@{}", without_parameters(&after[at + 1..]));
        }
    }
    if !is_sound {
        // A port that is no number: the rest of a password whose host was left out.
        return HIDDEN.to_owned();
    }
    format!("{authority}{}", without_parameters(after))
}

/// The port of `host:port` or `[host]:port`.
fn port(place: &str) -> Option<&str> {
    let host = place.rfind(']').map_or(0, |at| at + 1);
    place[host..].split_once(':').map(|(_, port)| port)
}

/// The user of a userinfo.
fn without_password(who: &str) -> &str {
    let lower = who.to_ascii_lowercase();
    let end = [lower.find(':'), lower.find("%3a")].into_iter().flatten().min();
    &who[..end.unwrap_or(who.len())]
}

/// A text behind the authority, without the parameters that hold secrets.
fn without_parameters(text: &str) -> String {
    let Some(start) = text.find(['?', '#', '&', ';']) else { return text.to_owned() };
    let mut shown = text[..start].to_owned();
    let mut rest = &text[start..];
    let (mut was_secret, mut has_kept) = (false, false);
    while let Some(mark) = rest.chars().next() {
        let inner = &rest[mark.len_utf8()..];
        let end = inner.find(['?', '#', '&', ';']).unwrap_or(inner.len());
        let (piece, after) = inner.split_at(end);
        rest = after;
        let name = piece.split_once('=').map(|(name, _)| name);
        // What follows a secret without a name of its own may be the rest of it.
        let hides = match name {
            Some(name) => is_secret(name),
            None => was_secret && !piece.is_empty(),
        };
        was_secret = hides;
        if hides {
            continue;
        }
        let mark = if mark == '&' && !has_kept && !shown.contains('?') { '?' } else { mark };
        has_kept = true;
        shown.push(mark);
        shown.push_str(piece);
    }
    shown
}

/// Refuses a host, encoded or not, that contains a login: it would become a name of a place in snapshots.
///
/// # Errors
///
/// The reason; the host is not shown.
pub fn check_host(host: &str) -> Result<(), String> {
    match percent_decode_str(host).any(|byte| byte == b'@') {
        true => Err(
            "the host in the URL has an '@' in it: the '@' behind a user or a password is written as it is"
                .into(),
        ),
        false => Ok(()),
    }
}

/// A message, with each URL in it as [`without_secrets`] shows it.
#[must_use]
pub fn in_message(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((start, end)) = next_url(rest) {
        let url = &rest[start..end];
        shown.push_str(&rest[..start]);
        let plain = without_secrets(url);
        // A blank or a quote in a password ends a word, but not the URL.
        let line = rest[end..].lines().next().unwrap_or_default();
        let end = match line.find('@').filter(|_| plain.ends_with(HIDDEN)) {
            None => end,
            Some(at) => end + line[at..].find(is_end).map_or(line.len(), |after| at + after),
        };
        shown.push_str(&plain);
        rest = &rest[end..];
    }
    if shown.is_empty() && rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

fn is_end(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\'' | '"' | '`' | '<' | '>' | '(' | ')')
}

/// Where the next URL in a message begins and ends.
fn next_url(text: &str) -> Option<(usize, usize)> {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_' | ':');
    let mut from = 0;
    while let Some(found) = text[from..].find(':') {
        let colon = from + found;
        let before =
            text[..colon].chars().rev().take_while(|c| is_scheme(*c)).map(char::len_utf8).sum::<usize>();
        let start = colon - before;
        let word = text[colon..].find(is_end).map_or(text.len(), |end| colon + end);
        let end = colon + text[colon..word].trim_end_matches([':', ',', ';', '.']).len();
        let scheme = text[start..colon].to_ascii_lowercase();
        let scheme = scheme.split(['+', ':']).next().unwrap_or_default();
        let is_url = text[colon..].starts_with("://")
            || (text[colon..end].contains('@') && Userinfo::of(scheme) != Userinfo::Unknown);
        if is_url && end > colon && before > 0 {
            return Some((start, end));
        }
        from = colon + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown_of_any_url() {
        for url in [
            "redis://:hunter2@h:1/0",
            "redis://u:hunter2@h:1/0",
            "redis://u%3Ahunter2@h/0",
            "redis://u%3ahunter2%40h/0",
            "redis://u:hunter2%40h/0",
            "redis://u:hun/ter2@h/0",
            "redis://u:hun?ter2@h/0",
            "redis://u:hun#ter2@h/0",
            "redis://u:123/hunter2@h/0",
            "redis://u:12?hunter2@h",
            "redis://u:hun@ter2@h/0",
            "redis://u:hunter2",
            "redis:u:hunter2@h",
            "redis:/u:hunter2@h",
            "redis:\\\\u:hunter2@h",
            "REDIS://u:hunter2@h",
            "redis://:hun ter2@[::",
            "redis+unix://:hunter2@/run/redis.sock",
            "redis+unix:///s?password=hunter2",
            "redis+unix:///s?db=1&p%61ssword=hunter2",
            "redis+unix:///s?password=a&hunter2",
            "redis+unix:///s?password=a#hunter2",
            "qdrant+http://hunter2@h:6333/c",
            "qdrant+https://h:6333/c?api-key=hunter2",
            "qdrant+https://h:6333/c?api_key=hunter2",
            "qdrant+https://hun/ter2@h/c",
            "postgres://u:hunter2@h/db",
            "postgres://u:hun/ter2@h1:1,h2:2/db",
            "postgres://u:hunter2@h1:1,h2:2/db",
            "postgres://h/db?sslpassword=hunter2",
            "postgres://h/db#password=hunter2",
            "mysql://u:hunter2@h/db",
            "mysql://h/db?password=hunter2",
            "mysql://h/db?Password=hunter2",
            "s3:http://AK:hunter2@host/b",
            "s3:http://hunter2:SK@host/b",
            "s3:http:/AK:hunter2@host/b",
            "s3:AK:hunter2@host/b",
            "s3://AK:hunter2@bucket/x",
            "s3:https://host/b?X-Amz-Signature=hunter2",
            "s3:https://host/b?x-amz-security-token=hunter2&y=1",
            "azure://c/x?sv=1&sig=hunter2",
            "x://a:hunter2@",
            "x://hunter2@host",
            "sftp://u:hunter2@host/x",
            "ftp+x_y://hunter2@host/x?token=hunter2",
            "https://hunter2@host",
            "mongodb://u:hunter2@a,b,c/db",
        ] {
            let shown = without_secrets(url);
            for part in ["hunter2", "ter2"] {
                assert!(!shown.contains(part), "{url} -> {shown}");
            }
            let message = format!("cannot read '{url}': refused; see x={url}");
            assert!(!in_message(&message).contains("ter2"), "{message} -> {}", in_message(&message));
        }
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        for url in [
            "redis://h",
            "redis://u@h:6379/0",
            "rediss://[::1]:6379/3",
            "redis+unix:///run/a@b.sock?db=1&user=u",
            "redis+rdb:///srv/a:b@c/dump.rdb",
            "postgres://me%40srv@h:5432/db?sslmode=require&passfile=/x&sslkey=/y",
            "postgres://h1:1,h2:2,h3/sh%2Fop%3F?options=-c%20a=b+c",
            "postgres://h:5432/db?user=me@server",
            "postgres://h/a@b",
            "postgres://u@[::1]:2,h3/db",
            "postgres://h/..#x",
            "mysql://u@localhost/?socket=/run/a@b",
            "qdrant+http://h:6333/c",
            "qdrant+file:///a@b/c",
            "s3://bucket/a@b/c",
            "s3:https://host:9000/bucket/a",
            "azure://container/x",
            "/srv/a:b@c",
            "a:b",
            "git@host:path",
            "",
        ] {
            assert_eq!(without_secrets(url), url);
        }
        assert_eq!(without_secrets("redis+unix:///s?db=1&password=x&user=u"), "redis+unix:///s?db=1&user=u");
        assert_eq!(without_secrets("postgres://u:x@h/db?password=x&a=b"), "postgres://u@h/db?a=b");
        assert_eq!(without_secrets("postgres://:x@h"), "postgres://h");
    }

    #[test]
    fn a_host_is_no_login() {
        assert!(check_host("u%3Ahunter2%40h").is_err() && check_host("u:x@h").is_err());
        assert!(check_host("h").is_ok() && check_host("[fe80::1%25eth0]").is_ok());
    }

    #[test]
    fn a_message_keeps_everything_but_secrets() {
        for text in ["no such file: /a@b", "a 'b' <c@d>: see https://host/x.", "tier 'x': done", "…://…"]
        {
            assert_eq!(in_message(text), text);
        }
        assert_eq!(
            in_message(
                "GET \"https://a.blob.core.windows.net/c/x?sv=1&sig=abc\" failed: (url: http://k:v@h/)"
            ),
            "GET \"https://a.blob.core.windows.net/c/x?sv=1\" failed: (url: http://…@h/)"
        );
    }
}
