//! Options that every command has, and the only reader of the environment.

use crate::exit::Failure;
use crate::file::File;
use crate::places::Details;
use chunkstore::seal::Compression;
use chunkstore::storage::HttpOptions;
use engine::source::postgres::Format;
use engine::source::rdb::RdbOrder;
use engine::source::tls::Tls;
use std::path::PathBuf;

/// Options of all commands.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Global {
    /// Configuration: repository, tiers, sources, promises; else ./esker.toml, ~/.config/esker/esker.toml or
    /// /etc/esker/esker.toml
    #[arg(short = 'c', long, env = "ESKER_CONFIG", global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the repository is: a folder, s3:https://HOST/BUCKET/PREFIX, s3://BUCKET/PREFIX or
    /// azure://CONTAINER/PREFIX
    #[arg(short = 'r', long = "repo", env = "ESKER_REPOSITORY", global = true, value_name = "PLACE")]
    pub(crate) repo: Option<String>,
    /// Read the repository's place from a file
    #[arg(long, env = "ESKER_REPOSITORY_FILE", global = true, value_name = "FILE")]
    pub(crate) repository_file: Option<PathBuf>,
    /// Read the password from the first line of a file
    #[arg(short = 'p', long, env = "ESKER_PASSWORD_FILE", global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Run a command and take its first line of output as the password
    #[arg(long, env = "ESKER_PASSWORD_COMMAND", global = true, value_name = "COMMAND")]
    pub(crate) password_command: Option<String>,
    /// Use the empty password: whoever can read the repository can read the data
    #[arg(long, global = true)]
    pub(crate) insecure_no_password: bool,
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
    #[arg(long, env = "ESKER_PACK_SIZE", global = true, default_value_t = 64, value_name = "MIB")]
    pub(crate) pack_size: usize,
    /// Set KEY=VALUE: s3.region, s3.connections, s3.retries, s3.timeout,
    /// postgres.format=directory|plain|custom, postgres.jobs=N (sessions that dump a database at a time),
    /// postgres.at-once=N (databases whose moments are fixed together, 1),
    /// redis.order=canonical|raw, tls.ca=FILE, tls.cert=FILE, tls.key=FILE (PEM, for servers over TLS)
    #[arg(short = 'o', long = "option", global = true, value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
    /// Machine-readable output, see docs/json.md
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Print more; twice for a log of what is done
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Settings of `-o`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) http: HttpOptions,
    pub(crate) s3_region: Option<String>,
    pub(crate) postgres_format: Format,
    pub(crate) postgres_jobs: Option<usize>,
    pub(crate) postgres_at_once: Option<usize>,
    pub(crate) tls_files: [Option<PathBuf>; 3],
    pub(crate) redis_order: RdbOrder,
    pub(crate) tls: Tls,
}

pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Global {
    /// The `-o` settings, checked.
    pub(crate) fn settings(&self) -> Result<Options, Failure> {
        let mut options = Options::default();
        for setting in &self.options {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| Failure::new(format!("option '{setting}' is not KEY=VALUE")))?;
            let number = || -> Result<usize, Failure> {
                value.parse().map_err(|_| Failure::new(format!("option {key} needs a number, not '{value}'")))
            };
            match key {
                "s3.region" => options.s3_region = Some(value.to_owned()),
                "s3.connections" => options.http.connections = number()?.clamp(1, 64),
                "s3.retries" => options.http.retries = number()?,
                "s3.timeout" => options.http.timeout_s = number()?.max(1) as u64,
                "postgres.format" => {
                    options.postgres_format = match value {
                        "directory" => Format::Directory,
                        "plain" => Format::Plain,
                        "custom" => Format::Custom,
                        _ => return Err(Failure::new("postgres.format is directory, plain or custom")),
                    }
                }
                "postgres.at-once" => options.postgres_at_once = Some(number()?.clamp(1, 1000)),
                "postgres.jobs" => options.postgres_jobs = Some(number()?.clamp(1, 64)),
                "tls.ca" => options.tls.authorities = Some(read_pem(value, &mut options.tls_files[0])?),
                "tls.cert" => options.tls.certificate = Some(read_pem(value, &mut options.tls_files[1])?),
                "tls.key" => options.tls.key = Some(read_pem(value, &mut options.tls_files[2])?),
                "redis.order" => {
                    options.redis_order = match value {
                        "canonical" => RdbOrder::Canonical,
                        "raw" => RdbOrder::Raw,
                        _ => return Err(Failure::new("redis.order is canonical or raw")),
                    }
                }
                _ => return Err(Failure::new(format!("unknown option '{key}'; see --help"))),
            }
        }
        Ok(options)
    }

    /// Where the repository is, if that was said outside of esker.toml.
    pub(crate) fn place(&self) -> Result<Option<String>, Failure> {
        Ok(match (&self.repo, &self.repository_file) {
            (Some(repo), _) => Some(repo.clone()),
            (None, Some(file)) => Some(first_line(&read_file(file)?)),
            (None, None) => None,
        })
    }

    /// What goes with a place that was given by `-r`.
    pub(crate) fn details(&self) -> Result<Details, Failure> {
        let settings = self.settings()?;
        Ok(Details { http: settings.http, region: settings.s3_region, ..Details::default() })
    }

    /// Where esker.toml is: what was asked for, else the first that is there.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        if let Some(file) = &self.config {
            return Some(file.clone());
        }
        let home = environment("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".config")));
        let places = [
            Some(PathBuf::from("esker.toml")),
            home.map(|home| home.join("esker/esker.toml")),
            Some(PathBuf::from("/etc/esker/esker.toml")),
        ];
        places.into_iter().flatten().find(|path| path.is_file())
    }

    /// The password, from wherever it was given; asked for on a terminal.
    pub(crate) fn password(&self, confirm: bool, file: Option<&File>) -> Result<String, Failure> {
        if self.insecure_no_password {
            return Ok(String::new());
        }
        if let Some(file) = &self.password_file {
            return password_in(file);
        }
        if let Some(command) = &self.password_command {
            return password_from(command);
        }
        if let Some(password) = environment("ESKER_PASSWORD") {
            return Ok(password);
        }
        if let Some(file) = file.and_then(|file| file.password_file.as_ref()) {
            return password_in(file);
        }
        if let Some(command) = file.and_then(|file| file.password_command.as_ref()) {
            return password_from(command);
        }
        ask("password for the repository: ", confirm)
    }

    /// Where local indexes go.
    pub(crate) fn cache(&self, file: Option<&File>) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let own = self.cache_dir.clone().or_else(|| file.and_then(|file| file.cache_dir.clone()));
        let folder = own.or_else(|| {
            environment("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| environment("HOME").map(|home| PathBuf::from(home).join(".cache")))
                .map(|cache| cache.join("esker"))
        });
        folder.map(|folder| folder.join("repositories"))
    }

    /// Status lines a second, 0 for none.
    pub(crate) fn progress_fps(&self) -> f64 {
        environment("ESKER_PROGRESS_FPS").and_then(|fps| fps.parse().ok()).unwrap_or(if self.json {
            10.0
        } else {
            0.2
        })
    }
}

