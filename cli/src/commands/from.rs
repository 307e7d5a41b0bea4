//! The password of a repository that snapshots come from.

use crate::context::Context;
use crate::exit::Failure;
use crate::passwords::Password;
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
    pub(crate) fn get(&self, context: &Context) -> Result<Password, Failure> {
        if self.from_insecure_no_password {
            return Ok(Password::nothing());
        }
        let (file, command) = (self.from_password_file.as_ref(), self.from_password_command.as_ref());
        context.global.password_of_source(file, command)?.map_or_else(|| context.password(false), Ok)
    }
}
