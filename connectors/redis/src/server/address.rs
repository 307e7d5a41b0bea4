//! The address and database of a Redis server, from its URL.

use std::path::PathBuf;
use url::Url;

/// How a URL's scheme wants a server to be read, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Key by key, rather than by replication.
    pub scan: bool,
    /// Over TLS.
    pub tls: bool,
    /// Over a Unix socket.
    pub unix: bool,
}

impl Scheme {
    /// `redis`, `rediss`, `valkey`, `valkeys`, each also with `+scan`; those without TLS also with `+unix` behind that.
    /// `None` for what is no live Redis.
    #[must_use]
    pub fn of(scheme: &str) -> Option<Self> {
        let (rest, unix) = scheme.strip_suffix("+unix").map_or((scheme, false), |rest| (rest, true));
        let (name, scan) = rest.strip_suffix("+scan").map_or((rest, false), |rest| (rest, true));
        let tls = match name {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" if !unix => true,
            _ => return None,
        };
        Some(Self { scan, tls, unix })
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A name or number without brackets, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(to, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(to, "{host}:{port}"),
            Self::Unix(path) => write!(to, "{}", path.display()),
        }
    }
}

/// What a URL says of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Where it is.
    pub address: Address,
    /// ACL user, if it is named.
    pub user: Option<String>,
    /// Password, if it is there.
    pub password: Option<String>,
    /// The database, if one is named.
    pub database: Option<u32>,
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Parts {
    /// Reads `redis://[[user]:password@]host[:port][/database]` or, as the clients of Redis do,
    /// `redis+unix:///path[?db=N&user=USER&password=PASSWORD]`.
    ///
    /// # Errors
    /// What cannot be meant.
    pub fn of(url: &Url, scheme: Scheme) -> Result<Self, String> {
        let mut parts = if scheme.unix { unix(url)? } else { tcp(url)? };
        for (name, value) in url.query_pairs() {
            match (&*name, scheme.unix) {
                ("db", _) if parts.database.is_none() => parts.database = Some(database(&value)?),
                ("user", true) => parts.user = Some(value.into_owned()),
                ("password", true) => parts.password = Some(value.into_owned()),
                _ => return Err(format!("parameter '{name}' in the URL is unknown, or said twice")),
            }
        }
        if url.fragment().is_some() {
            return Err("'#' in the URL: in a name or a password, write it as %23".into());
        }
        Ok(parts)
    }
}

fn tcp(url: &Url) -> Result<Parts, String> {
    engine::secrets::check_host(url.host_str().unwrap_or_default())?;
    let host = decoded(url.host_str().unwrap_or_default());
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("no host in the URL; a Unix socket is redis+unix:///path".into());
    }
    if host.contains(|c: char| c == '/' || c.is_ascii_control()) {
        return Err("this is no name of a host".into());
    }
    let number = url.path().trim_matches('/');
    Ok(Parts {
        address: Address::Tcp(host, url.port().unwrap_or(6379)),
        user: Some(decoded(url.username())).filter(|user| !user.is_empty()),
        password: engine::source::password(url),
        database: (!number.is_empty()).then(|| database(number)).transpose()?,
    })
}

fn unix(url: &Url) -> Result<Parts, String> {
    use std::os::unix::ffi::OsStringExt as _;
    let path: Vec<u8> = percent_encoding::percent_decode_str(url.path()).collect();
    if !url.host_str().unwrap_or_default().is_empty() || path.len() < 2 || path.contains(&0) {
        let scheme = url.scheme();
        return Err(format!(
            "give the socket's absolute path: {scheme}:///path, with ?db=N for one database"
        ));
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(path));
    Ok(Parts { address: Address::Unix(path), user: None, password: None, database: None })
}

fn database(text: &str) -> Result<u32, String> {
    // Not shown: it may be a part of a password.
    text.parse().map_err(|_| "what the URL has for a database is no number".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::connector::Connector as _;

    fn parts(url: &str) -> Result<Parts, String> {
        let url = Url::parse(url).unwrap();
        Parts::of(&url, Scheme::of(url.scheme()).unwrap())
    }

    #[test]
    fn every_scheme_is_listed() {
        let mut live = 0;
        for name in ["redis", "rediss", "valkey", "valkeys", "unix", "redis+rdb"] {
            for scan in ["", "+scan"] {
                for unix in ["", "+unix"] {
                    let scheme = format!("{name}{scan}{unix}");
                    let known = Scheme::of(&scheme);
                    let listed = crate::Redis.schemes().iter().any(|own| own.name == scheme);
                    assert_eq!(known.is_some(), listed && name != "redis+rdb", "{scheme}");
                    live += usize::from(known.is_some());
                    if let Some(known) = known {
                        let wanted = (!scan.is_empty(), name.ends_with("ss") || name == "valkeys");
                        assert_eq!((known.scan, known.tls), wanted, "{scheme}");
                    }
                }
            }
        }
        assert_eq!(live, 12);
    }

    #[test]
    fn places_databases_and_logins() {
        let found = parts("redis://al%20ice:s%3Aecret@h:1/3").unwrap();
        assert_eq!((found.address.to_string().as_str(), found.database), ("h:1", Some(3)));
        assert_eq!((found.user.as_deref(), found.password.as_deref()), (Some("al ice"), Some("s:ecret")));
        let socket = parts("redis+unix:///run/a%20b/redis.sock?db=2&user=u&password=p%26").unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.database), ("/run/a b/redis.sock", Some(2)));
        assert_eq!((socket.user.as_deref(), socket.password.as_deref()), (Some("u"), Some("p&")));
        assert_eq!(parts("rediss://[::1]").unwrap().address.to_string(), "[::1]:6379");
        assert_eq!(parts("valkey+scan://h/").unwrap().database, None);
        assert_eq!(parts("redis://h?db=4").unwrap().database, Some(4));
        for wrong in [
            "redis://",
            "redis:///3",
            "redis://h/x",
            "redis://h/-1",
            "redis://h/1/2",
            "redis://h/1?db=2",
            "redis://h?dbb=2",
            "redis://h?password=p",
            "redis://h/1#2",
            "redis://a%2F..%2Fb/1",
            "redis+unix://host/run/x.sock",
            "redis+unix:///",
            "redis+unix:///a%00b",
            "redis+unix:///run/x.sock?db=one",
            "redis+unix:///run/x.sock?timeout=1",
        ] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
