//! What opens a repository, from flags, variables and esker.toml.

use super::Global;
use crate::exit::Failure;
use crate::file::File;
use crate::key_services::{self, Proof, Way};
use crate::passwords::{Password, Use};
use crate::secrets::Secret;
use crate::variables::{environment_path, environment_text};
use std::ffi::OsStr;
use std::path::PathBuf;

impl Global {
    /// What opens the repository, from wherever it was given; a password is asked for on a terminal.
    /// A flag goes before every variable, and a variable before esker.toml.
    pub(crate) fn secret(&self, confirm: bool, file: Option<&File>) -> Result<Secret, Failure> {
        if self.recovery {
            return Secret::ask_words();
        }
        match self.secret_unasked(file)? {
            Some(secret) => Ok(secret),
            None => Password::ask("password for the repository: ", confirm, Use::Open).map(Secret::Password),
        }
    }

    /// The same, if it is given somewhere.
    pub(crate) fn secret_unasked(&self, file: Option<&File>) -> Result<Option<Secret>, Failure> {
        if self.recovery {
            return Ok(None);
        }
        if !self.shares.is_empty() {
            return Secret::shares(&self.shares).map(Some);
        }
        if let Some(file) = &self.key_file {
            return Secret::key_file(file).map(Some);
        }
        if let Some(url) = &self.key_services.kms {
            return self.key_service(url, file, Proof::Must).map(Some);
        }
        if let Some(password) = self.password_of_flags(file)? {
            return Ok(Some(Secret::Password(password)));
        }
        if let Some(file) = environment_path("ESKER_KEY_FILE") {
            return Secret::key_file(&file).map(Some);
        }
        if let Some(url) = environment_text("ESKER_KMS")? {
            return self.key_service(&url, file, Proof::Must).map(Some);
        }
        if let Some(password) = self.password_of_variables(file)? {
            return Ok(Some(Secret::Password(password)));
        }
        if let Some(file) = file.and_then(|file| file.key_file.as_ref()) {
            return Secret::key_file(file).map(Some);
        }
        if let Some(url) = file.and_then(|file| file.kms.as_ref()) {
            return self.key_service(url, file, Proof::Must).map(Some);
        }
        Ok(self.password_of_file(file)?.map(Secret::Password))
    }

    /// Whether a flag or a variable names what opens the repository; nothing is read.
    pub(crate) fn names_secret(&self) -> bool {
        self.flags_name_secret() || self.variable_names_secret().is_some()
    }

    /// The first variable that names what opens the repository; nothing is read.
    pub(crate) fn variable_names_secret(&self) -> Option<&'static str> {
        let variables = [
            "ESKER_KEY_FILE",
            "ESKER_KMS",
            "ESKER_PASSWORD_FILE",
            "ESKER_PASSWORD_COMMAND",
            "ESKER_PASSWORD",
        ];
        variables.into_iter().find(|name| environment_path(name).is_some())
    }

    /// Whether a flag names what opens the repository.
    pub(crate) fn flags_name_secret(&self) -> bool {
        self.recovery
            || !self.shares.is_empty()
            || self.insecure_no_password
            || [&self.key_file, &self.password_file].into_iter().any(Option::is_some)
            || self.password_command.is_some()
            || self.key_services.kms.is_some()
    }

    fn password_of_flags(&self, file: Option<&File>) -> Result<Option<Password>, Failure> {
        if self.insecure_no_password {
            return Ok(Some(Password::nothing()));
        }
        if let Some(file) = &self.password_file {
            return Password::in_file(file, Use::Open).map(Some);
        }
        let given = self.password_command.as_ref();
        given.map(|command| Password::from_command(command, &self.passed(file), Use::Open)).transpose()
    }

    fn password_of_variables(&self, file: Option<&File>) -> Result<Option<Password>, Failure> {
        if let Some(file) = environment_path("ESKER_PASSWORD_FILE") {
            return Password::in_file(&file, Use::Open).map(Some);
        }
        if let Some(command) = environment_path("ESKER_PASSWORD_COMMAND") {
            return Password::from_command(command.as_os_str(), &self.passed(file), Use::Open).map(Some);
        }
        Ok(Password::in_variable("ESKER_PASSWORD"))
    }

    fn password_of_file(&self, file: Option<&File>) -> Result<Option<Password>, Failure> {
        if let Some(file) = file.and_then(|file| file.password_file.as_ref()) {
            return Password::in_file(file, Use::Open).map(Some);
        }
        let given = file.and_then(|file| file.password_command.as_ref());
        let from = |command| Password::from_command(OsStr::new(command), &self.passed(file), Use::Open);
        given.map(from).transpose()
    }

    /// Variables that commands of users get although they hold secrets.
    pub(crate) fn passed(&self, file: Option<&File>) -> Vec<String> {
        let of_file = file.map(|file| file.pass_environment.as_slice()).unwrap_or_default();
        self.pass_env.iter().chain(of_file).cloned().collect()
    }

    /// The password of the repository that `copy` reads, if a variable gives it one of its own.
    pub(crate) fn password_of_source(&self) -> Result<Option<Password>, Failure> {
        if let Some(file) = environment_path("ESKER_FROM_PASSWORD_FILE") {
            return Password::in_file(&file, Use::OpenSource).map(Some);
        }
        if let Some(command) = environment_path("ESKER_FROM_PASSWORD_COMMAND") {
            return Password::from_command(command.as_os_str(), &self.pass_env, Use::OpenSource).map(Some);
        }
        Ok(Password::in_variable("ESKER_FROM_PASSWORD"))
    }

    /// The key file of the same repository, likewise.
    pub(crate) fn key_file_of_source() -> Option<PathBuf> {
        environment_path("ESKER_FROM_KEY_FILE")
    }

    /// The key service at a URL that the user gave, and how it is reached.
    pub(crate) fn key_service(
        &self,
        url: &str,
        file: Option<&File>,
        proof: Proof,
    ) -> Result<Secret, Failure> {
        let settings = self.settings()?;
        let mut http = settings.http;
        self.network.apply(&mut http)?;
        let keep = self.keep(file);
        key_services::named(url, Way { http, timeout_s: settings.kms_timeout, keep }, proof)
    }

    /// For how many seconds what key services unwrap is kept, if that was said.
    pub(crate) fn keep(&self, file: Option<&File>) -> Option<u64> {
        self.key_services.keep().or_else(|| file.and_then(|file| file.kms_cache))
    }

    /// The key service of the repository that `copy` reads, if a variable gives it one of its own.
    pub(crate) fn key_service_of_source() -> Result<Option<String>, Failure> {
        environment_text("ESKER_FROM_KMS")
    }
}
