//! Options that every command has, and the only reader of the environment.

use crate::durations::Wait;
use crate::exit::Failure;
use crate::file::File;
use crate::passwords;
use crate::places::Details;
use crate::trust::{self, Found};
use crate::values::{Connections, Filled, Retries};
use crate::variables::{environment, environment_path, environment_text};
use crate::{key_services, small, user, words};
use chunkstore::seal::Compression;
use chunkstore::storage::HttpOptions;
use engine::connector::{Setting, Settings, Tls};
use engine::shown;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

mod opening;

/// The options that give a password.
const PASSWORDS: [&str; 3] = ["password_file", "password_command", "insecure_no_password"];

/// Options of all commands.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Global {
    /// Configuration file: repository, tiers, sources, promises [default: ./esker.toml,
    /// ~/.config/esker/esker.toml or /etc/esker/esker.toml] [env: ESKER_CONFIG]
    #[arg(short = 'c', long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the repository is: a folder, s3:https://HOST/BUCKET/PREFIX, s3://BUCKET/PREFIX or
    /// azure://CONTAINER/PREFIX; docs/places.md has all forms [env: ESKER_REPOSITORY]
    #[arg(short = 'r', long = "repo", global = true, value_name = "PLACE")]
    pub(crate) repo: Option<OsString>,
    /// Read the repository's place from a file [env: ESKER_REPOSITORY_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "repo")]
    pub(crate) repository_file: Option<PathBuf>,
    /// Read the password from the first line of a file [env: ESKER_PASSWORD_FILE]
    #[arg(short = 'p', long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Run a command and take its first line of output as the password [env: ESKER_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "password_file")]
    pub(crate) password_command: Option<OsString>,
    /// Use the empty password: everyone who can read the repository can read the data
    #[arg(long, global = true, conflicts_with_all = ["password_file", "password_command"])]
    pub(crate) insecure_no_password: bool,
    /// Open the repository with the key in a file: a key file, or the words or the QR code's text of a recovery sheet
    /// [env: ESKER_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = PASSWORDS)]
    pub(crate) key_file: Option<PathBuf>,
    /// Open the repository with shares of a key: give it for each of them
    #[arg(long = "share", global = true, value_name = "FILE", conflicts_with_all = PASSWORDS, conflicts_with = "key_file")]
    pub(crate) shares: Vec<PathBuf>,
    /// Ask on the terminal for the words of a recovery sheet, or of shares, and open the repository with them
    #[arg(long, global = true, conflicts_with_all = PASSWORDS, conflicts_with_all = ["key_file", "shares"])]
    pub(crate) recovery: bool,
    /// Pass these variables to commands and hooks, separated by commas; without it they get no variables with
    /// secrets of esker, stores or databases
    #[arg(long, env = "ESKER_PASS_ENV", global = true, value_name = "NAMES", value_delimiter = ',', value_parser = words::kept())]
    pub(crate) pass_env: Vec<String>,
    /// Folder of local indexes; they can be deleted at any time
    #[arg(long, env = "ESKER_CACHE_DIR", global = true, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Keep the index in memory and nothing on disk
    #[arg(long, global = true)]
    pub(crate) no_cache: bool,
    /// off, auto, fastest, better, max, or a zstd level from -7 to 22
    #[arg(long, env = "ESKER_COMPRESSION", global = true, default_value = "auto", value_name = "MODE")]
    pub(crate) compression: Compression,
    /// Size of packs in MiB, 1 to 256
    #[arg(long, env = "ESKER_PACK_SIZE", global = true, default_value_t = 64, value_name = "MIB", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) pack_size: usize,
    #[arg(short = 'o', long = "option", global = true, value_name = "KEY=VALUE", help = options_help())]
    pub(crate) options: Vec<OsString>,
    #[command(flatten)]
    pub(crate) key_services: key_services::Flags,
    #[command(flatten)]
    pub(crate) network: crate::network::Network,
    #[command(flatten)]
    pub(crate) unneeded: crate::network::Unneeded,
    /// Machine-readable output, see docs/json.md
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print more, and log what is done; twice with every request to the store and every statement to a server,
    /// three times with all that there is
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(flatten)]
    pub(crate) log: crate::output::LogFlags,
}

/// Settings of `-o`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) http: HttpOptions,
    pub(crate) s3_region: Option<String>,
    /// Seconds to wait for a key service.
    pub(crate) kms_timeout: Option<u64>,
    /// Those of connectors.
    pub(crate) connectors: Settings,
    pub(crate) tls_files: [Option<PathBuf>; 3],
    pub(crate) tls: Tls,
}

