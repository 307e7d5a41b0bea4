//! New key slots: whose they are, and what is to open them.

use crate::context::{Context, owner};
use crate::exit::Failure;
use crate::key_services::Proof;
use crate::passwords::{Password, Use};
use crate::secret_files::SecretFile;
use crate::secrets::Secret;
use chunkstore::ObjectId;
use chunkstore::env::SystemEnv;
use chunkstore::keys::{RawKey, SlotOwner};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Owner {
    /// Host that the slot is said to be of, instead of this one
    #[arg(long, value_name = "HOST", value_parser = crate::words::filled())]
    host: Option<String>,
    /// User that the slot is said to be of, instead of this one
    #[arg(long, value_name = "USER", value_parser = crate::words::filled())]
    user: Option<String>,
    /// What to call the slot
    #[arg(long, default_value = "", value_name = "TEXT", value_parser = crate::words::kept())]
    pub(super) label: String,
}

impl Owner {
    /// The same, with another label where none is given.
    pub(super) fn labelled(mut self, label: &str) -> Self {
        if self.label.is_empty() {
            label.clone_into(&mut self.label);
        }
        self
    }

    pub(super) fn get(&self) -> SlotOwner {
        let mut owner = owner(&self.label);
        if let Some(host) = &self.host {
            owner.hostname.clone_from(host);
        }
        if let Some(user) = &self.user {
            owner.username.clone_from(user);
        }
        owner
    }
}

#[derive(clap::Args, Debug)]
pub(super) struct NewSecret {
    /// Read the new password from the first line of a file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// The new password is empty: whoever can read the repository can read the data
    #[arg(long, conflicts_with = "new_password_file")]
    new_insecure_no_password: bool,
    /// Make a key instead of a password, and write it into a new file, which --key-file reads
    #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_file", "new_insecure_no_password"])]
    new_key_file: Option<PathBuf>,
    /// Make a slot that a key service opens, with --kms
    #[arg(long, value_name = "URL", conflicts_with_all = ["new_password_file", "new_insecure_no_password", "new_key_file"])]
    new_kms: Option<String>,
}

/// A secret, and the file that was written with it, if one was.
pub(super) struct Made {
    pub(super) secret: Secret,
    file: Option<SecretFile>,
}

impl NewSecret {
    /// Makes the secret, or reads it. A key is on disk before this returns.
    pub(super) fn make(&self, context: &Context, proof: Proof) -> Result<Made, Failure> {
        if let Some(url) = &self.new_kms {
            let secret = context.global.key_service(url, context.file.as_ref(), proof)?;
            return Ok(Made { secret, file: None });
        }
        if let Some(path) = &self.new_key_file {
            let key = RawKey::generate(&SystemEnv)?;
            let file = SecretFile::of_key(path, &key)?;
            return Ok(Made { secret: Secret::Key(key), file: Some(file) });
        }
        let password = match &self.new_password_file {
            _ if self.new_insecure_no_password => Password::nothing(),
            Some(file) => Password::in_file(file, Use::New)?,
            None => Password::ask("new password: ", true, Use::New)?,
        };
        Ok(Made { secret: Secret::Password(password), file: None })
    }
}

impl Made {
    /// Keeps the file if the slot was made, or may have been; otherwise it is removed.
    pub(super) fn settle(self, slot: Result<ObjectId, (Failure, bool)>) -> Result<ObjectId, Failure> {
        SecretFile::settle_all(self.file.into_iter().collect(), slot)
    }
}
