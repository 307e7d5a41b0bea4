//! The parameters of a connection: from a URL, the service that it or the environment names, and the environment, in
//! this order, as libpq reads them. Every parameter of libpq is honoured, or refused by name; none is ignored.
//! Variables that choose a server count only for URLs that name none: a URL with a host means that host. Source:
//! PostgreSQL's documentation, "Connection Strings", "Parameter Key Words".

use super::service::service_of;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

/// Where a parameter may come from, besides the URL and its service.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    /// The environment.
    Any,
    /// The environment, if the URL names no host.
    Place,
    /// Nowhere else: the variable plays no part.
    Url,
}

/// A parameter: its name, its variable, where it may come from, and the values that it may have if not all.
struct Parameter {
    name: &'static str,
    variable: &'static str,
    scope: Scope,
    only: Option<&'static [&'static str]>,
}

const fn taken(name: &'static str, variable: &'static str, scope: Scope) -> Parameter {
    Parameter { name, variable, scope, only: None }
}

const fn only(name: &'static str, variable: &'static str, values: &'static [&'static str]) -> Parameter {
    Parameter { name, variable, scope: Scope::Any, only: Some(values) }
}

const PARAMETERS: &[Parameter] = &[
    taken("host", "PGHOST", Scope::Place),
    taken("hostaddr", "PGHOSTADDR", Scope::Place),
    taken("port", "PGPORT", Scope::Any),
    taken("user", "PGUSER", Scope::Any),
    taken("password", "PGPASSWORD", Scope::Any),
    taken("passfile", "PGPASSFILE", Scope::Any),
    // A URL without a database means all of them.
    taken("dbname", "PGDATABASE", Scope::Url),
    taken("service", "PGSERVICE", Scope::Place),
    taken("servicefile", "PGSERVICEFILE", Scope::Any),
    taken("target_session_attrs", "PGTARGETSESSIONATTRS", Scope::Place),
    taken("connect_timeout", "PGCONNECT_TIMEOUT", Scope::Any),
    taken("application_name", "PGAPPNAME", Scope::Url),
    taken("fallback_application_name", "", Scope::Url),
    taken("options", "PGOPTIONS", Scope::Url),
    taken("client_encoding", "PGCLIENTENCODING", Scope::Url),
    taken("keepalives", "", Scope::Url),
    taken("keepalives_idle", "", Scope::Url),
    taken("keepalives_interval", "", Scope::Url),
    taken("keepalives_count", "", Scope::Url),
    taken("tcp_user_timeout", "", Scope::Url),
    taken("sslmode", "PGSSLMODE", Scope::Any),
    taken("sslrootcert", "PGSSLROOTCERT", Scope::Any),
    taken("sslcert", "PGSSLCERT", Scope::Any),
    taken("sslkey", "PGSSLKEY", Scope::Any),
    // Of sockets only, and then refused.
    taken("requirepeer", "PGREQUIREPEER", Scope::Any),
    // What asks for more than we do must not be passed over; what asks for what we do is fine.
    only("sslcrl", "PGSSLCRL", &[]),
    only("sslcrldir", "PGSSLCRLDIR", &[]),
    only("sslpassword", "", &[]),
    only("sslcompression", "PGSSLCOMPRESSION", &["0"]),
    only("sslsni", "PGSSLSNI", &["1"]),
    only("sslcertmode", "PGSSLCERTMODE", &["allow"]),
    only("sslnegotiation", "PGSSLNEGOTIATION", &["postgres"]),
    only("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    only("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", &["TLSv1.3"]),
    only("min_protocol_version", "PGMINPROTOCOLVERSION", &["3.0"]),
    only("max_protocol_version", "PGMAXPROTOCOLVERSION", &["3.0", "3.2", "latest"]),
    only("channel_binding", "PGCHANNELBINDING", &["disable", "prefer", "require"]),
    taken("require_auth", "PGREQUIREAUTH", Scope::Any),
    only("gssencmode", "PGGSSENCMODE", &["disable", "prefer"]),
    // Without GSS these have nothing to say; in a URL somebody wants it.
    Parameter { scope: Scope::Url, ..only("krbsrvname", "PGKRBSRVNAME", &[]) },
    Parameter { scope: Scope::Url, ..only("gsslib", "PGGSSLIB", &[]) },
    Parameter { scope: Scope::Url, ..only("gssdelegation", "PGGSSDELEGATION", &["0"]) },
    Parameter { scope: Scope::Place, ..only("load_balance_hosts", "PGLOADBALANCEHOSTS", &["disable"]) },
];

/// Parameters by their names in libpq; none is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// All that is said, in its order.
    pub(super) fn read(url: &str, environment: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut settings = Self::default();
        for (name, value) in parse_url(url)? {
            settings.take(&name, value, "the URL")?;
        }
        let names_service = settings.get("service").is_some();
        let names_host =
            names_service || settings.get("host").is_some() || settings.get("hostaddr").is_some();
        let own = settings.clone();
        let from_environment = |name: &str| {
            let parameter = PARAMETERS.iter().find(|parameter| parameter.name == name)?;
            environment.get(parameter.variable).filter(|value| !value.is_empty())
        };
        let service = own.get("service").map(str::to_owned);
        if let Some(name) = service.or_else(|| from_environment("service").filter(|_| !names_host).cloned()) {
            let file = own.get("servicefile").or_else(|| from_environment("servicefile").map(String::as_str));
            for (key, value) in service_of(&name, file, environment)? {
                // A service that the environment names does not choose databases.
                let fits = names_service || key != "dbname";
                if settings.get(&key).is_none() && fits {
                    settings.take(&key, value, &format!("service '{name}'"))?;
                }
            }
        }
        let has_place = settings.get("host").is_some() || settings.get("hostaddr").is_some();
        for parameter in PARAMETERS {
            let counts = match parameter.scope {
                Scope::Any => true,
                Scope::Place => !names_host && !has_place,
                Scope::Url => false,
            };
            if counts
                && settings.get(parameter.name).is_none()
                && let Some(value) = environment.get(parameter.variable)
            {
                settings.take(parameter.name, value.clone(), parameter.variable)?;
            }
        }
        Ok(settings)
    }

    /// A parameter's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn take(&mut self, name: &str, value: String, place: &str) -> Result<(), String> {
        let parameter = PARAMETERS.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.ok_or_else(|| format!("unknown parameter '{name}' in {place}"))?;
        if value.is_empty() {
            self.0.remove(parameter.name);
            return Ok(());
        }
        if let Some(values) = parameter.only
            && !values.contains(&value.as_str())
        {
            let way = match values {
                [] => "leave it out".to_owned(),
                values => format!("it can be {}", values.join(", ")),
            };
            return Err(format!("'{name}' of {place} asks for what esker cannot do; {way}"));
        }
        self.0.insert(parameter.name, value);
        Ok(())
    }
}