impl Global {
    /// The `-o` settings, checked.
    pub(crate) fn settings(&self) -> Result<Options, Failure> {
        let mut options = Options::default();
        for setting in &self.options {
            let (key, word) = words::split_once(setting).ok_or_else(|| {
                Failure::usage(format!("option '{}' is not KEY=VALUE", shown::name(setting.as_bytes())))
            })?;
            let key = &*words::text(&key, "the key of an option -o")?;
            // Those of TLS are files, which have names of any bytes.
            let value = match key.starts_with("tls.") {
                true => String::new(),
                false => words::text(&word, &format!("the value of -o {key}"))?,
            };
            let value = value.as_str();
            let wrong = |why: String| Failure::usage(format!("option {key}: {why}"));
            match key {
                "s3.region" => {
                    options.s3_region = Some(Filled::try_from(value.to_owned()).map_err(wrong)?.get());
                }
                "s3.connections" => {
                    options.http.connections = value.parse().map(Connections::size).map_err(wrong)?;
                }
                "s3.retries" => options.http.retries = value.parse().map(Retries::size).map_err(wrong)?,
                "s3.timeout" => options.http.timeout_s = value.parse().map(Wait::get).map_err(wrong)?,
                "kms.timeout" => {
                    options.kms_timeout = Some(value.parse().map(Wait::get).map_err(wrong)?);
                }
                "tls.ca" => options.tls.authorities = Some(read_pem(&word, &mut options.tls_files[0])?),
                "tls.cert" => options.tls.certificate = Some(read_pem(&word, &mut options.tls_files[1])?),
                "tls.key" => options.tls.key = Some(read_pem(&word, &mut options.tls_files[2])?),
                _ => {
                    let setting = option(key)
                        .ok_or_else(|| Failure::usage(format!("unknown option '{key}'; see --help")))?;
                    options.connectors.set(setting, value.to_owned()).map_err(wrong)?;
                }
            }
        }
        Ok(options)
    }

    /// Where the repository is, if that was said outside of esker.toml.
    pub(crate) fn place(&self) -> Result<Option<OsString>, Failure> {
        if let Some(repo) = &self.repo {
            return Ok(Some(repo.clone()));
        }
        if let Some(file) = &self.repository_file {
            return line_in(file).map(Some);
        }
        if let Some(repo) = environment_path("ESKER_REPOSITORY") {
            return Ok(Some(repo.into_os_string()));
        }
        environment_path("ESKER_REPOSITORY_FILE").map(|file| line_in(&file)).transpose()
    }

    /// What goes with a place that was given by `-r`.
    pub(crate) fn details(&self) -> Result<Details, Failure> {
        let settings = self.settings()?;
        let mut http = settings.http;
        self.network.apply(&mut http)?;
        Ok(Details { http, region: settings.s3_region, ..Details::default() })
    }

    /// Whether esker.toml was named, rather than to be looked for.
    pub(crate) fn names_file(&self) -> bool {
        self.config.is_some() || environment_path("ESKER_CONFIG").is_some()
    }

    /// Where esker.toml is: what was asked for, else the first that is there; see [`trust::check`].
    pub(crate) fn file(&self) -> Result<Option<PathBuf>, Failure> {
        let named = self.config.clone().or_else(|| environment_path("ESKER_CONFIG"));
        let how = if named.is_some() { Found::Named } else { Found::There };
        let Some(path) = named.or_else(Self::file_that_is_there) else { return Ok(None) };
        trust::check(&path, how)?;
        Ok(Some(path))
    }

    fn file_that_is_there() -> Option<PathBuf> {
        let home = environment_path("XDG_CONFIG_HOME")
            .or_else(|| user::home_folder().map(|home| home.join(".config")));
        let places = [
            Some(PathBuf::from("esker.toml")),
            home.map(|home| home.join("esker/esker.toml")),
            Some(PathBuf::from("/etc/esker/esker.toml")),
        ];
        places.into_iter().flatten().find(|path| path.is_file())
    }

    /// Where `copy` reads from.
    pub(crate) fn place_of_source(
        given: Option<&OsString>,
        file: Option<&Path>,
    ) -> Result<OsString, Failure> {
        if let Some(place) = given {
            return Ok(place.clone());
        }
        if let Some(file) = file {
            return line_in(file);
        }
        if let Some(place) = environment_path("ESKER_FROM_REPOSITORY") {
            return Ok(place.into_os_string());
        }
        let place = environment_path("ESKER_FROM_REPOSITORY_FILE").map(|file| line_in(&file)).transpose()?;
        place.ok_or_else(|| {
            Failure::new("copied from where? Give --from-repo PLACE, or set ESKER_FROM_REPOSITORY")
        })
    }