/// User and password for Redis, for URLs that name none: `ESKER_REDIS_USER`; `ESKER_REDIS_PASSWORD_FILE`, else
/// `REDISCLI_AUTH`, which redis-cli takes, too.
pub(crate) fn redis_login() -> Result<(Option<String>, Option<String>), Failure> {
    let password = match environment("ESKER_REDIS_PASSWORD_FILE") {
        Some(file) => Some(password_in(std::path::Path::new(&file))?),
        None => environment("REDISCLI_AUTH"),
    };
    Ok((environment("ESKER_REDIS_USER"), password))
}

/// API key for Qdrant, for URLs that have none: `ESKER_QDRANT_API_KEY_FILE`, else `ESKER_QDRANT_API_KEY`.
pub(crate) fn qdrant_key() -> Result<Option<String>, Failure> {
    match environment("ESKER_QDRANT_API_KEY_FILE") {
        Some(file) => Ok(Some(password_in(std::path::Path::new(&file))?)),
        None => Ok(environment("ESKER_QDRANT_API_KEY")),
    }
}

/// Host name for snapshots: `ESKER_HOST`, else the machine's.
pub(crate) fn hostname() -> String {
    environment("ESKER_HOST")
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// The user's name, or their number.
pub(crate) fn username() -> String {
    environment("USER")
        .or_else(|| environment("LOGNAME"))
        .unwrap_or_else(|| rustix::process::getuid().as_raw().to_string())
}

/// Asks on the terminal, twice if it is to be confirmed.
pub(crate) fn ask(prompt: &str, confirm: bool) -> Result<String, Failure> {
    let no_terminal = |_| {
        Failure::new(
            "no password: set ESKER_PASSWORD, ESKER_PASSWORD_FILE or ESKER_PASSWORD_COMMAND, or run on a terminal",
        )
    };
    let password = rpassword::prompt_password(prompt).map_err(no_terminal)?;
    if password.is_empty() {
        return Err(Failure::new("an empty password is refused; --insecure-no-password if that is meant"));
    }
    if confirm && rpassword::prompt_password("again: ").map_err(no_terminal)? != password {
        return Err(Failure::new("the two passwords differ"));
    }
    Ok(password)
}

pub(crate) fn read_file(path: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))
}

/// Reads it, and remembers where it is for programs that read it themselves.
fn read_pem(path: &str, place: &mut Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::new(format!("cannot read {path}: {error}"));
    *place = Some(std::fs::canonicalize(path).map_err(failed)?);
    std::fs::read(path).map_err(failed)
}

/// What the clients of databases look for in the environment.
pub(crate) fn database_environment() -> std::collections::BTreeMap<String, String> {
    let wanted = |name: &str| {
        name.starts_with("PG")
            || name.starts_with("MYSQL_")
            || matches!(name, "HOME" | "USER" | "LOGNAME" | "PATH" | "TMPDIR")
    };
    std::env::vars().filter(|(name, value)| wanted(name) && !value.is_empty()).collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn password_in(file: &std::path::Path) -> Result<String, Failure> {
    Ok(first_line(&read_file(file)?))
}

fn password_from(command: &str) -> Result<String, Failure> {
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", command])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| Failure::new(format!("password command: {error}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!("the password command failed: {}", output.status)));
    }
    Ok(first_line(&String::from_utf8_lossy(&output.stdout)))
}