/// Whether a text is a URL of PostgreSQL, and where its scheme ends.
#[must_use]
pub fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    matches!(scheme, "postgres" | "postgresql" | "postgres+physical").then_some(scheme)
}

/// The parts of a URL: who and where, database, parameters.
fn parts(text: &str) -> (&str, &str, &str) {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    (authority, path, query)
}

/// `scheme://[user[:password]@][host[:port][,…]][/database][?name=value&…]` as libpq reads it, several hosts included.
fn parse_url(text: &str) -> Result<Vec<(String, String)>, String> {
    let (authority, path, query) = parts(text);
    let mut all = vec![];
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            all.push((name.to_owned(), value));
        }
    };
    let (who, places) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    put("user", decoded(user)?);
    put("password", decoded(password)?);
    let (mut hosts, mut ports) = (vec![], vec![]);
    for place in places.split(',') {
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
            None => place.split_once(':').unwrap_or((place, "")),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            // Not shown: it may be a part of a password.
            return Err("a port in the URL is no number; '/', '?', '@' in a user or password are written \
                %2F, %3F, %40"
                .into());
        }
        engine::secrets::check_host(host)?;
        hosts.push(decoded(host)?);
        ports.push(port.to_owned());
    }
    let given = |values: &[String]| match values.iter().any(|value| !value.is_empty()) {
        true => values.join(","),
        false => String::new(),
    };
    put("host", given(&hosts));
    put("port", given(&ports));
    put("dbname", decoded(path.trim_matches('/'))?);
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match (decoded(name)?.as_str(), decoded(value)?) {
            // As JDBC's URLs have it; libpq takes it, too.
            ("ssl", value) if value == "true" => all.push(("sslmode".into(), "require".into())),
            (name, value) => all.push((name.to_owned(), value)),
        }
    }
    Ok(all)
}

