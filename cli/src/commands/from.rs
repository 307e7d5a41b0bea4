//! What opens a repository that snapshots come from.

use crate::config::Global;
use crate::context::Context;
use crate::exit::Failure;
use crate::key_services::Proof;
use crate::passwords::{Password, Use};
use crate::secrets::Secret;
use std::ffi::OsString;
use std::path::PathBuf;

/// How to open the repository that snapshots come from; without any of these, with the password of the other one.
#[derive(clap::Args, Debug)]
pub(crate) struct FromPassword {
    /// Read the password of that repository from the first line of a file [env: ESKER_FROM_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    from_password_file: Option<PathBuf>,
    /// Run a command and take its first line of output as that password [env: ESKER_FROM_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", conflicts_with = "from_password_file")]
    from_password_command: Option<OsString>,
    /// Nothing to do: esker tries all key slots
    #[arg(long, value_name = "KEY")]
    from_key_hint: Option<String>,
    /// That repository has the empty password
    #[arg(long, conflicts_with_all = ["from_password_file", "from_password_command"])]
    from_insecure_no_password: bool,
}

impl FromPassword {
    /// The password; that of the other repository, if this one has none of its own.
    pub(crate) fn get(&self, context: &Context) -> Result<Password, Failure> {
        self.own(context)?.map_or_else(|| context.secret(false)?.password(), Ok)
    }

    fn own(&self, context: &Context) -> Result<Option<Password>, Failure> {
        match self.of_flags(context)? {
            None => context.global.password_of_source(),
            given => Ok(given),
        }
    }

    fn of_flags(&self, context: &Context) -> Result<Option<Password>, Failure> {
        if self.from_insecure_no_password {
            return Ok(Some(Password::nothing()));
        }
        if let Some(file) = &self.from_password_file {
            return Password::in_file(file, Use::OpenSource).map(Some);
        }
        let command = self.from_password_command.as_ref();
        let pass = &context.global.pass_env;
        command.map(|command| Password::from_command(command, pass, Use::OpenSource)).transpose()
    }
}

/// The options that give a password.
const PASSWORDS: [&str; 3] = ["from_password_file", "from_password_command", "from_insecure_no_password"];

/// How to open a repository of esker that snapshots come from; without any of these, as the other one.
#[derive(clap::Args, Debug)]
pub(crate) struct FromSecret {
    #[command(flatten)]
    password: FromPassword,
    /// Open that repository with the key in a file [env: ESKER_FROM_KEY_FILE]
    #[arg(long, value_name = "FILE", conflicts_with_all = PASSWORDS)]
    from_key_file: Option<PathBuf>,
    /// Open that repository with shares of a key: give it for each of them
    #[arg(long = "from-share", value_name = "FILE", conflicts_with_all = PASSWORDS, conflicts_with = "from_key_file")]
    from_shares: Vec<PathBuf>,
    /// Open that repository with a key service [env: ESKER_FROM_KMS]
    #[arg(long, value_name = "URL", conflicts_with_all = PASSWORDS, conflicts_with_all = ["from_key_file", "from_shares"])]
    from_kms: Option<String>,
}

impl FromSecret {
    pub(crate) fn get(&self, context: &Context) -> Result<Secret, Failure> {
        if !self.from_shares.is_empty() {
            return Secret::shares(&self.from_shares);
        }
        if let Some(file) = &self.from_key_file {
            return Secret::key_file(file);
        }
        if let Some(url) = &self.from_kms {
            return context.global.key_service(url, None, Proof::Must);
        }
        if let Some(password) = self.password.of_flags(context)? {
            return Ok(Secret::Password(password));
        }
        if let Some(file) = Global::key_file_of_source() {
            return Secret::key_file(&file);
        }
        if let Some(url) = Global::key_service_of_source()? {
            return context.global.key_service(&url, None, Proof::Must);
        }
        match context.global.password_of_source()? {
            Some(password) => Ok(Secret::Password(password)),
            None => context.secret(false),
        }
    }
}
