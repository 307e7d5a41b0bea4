//! How a session begins: the server asks who we are, and says which version it is.
//! Source: PostgreSQL's documentation, "Start-up", "SASL Authentication".

use super::Connection;
use super::connection::unexpected;
use super::failure::{PgError, PgResult, refusal};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::{backend, frontend};

impl Connection {
    /// Proves who we are, and reads on until the server takes statements.
    pub(super) fn authenticate(&mut self, user: &str, password: Option<&str>) -> PgResult<()> {
        use backend::Message as M;
        let password = || {
            password.map(str::to_owned).ok_or_else(|| PgError::Refused {
                code: "28P01".into(),
                message: "the server wants a password: set PGPASSWORD, or PGPASSFILE or ~/.pgpass".into(),
            })
        };
        let mut scram = None;
        loop {
            let message = self.message()?;
            match self.parsed(&message)? {
                M::AuthenticationOk => break,
                M::AuthenticationCleartextPassword => {
                    let password = password()?;
                    self.send(|out| frontend::password_message(password.as_bytes(), out))?;
                }
                M::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password()?.as_bytes(), body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                M::AuthenticationSasl(body) => {
                    let known = body.mechanisms().any(|name| Ok(name == sasl::SCRAM_SHA_256))?;
                    if !known {
                        return Err(PgError::Lost(
                            "the server wants an authentication that is not known here".into(),
                        ));
                    }
                    let state =
                        sasl::ScramSha256::new(password()?.as_bytes(), sasl::ChannelBinding::unsupported());
                    self.send(|out| {
                        frontend::sasl_initial_response(sasl::SCRAM_SHA_256, state.message(), out)
                    })?;
                    scram = Some(state);
                }
                M::AuthenticationSaslContinue(body) => {
                    let Some(state) = &mut scram else { return Err(unexpected(b'R')) };
                    state.update(body.data())?;
                    self.send(|out| frontend::sasl_response(state.message(), out))?;
                }
                M::AuthenticationSaslFinal(body) => {
                    let Some(state) = &mut scram else { return Err(unexpected(b'R')) };
                    state.finish(body.data())?;
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
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
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
    }

    #[test]
    fn names_are_bytes() {
        let message = startup_message(&[("user", b"a"), ("database", b"t\xe9b")]).unwrap();
        assert_eq!(message, b"\0\0\0\x1d\0\x03\0\0user\0a\0database\0t\xe9b\0\0");
        assert!(startup_message(&[("user", b"a\0database")]).is_err());
    }
}