/// A part of a URL without its `%XX`.
fn decoded(text: &str) -> Result<String, String> {
    let bad = || {
        "a '%' in the URL is not followed by the two digits of a byte of UTF-8; itself it is %25".to_owned()
    };
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let is_byte = after.len() >= 2 && after.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
        if !is_byte || after.starts_with("00") {
            return Err(bad());
        }
        rest = &after[2..];
    }
    percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::read(url, &environment.iter().map(pair).collect())
    }

    #[test]
    fn urls() {
        let all = read(
            "postgres://al%20ice:s%3Ae@h1:1,[::1]:2,h3/sh%2Fop%3F?sslmode=require&options=-c%20a=b+c",
            &[],
        );
        let all = all.unwrap();
        for (name, value) in [
            ("user", "al ice"),
            ("password", "s:e"),
            ("host", "h1,::1,h3"),
            ("port", "1,2,"),
            ("dbname", "sh/op?"),
            ("sslmode", "require"),
            ("options", "-c a=b+c"),
        ] {
            assert_eq!(all.get(name), Some(value), "{name}");
        }
        // Names that other readers of URLs would resolve.
        assert_eq!(read("postgres://h/..", &[]).unwrap().get("dbname"), Some(".."));
        assert_eq!(read("postgres://h/%2E%2E#x", &[]).unwrap().get("dbname"), Some("..#x"));
        assert_eq!(read("postgres://u:p@/db?host=/run", &[]).unwrap().get("host"), Some("/run"));
        for bad in [
            "postgres://h/%zz",
            "postgres://h/%",
            "postgres://h/%00",
            "postgres://h/%ff",
            "postgres://u:p/a@h/x",
        ] {
            assert!(read(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (url, name) in [
            ("postgres://h?channel_binding=nonsense", "channel_binding"),
            ("postgres://h?gssencmode=require", "gssencmode"),
            ("postgres://h?sslcrl=/x", "sslcrl"),
            ("postgres://h?nonsense=1", "nonsense"),
        ] {
            let why = read(url, &[]).unwrap_err();
            assert!(why.contains(&format!("'{name}'")), "{why}");
        }
        assert!(
            read("postgres://h", &[("PGCHANNELBINDING", "nonsense")])
                .unwrap_err()
                .contains("PGCHANNELBINDING")
        );
        assert!(read("postgres://h?gssencmode=prefer&channel_binding=prefer&sslsni=1", &[]).is_ok());
    }

    #[test]
    fn variables_choose_a_server_only_where_the_url_does_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            "# mine\n[other]\nhost=x\n\n[svc]\nhost=elsewhere\nport=7\ndbname=one\nuser=bob\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let environment = [
            ("PGSERVICEFILE", path),
            ("PGSERVICE", "svc"),
            ("PGHOST", "third"),
            ("PGHOSTADDR", "127.0.0.2"),
            ("PGDATABASE", "x"),
            ("PGOPTIONS", "-c x=y"),
            ("PGTARGETSESSIONATTRS", "standby"),
        ];
        let named = read("postgres://me@h:1", &environment).unwrap();
        let pairs = |settings: &Settings| {
            settings.0.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(pairs(&named), format!("host=h port=1 servicefile={path} user=me"));
        let open = read("postgres:///db", &environment).unwrap();
        assert_eq!(pairs(&open), format!("dbname=db host=elsewhere port=7 servicefile={path} user=bob"));
        // A service in the URL is a part of it.
        let own = read("postgres://me@/?service=svc", &environment).unwrap();
        assert_eq!(own.get("dbname"), Some("one"));
        assert_eq!((own.get("user"), own.get("hostaddr")), (Some("me"), None));
        let why = read("postgres:///?service=none", &environment).unwrap_err();
        assert!(why.contains("'none'") && why.contains(path), "{why}");
        let bare = read("postgres://", &environment[2..]).unwrap();
        assert_eq!((bare.get("host"), bare.get("hostaddr")), (Some("third"), Some("127.0.0.2")));
        assert_eq!((bare.get("dbname"), bare.get("options")), (None, None));
    }
}
