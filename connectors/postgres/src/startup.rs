//! How a session begins: the server asks who we are, and says which version it is.
//! Source: PostgreSQL's documentation, "Start-up", "SASL Authentication".

use super::auth::{Auth, Binding};
use super::failure::unexpected;
use super::failure::{PgError, PgResult, refusal};
use super::{Connection, Server, binding};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::{backend, frontend};

/// Rounds of a proof by SCRAM, some seconds of work; a server of PostgreSQL wants 4096 unless it is set to more.
const MAX_ROUNDS: u64 = 10_000_000;

/// How many rounds a server wants, by its first message of SCRAM. Source: RFC 5802, section 5.1, attribute `i`.
fn rounds(message: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(',').find_map(|attribute| attribute.strip_prefix("i="))?.parse().ok()
}

/// What a login came to so far.
#[derive(Default)]
struct Login {
    /// What the server asked for; once, since nothing is asked for twice.
    method: Option<&'static str>,
    scram: Option<sasl::ScramSha256>,
    /// Whether the server proved that it knows the password, too.
    is_proven: bool,
    is_bound: bool,
}

impl Login {
    fn asks(&mut self, method: &'static str, auth: &Auth, is_open: bool) -> PgResult<()> {
        if self.method.replace(method).is_some() {
            return Err(PgError::Lost("the server asks for a second proof of who we are".into()));
        }
        auth.allows(method, is_open).map_err(refused)
    }