    /// Where local indexes go.
    pub(crate) fn cache(&self, file: Option<&File>) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let own = self.cache_dir.clone().or_else(|| file.and_then(|file| file.cache_dir.clone()));
        let folder = own.or_else(|| {
            environment_path("XDG_CACHE_HOME")
                .or_else(|| user::home_folder().map(|home| home.join(".cache")))
                .map(|cache| cache.join("esker"))
        });
        folder.map(|folder| folder.join("repositories"))
    }

    /// Status lines a second, 0 for none.
    pub(crate) fn progress_fps(&self) -> Result<f64, Failure> {
        let usual = if self.json { 10.0 } else { 0.2 };
        let Some(text) = environment("ESKER_PROGRESS_FPS") else { return Ok(usual) };
        match text.parse::<f64>() {
            Ok(fps) if fps.is_finite() && fps >= 0.0 => Ok(fps.min(60.0)),
            _ => Err(Failure::usage(format!(
                "ESKER_PROGRESS_FPS is '{text}': it takes lines a second, 0 for none"
            ))),
        }
    }
}

/// The setting of a connector that `-o` takes by this name.
fn option(name: &str) -> Option<&'static Setting> {
    let all = connectors::all().iter().flat_map(|connector| connector.settings());
    all.into_iter().find(|setting| setting.name == name && !setting.secret)
}

/// What help says of `-o`.
fn options_help() -> String {
    let mut help = String::from(
        "Set KEY=VALUE: s3.region, s3.connections, s3.retries, s3.timeout, kms.timeout (seconds, or such as 5m)",
    );
    let all = connectors::all().iter().flat_map(|connector| connector.settings());
    for Setting { name, values, about, .. } in all.filter(|setting| !setting.secret) {
        help += &format!(",\n{name}={values} ({about})");
    }
    help + ",\ntls.ca=FILE, tls.cert=FILE, tls.key=FILE (PEM, for servers over TLS)"
}

/// What the environment says of connectors: of a file that it names the first line, else a variable.
pub(crate) fn settings_of_environment(settings: &mut Settings) -> Result<(), Failure> {
    for setting in connectors::all().iter().flat_map(|connector| connector.settings()) {
        let value = match setting.file_variable.and_then(environment_path) {
            Some(file) => Some(text_line_in(&file)?),
            None => setting.variable.map_or(Ok(None), environment_text)?,
        };
        if let (Some(value), None) = (value, settings.get(setting.name)) {
            let wrong = |why| Failure::usage(format!("{}: {why}", setting.variable.unwrap_or(setting.name)));
            settings.set(setting, value).map_err(wrong)?;
        }
    }
    Ok(())
}

/// Host name for snapshots: `ESKER_HOST`, else the machine's.
pub(crate) fn hostname() -> String {
    environment("ESKER_HOST")
        .unwrap_or_else(|| engine::names::path_text(rustix::system::uname().nodename().to_bytes()))
}

/// The user's name, or their number.
pub(crate) fn username() -> String {
    environment("USER")
        .or_else(|| environment("LOGNAME"))
        .unwrap_or_else(|| rustix::process::getuid().as_raw().to_string())
}

/// Reads it, and remembers where it is for programs that read it themselves.
fn read_pem(path: &OsStr, place: &mut Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let path = Path::new(path);
    let failed = |error| Failure::new(format!("cannot read {}: {error}", shown::path(path)));
    *place = Some(std::fs::canonicalize(path).map_err(failed)?);
    small::read(path, small::DOCUMENT)
}

/// What connectors look for in the environment.
pub(crate) fn connectors_environment() -> std::collections::BTreeMap<String, String> {
    let wanted = |name: &str| {
        let mut asked_for = connectors::all().iter().flat_map(|connector| connector.variables());
        asked_for.any(|own| own.strip_suffix('*').map_or(name == *own, |start| name.starts_with(start)))
            || matches!(name, "HOME" | "USER" | "LOGNAME" | "PATH" | "TMPDIR")
    };
    // What is no UTF-8 is none of theirs; other programs' variables may be so.
    let all = std::env::vars_os();
    let all = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, value)| wanted(name) && !value.is_empty()).collect()
}

/// The first line of a file.
fn line_in(file: &Path) -> Result<OsString, Failure> {
    Ok(OsString::from_vec(passwords::first_line(small::secret(file)?).to_vec()))
}

/// The same as text.
fn text_line_in(file: &Path) -> Result<String, Failure> {
    let line = line_in(file)?.into_string();
    line.map_err(|_| Failure::new(format!("the first line of {} is not UTF-8", shown::path(file))))
}
