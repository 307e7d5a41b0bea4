//! How a session begins: the server asks who we are, and says which version it is.
//! Source: PostgreSQL's documentation, "Start-up", "SASL Authentication".

use super::Connection;
use super::connection::{PgError, PgResult, refusal, unexpected, version_number};
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