    /// The server lets us in.
    fn ends(&mut self, auth: &Auth, is_open: bool) -> PgResult<()> {
        match self.method {
            None => self.asks("none", auth, is_open)?,
            Some("scram-sha-256") if !self.is_proven => {
                return Err(PgError::Lost(
                    "the server did not prove that it knows the password: it may be another one".into(),
                ));
            }
            Some(_) => {}
        }
        if auth.binding == Binding::Require && !self.is_bound {
            return Err(PgError::Lost(
                "channel_binding=require, and the server lets us in without SCRAM-SHA-256-PLUS over TLS"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// A refusal of ours.
fn refused(message: String) -> PgError {
    PgError::Refused { code: String::new(), message }
}

impl Connection {
    /// Proves who we are, and reads on until the server takes statements.
    pub(super) fn authenticate(&mut self, server: &Server, password: Option<&str>) -> PgResult<()> {
        use backend::Message as M;
        let (auth, is_open) = (&server.auth, self.wire.is_open());
        let password = || {
            password.map(str::to_owned).ok_or_else(|| PgError::Refused {
                code: "28P01".into(),
                message: "the server wants a password: set PGPASSWORD, or PGPASSFILE or ~/.pgpass".into(),
            })
        };
        let mut login = Login::default();
        loop {
            let message = self.message()?;
            match self.parsed(&message)? {
                M::AuthenticationOk => {
                    login.ends(auth, is_open)?;
                    break;
                }
                M::AuthenticationCleartextPassword => {
                    login.asks("password", auth, is_open)?;
                    let password = password()?;
                    self.send(|out| frontend::password_message(password.as_bytes(), out))?;
                }
                M::AuthenticationMd5Password(body) => {
                    login.asks("md5", auth, is_open)?;
                    let hash = md5_hash(server.user.as_bytes(), password()?.as_bytes(), body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                M::AuthenticationSasl(body) => {
                    login.asks("scram-sha-256", auth, is_open)?;
                    let offered: Vec<String> = body.mechanisms().map(|name| Ok(name.to_owned())).collect()?;
                    let (mechanism, binding) = self.mechanism(&offered, auth.binding)?;
                    login.is_bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
                    let state = sasl::ScramSha256::new(password()?.as_bytes(), binding);
                    self.send(|out| frontend::sasl_initial_response(mechanism, state.message(), out))?;
                    login.scram = Some(state);
                }
                M::AuthenticationSaslContinue(body) => {
                    let Some(state) = &mut login.scram else { return Err(unexpected(b'R')) };
                    if rounds(body.data()).is_none_or(|rounds| rounds > MAX_ROUNDS) {
                        let why =
                            format!("the server wants a proof of more than {MAX_ROUNDS} rounds of SCRAM");
                        return Err(PgError::Lost(why));
                    }
                    state.update(body.data())?;
                    self.send(|out| frontend::sasl_response(state.message(), out))?;
                }
                M::AuthenticationSaslFinal(body) => {
                    let Some(state) = &mut login.scram else { return Err(unexpected(b'R')) };
                    state.finish(body.data())?;
                    login.is_proven = true;
                }
                M::ErrorResponse(body) => return Err(refusal(&body)),
                M::NoticeResponse(_) => {}
                _ => {
                    return Err(PgError::Lost(
                        "the server wants an authentication that is not known here".into(),
                    ));
                }
            }
        }
        loop {
            let message = self.message()?;
            match self.parsed(&message)? {
                M::ParameterStatus(body) if body.name()? == "server_version" => {
                    self.version = version_number(body.value()?);
                }
                M::ParameterStatus(body) if body.name()? == "in_hot_standby" => {
                    self.is_standby = Some(body.value()? == "on");
                }
                M::ParameterStatus(body) if body.name()? == "default_transaction_read_only" => {
                    self.is_read_only = Some(body.value()? == "on");
                }
                M::ErrorResponse(body) => return Err(refusal(&body)),
                M::ReadyForQuery(_) => return Ok(()),
                _ => {}
            }
        }
    }

    /// The best of the mechanisms that are offered, and what binds it to the line. Over TLS a server that does not offer
    /// to bind is told that we could: whoever took the offer out of its message is found out (RFC 5802, section 6).
    fn mechanism(
        &self,
        offered: &[String],
        wanted: Binding,
    ) -> PgResult<(&'static str, sasl::ChannelBinding)> {
        let has = |name: &str| offered.iter().any(|offered| offered == name);
        let end_point = match wanted {
            Binding::Disable => None,
            Binding::Prefer | Binding::Require => binding::end_point(&self.wire),
        };
        match end_point {
            Some(end_point) if has(sasl::SCRAM_SHA_256_PLUS) => {
                Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(end_point)))
            }
            _ if wanted == Binding::Require => Err(PgError::Lost(
                "channel_binding=require, and the server does not offer SCRAM-SHA-256-PLUS over this line"
                    .into(),
            )),
            Some(_) if has(sasl::SCRAM_SHA_256) => {
                Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()))
            }
            None if has(sasl::SCRAM_SHA_256) => {
                Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()))
            }
            _ => Err(PgError::Lost("the server wants an authentication that is not known here".into())),
        }
    }
}

/// The first message. The library's takes text only, and a database's name need not be any.
#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
pub(super) fn startup_message(parameters: &[(&str, &[u8])]) -> PgResult<Vec<u8>> {
    const PROTOCOL: u32 = 3 << 16;
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for (name, value) in parameters {
        if value.contains(&0) {
            return Err(PgError::Lost(format!("a {name} that cannot be sent")));
        }
        body.extend([name.as_bytes(), &[0], value, &[0]].concat());
    }
    body.push(0);
    let len = u32::try_from(body.len() + 4).map_err(std::io::Error::other)?;
    Ok([&len.to_be_bytes()[..], &body].concat())
}

/// `15.18 (Debian …)` as 150018, `19beta1` as 190000.
fn version_number(text: &str) -> u32 {
    let number = text.split(|character: char| !(character.is_ascii_digit() || character == '.')).next();
    let mut parts = number.unwrap_or_default().split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    // Two digits each, whatever a server says.
    let mut next = || parts.next().filter(|number| *number < 100).unwrap_or(0);
    let (major, minor) = (next(), next());
    if major < 10 { major * 10_000 + minor * 100 } else { major * 10_000 + minor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("19beta1"), 190_000);
        assert_eq!(version_number("9.6.24"), 90_600);
        assert_eq!(version_number("999999999.4"), 400);
        assert_eq!(version_number("17.4294967295"), 170_000);
        assert_eq!(version_number("99999999999999999999"), 0);
        assert_eq!(version_number(""), 0);
    }

    #[test]
    fn names_are_bytes() {
        let message = startup_message(&[("user", b"a"), ("database", b"t\xe9b")]).unwrap();
        assert_eq!(message, b"\0\0\0\x1d\0\x03\0\0user\0a\0database\0t\xe9b\0\0");
        assert!(startup_message(&[("user", b"a\0database")]).is_err());
    }
}
