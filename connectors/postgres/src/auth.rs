//! The authentication methods that a server may require: `require_auth` and `channel_binding`, as in libpq, and one
//! more rule: no password is sent in clear text over an unencrypted connection, unless `require_auth` names `password`.
//! Source: PostgreSQL's documentation, "Parameter Key Words".

use super::conninfo::Settings;
use super::encryption::Encryption;
use std::collections::BTreeSet;

/// The words of `require_auth`. What esker cannot do may stand there beside what it can.
const METHODS: &[&str] = &["password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"];
/// Those that esker has.
const OURS: &[&str] = &["password", "md5", "scram-sha-256", "none"];
/// The first version whose programs know `require_auth`.
const SINCE: u32 = 16;

/// Whether the proof is bound to the TLS session that it goes over (RFC 5802, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Disable,
    /// If the server can.
    Prefer,
    Require,
}

/// What the URL, its service or the environment allow.
#[derive(Clone, Debug)]
pub(super) struct Auth {
    pub(super) binding: Binding,
    /// The words that are allowed, if that was said.
    allowed: Option<BTreeSet<&'static str>>,
    /// As it was said.
    said: Option<String>,
}

impl Auth {
    pub(super) fn read(settings: &Settings, encryption: Encryption) -> Result<Self, String> {
        let binding = match settings.get("channel_binding") {
            None | Some("prefer") => Binding::Prefer,
            Some("disable") => Binding::Disable,
            Some(_) if encryption == Encryption::Disable => {
                return Err("channel_binding=require needs TLS, and sslmode=disable forbids it".into());
            }
            Some(_) => Binding::Require,
        };
        let said = settings.get("require_auth").map(str::to_owned);
        let allowed = said.as_deref().map(methods).transpose()?;
        if let Some(allowed) = &allowed
            && !OURS.iter().any(|method| allowed.contains(method))
        {
            return Err(format!(
                "require_auth={} leaves nothing that esker can do, which is {}",
                said.unwrap_or_default(),
                OURS.join(", ")
            ));
        }
        Ok(Self { binding, allowed, said })
    }

    /// Whether a server may ask for `method`; `is_open` if others can read the line.
    pub(super) fn allows(&self, method: &'static str, is_open: bool) -> Result<(), String> {
        let asks = match method {
            "none" => "lets us in without asking for anything".to_owned(),
            "password" => "asks for the password in clear text".to_owned(),
            other => format!("asks for {other}"),
        };
        match &self.allowed {
            Some(allowed) if !allowed.contains(method) => {
                Err(format!("the server {asks}, and require_auth={} forbids it", self.shown()))
            }
            None if method == "password" && is_open => Err(format!(
                "the server {asks} over a line without TLS, where others can read it: nothing was sent. Ask for TLS \
                 (sslmode=require), or allow it: require_auth=password in the URL"
            )),
            _ => Ok(()),
        }
    }

    fn shown(&self) -> &str {
        self.said.as_deref().unwrap_or_default()
    }

    /// The same for PostgreSQL's programs, of which those since version 16 know it.
    pub(super) fn environment(&self, is_open: bool) -> Vec<(&'static str, String)> {
        let mut all = vec![];
        match &self.said {
            Some(said) => all.push(("PGREQUIREAUTH", said.clone())),
            None if is_open => all.push(("PGREQUIREAUTH", "!password".into())),
            None => {}
        }
        if self.binding != Binding::Prefer {
            let word = if self.binding == Binding::Require { "require" } else { "disable" };
            all.push(("PGCHANNELBINDING", word.into()));
        }
        all
    }

    /// The lowest version of PostgreSQL's programs that do what was asked for.
    pub(super) fn least_version(&self) -> u32 {
        if self.said.is_some() { SINCE } else { 0 }
    }
}

/// The methods that a list allows: those that it names, or all but those that it names with `!`.
fn methods(text: &str) -> Result<BTreeSet<&'static str>, String> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    let is_negative = words.iter().all(|word| word.starts_with('!'));
    if !is_negative && words.iter().any(|word| word.starts_with('!')) {
        return Err(format!("require_auth={text}: either all words begin with '!', or none"));
    }
    let mut named = BTreeSet::new();
    for word in words {
        let word = word.trim_start_matches('!');
        let known = METHODS.iter().find(|method| **method == word);
        let known = known
            .ok_or_else(|| format!("require_auth={text}: '{word}' is not one of {}", METHODS.join(", ")))?;
        if !named.insert(*known) {
            return Err(format!("require_auth={text}: '{word}' stands there twice"));
        }
    }
    Ok(METHODS.iter().copied().filter(|method| named.contains(method) != is_negative).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let all = |text: &str| methods(text).unwrap().into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(all("scram-sha-256"), "scram-sha-256");
        assert_eq!(all("md5,scram-sha-256"), "md5 scram-sha-256");
        assert_eq!(all("!password"), "gss md5 none oauth scram-sha-256 sspi");
        assert_eq!(all("!password,!md5,!none"), "gss oauth scram-sha-256 sspi");
        for bad in ["", "nonsense", "password,!md5", "md5,md5", "SCRAM-SHA-256", "!!md5x"] {
            assert!(methods(bad).is_err(), "{bad}");
        }
    }
}
