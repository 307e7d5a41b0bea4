//! Units of systemd for the runs and streams of esker.toml. A system service has neither a home nor a password, nor
//! anybody who looks at it: each unit says where all of them come from. Sources: systemd.service(5), systemd.timer(5),
//! systemd.exec(5), systemd.unit(5).

use crate::bundle;
use crate::context::Context;
use crate::exit::Failure;
use crate::file::{File, RunSpec, StreamSpec};
use crate::places::Place;
use crate::schedule::Schedule;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Unit that says of another that it failed.
const FAILED: &str = "esker-failed@";
/// Name of the password among the unit's credentials.
const CREDENTIAL: &str = "esker-password";
/// Name of the key.
const KEY_CREDENTIAL: &str = "esker-key";
/// Name of the file of a write-only host.
const BUNDLE_CREDENTIAL: &str = "esker-bundle";

/// Choices for units.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The folder, such as /etc/systemd/system
    folder: PathBuf,
    /// User that the services run as, instead of the one who calls this
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File of variables for the services, such as AWS_ACCESS_KEY_ID; it may be missing
    #[arg(long, default_value = "/etc/esker/esker.env", value_name = "FILE")]
    environment_file: PathBuf,
    /// Unit to start when a service fails, instead of one that tells everybody who is logged in
    #[arg(long, value_name = "UNIT")]
    on_failure: Option<String>,
}

/// A unit that was written.
pub(super) struct Written {
    /// The folder that they are in.
    pub(super) folder: PathBuf,
    /// File names.
    pub(super) names: Vec<String>,
    /// What to enable.
    pub(super) enable: Vec<String>,
}

/// Writes them.
pub(super) fn write(args: &Args, context: &Context) -> Result<Written, Failure> {
    let file = context.file_of_runs()?;
    let scheduled: Vec<(&RunSpec, &Schedule)> =
        file.runs.iter().filter_map(|run| Some((run, run.schedule.as_ref()?))).collect();
    if scheduled.is_empty() && file.streams.is_empty() {
        return Err(Failure::new(format!(
            "no [[run]] in {} has a schedule, and there is no [[stream]]",
            file.path.display()
        )));
    }
    let service = Service::new(args, file, context)?;
    std::fs::create_dir_all(&args.folder)?;
    let mut written = Written { folder: args.folder.clone(), names: vec![], enable: vec![] };
    let mut put = |name: String, text: String| -> Result<(), Failure> {
        std::fs::write(args.folder.join(&name), text)?;
        written.names.push(name);
        Ok(())
    };
    let mut enable = vec![];
    for (run, schedule) in scheduled {
        let unit = format!("esker-{}", run.name);
        put(format!("{unit}.service"), service.of_run(run))?;
        put(format!("{unit}.timer"), timer(run, schedule))?;
        enable.push(format!("{unit}.timer"));
    }
    for stream in &file.streams {
        let unit = format!("esker-stream-{}.service", stream.name);
        put(unit.clone(), service.of_stream(stream))?;
        enable.push(unit);
    }
    if args.on_failure.is_none() {
        put(format!("{FAILED}.service"), failed())?;
    }
    written.enable = enable;
    Ok(written)
}

/// Says that a unit failed to everybody who is logged in: journald forwards emergencies (journald.conf(5), ForwardToWall).
fn failed() -> String {
    "[Unit]\nDescription=Tells that %i failed\n\n\
     [Service]\nType=oneshot\n\
     ExecStart=systemd-cat --identifier=esker --priority=emerg echo \"%i failed: see journalctl --unit=%i\"\n"
        .into()
}

fn timer(run: &RunSpec, schedule: &Schedule) -> String {
    let mut text = format!("[Unit]\nDescription=esker run {}, by schedule\n\n[Timer]\n", run.name);
    for event in schedule.on_calendar() {
        let _ = writeln!(text, "OnCalendar={event}");
    }
    text + "Persistent=true\nRandomizedDelaySec=5m\n\n[Install]\nWantedBy=timers.target\n"
}

/// What all services have in common.
struct Service {
    /// `esker --config FILE`, as a command line of systemd.
    program: String,
    on_failure: String,
    /// Lines of `[Service]`.
    settings: String,
}

impl Service {
    fn new(args: &Args, file: &File, context: &Context) -> Result<Self, Failure> {
        let (user, home) = account(args.user.as_deref())?;
        let esker = std::env::current_exe()?;
        if esker.as_os_str().as_encoded_bytes().iter().any(|byte| matches!(byte, b'"' | b'\'' | b'\\')) {
            let text = format!("systemd starts no program of the name {}", engine::shown::path(&esker));
            return Err(Failure::new(format!("{text}: put esker where the path has no quotation mark")));
        }
        let config = std::fs::canonicalize(&file.path)?;
        for path in [&esker, &config] {
            // A unit is text (systemd.syntax(7)): another name would be written into it.
            crate::words::text(path.as_os_str(), "a path in a unit of systemd")?;
        }
        must_be_absolute(file)?;
        let mut settings = format!("User={user}\n");
        let environment_file = std::path::absolute(&args.environment_file)?;
        let mut set = |name: &str, value: &Path| {
            let _ = writeln!(settings, "Environment={}", quoted(&format!("{name}={}", value.display())));
        };
        set("HOME", &home);
        match &file.cache_dir {
            Some(_) => {}
            // As CacheDirectory= makes it for a system service.
            None => set("ESKER_CACHE_DIR", Path::new("/var/cache/esker")),
        }
        // As the configuration itself has it, the key file goes first; a host has neither.
        let credential = match (&file.bundle, &file.key_file, &file.password_file) {
            (Some(file), ..) => Some(("ESKER_BUNDLE", BUNDLE_CREDENTIAL, file)),
            (None, Some(file), _) => Some(("ESKER_KEY_FILE", KEY_CREDENTIAL, file)),
            (None, None, Some(file)) => Some(("ESKER_PASSWORD_FILE", CREDENTIAL, file)),
            (None, None, None) => None,
        };
        let credential = credential.filter(|_| user != "root");
        if let Some((variable, name, _)) = credential {
            let _ = writeln!(settings, "Environment=\"{variable}=%d/{name}\"");
        }
        let _ = writeln!(settings, "EnvironmentFile=-{}", percent(&environment_file.display().to_string()));
        if let Some((_, name, secret)) = credential {
            // Read by the service manager: it may be readable by root alone.
            let _ = writeln!(settings, "LoadCredential={name}:{}", percent(&secret.display().to_string()));
        } else if file.bundle.is_none()
            && file.password_file.is_none()
            && file.key_file.is_none()
            && file.password_command.is_none()
            && file.kms.is_none()
            && !sets_a_password(&environment_file)
        {
            return Err(Failure::new(format!(
                "a service cannot ask for the password, and {} names no source of it: add password_file = \
                    \"/etc/esker/password\", password_command = \"…\" or key_file = \"/etc/esker/key\" before its first table, or write \
                    ESKER_PASSWORD_FILE=/etc/esker/password into {}",
                file.path.display(),
                environment_file.display()
            )));
        }
        settings.push_str("CacheDirectory=esker\nCacheDirectoryMode=0700\n");
        settings.push_str(HARDENING);
        let mut places: Vec<Place> = file.tiers.iter().map(|tier| tier.place.clone()).collect();
        if let (Some(bundle), true) = (&file.bundle, places.is_empty()) {
            places.push(context.place_of_host(&bundle::read(bundle)?)?.0);
        }
        let folders = places.iter().filter_map(|place| match place {
            Place::Folder(folder) => Some(folder.as_path()),
            _ => None,
        });
        for folder in folders.chain(file.cache_dir.as_deref()) {
            // May be written even beneath /usr, /boot or /etc; and a disk that is not mounted is esker's to report.
            let _ = writeln!(settings, "ReadWritePaths={}", quoted(&format!("-{}", folder.display())));
        }
        settings.push_str("Nice=10\nIOSchedulingClass=best-effort\nIOSchedulingPriority=7\n");
        Ok(Self {
            program: format!(
                "{} --config {}",
                word(&esker.display().to_string()),
                word(&config.display().to_string())
            ),
            on_failure: args.on_failure.clone().unwrap_or_else(|| format!("{FAILED}%n.service")),
            settings,
        })
    }

    /// Exit code 3: done, but something is behind. It is told by the run's report, and by a failed unit.
    fn of_run(&self, run: &RunSpec) -> String {
        format!(
            "[Unit]\nDescription=esker run {name}\nWants=network-online.target\nAfter=network-online.target\n\
             OnFailure={on_failure}\n\n\
             [Service]\nType=oneshot\nExecStart={program} run {name}\n{settings}",
            name = run.name,
            on_failure = self.on_failure,
            program = self.program,
            settings = self.settings,
        )
    }

    /// A base may take hours before the service is ready, and the last checkpoint some seconds before it is gone.
    fn of_stream(&self, stream: &StreamSpec) -> String {
        format!(
            "[Unit]\nDescription=esker stream {name}\nWants=network-online.target\nAfter=network-online.target\n\
             StartLimitIntervalSec=0\nOnFailure={on_failure}\n\n\
             [Service]\nType=notify\nNotifyAccess=main\nExecStart={program} stream {name}\nRestart=always\n\
             RestartSec=10\nTimeoutStartSec=infinity\nTimeoutStopSec=5min\n{settings}\n\
             [Install]\nWantedBy=multi-user.target\n",
            name = stream.name,
            on_failure = self.on_failure,
            program = self.program,
            settings = self.settings,
        )
    }
}

/// Nothing here hides or changes a file that may be backed up: no PrivateTmp, no ProtectHome, no ProtectKernelModules (which
/// hides /usr/lib/modules), no PrivateDevices.
const HARDENING: &str = "\
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictRealtime=yes
LockPersonality=yes
UMask=0077
";

/// The name and the home of a user, the caller's without `name`, from the user database.
fn account(name: Option<&str>) -> Result<(String, PathBuf), Failure> {
    let wanted = name.map_or_else(|| rustix::process::geteuid().as_raw().to_string(), str::to_owned);
    let unknown = || Failure::new(format!("the user database has no user '{wanted}'"));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%');
    if !plain(&wanted) || wanted.starts_with('-') {
        return Err(unknown());
    }
    match crate::user::find(&wanted) {
        Some(account) if account.home.is_absolute() && plain(&account.name) => {
            Ok((account.name, account.home))
        }
        _ => Err(unknown()),
    }
}

/// Whether a file of variables sets one that gives the password or the key.
fn sets_a_password(file: &Path) -> bool {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let names =
        ["ESKER_PASSWORD", "ESKER_PASSWORD_FILE", "ESKER_PASSWORD_COMMAND", "ESKER_KEY_FILE", "ESKER_KMS"];
    text.lines().filter_map(|line| line.trim().split_once('=')).any(|(name, value)| {
        names.contains(&name.trim()) && !value.trim().trim_matches(['"', '\'']).is_empty()
    })
}

/// A service begins in `/`: what is relative in the configuration means something else there.
fn must_be_absolute(file: &File) -> Result<(), Failure> {
    let places = file.tiers.iter().filter_map(|tier| match &tier.place {
        Place::Folder(folder) => Some(folder.clone()),
        _ => None,
    });
    let sources = file.sources.iter().flat_map(|source| &source.urls);
    let sources = sources.filter(|url| !connectors::is_url(url)).map(PathBuf::from);
    let secrets = [&file.bundle, &file.password_file, &file.key_file, &file.cache_dir];
    let secrets = secrets.into_iter().flatten().cloned();
    match places.chain(sources).chain(secrets).find(|path| path.is_relative()) {
        None => Ok(()),
        Some(path) => Err(Failure::new(format!(
            "'{}' in {} is relative, and a service begins in /: write its whole path",
            path.display(),
            file.path.display()
        ))),
    }
}

/// One word of a command line or list of systemd: quoted, its `%` doubled (systemd.unit(5), specifiers).
fn quoted(text: &str) -> String {
    let text = percent(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// One word of a command line: a `$` is doubled, too (systemd.service(5), command lines).
fn word(text: &str) -> String {
    quoted(text).replace('$', "$$")
}

fn percent(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn a_word_of_a_command_line_is_taken_as_it_is() {
        assert_eq!(
            word("/a ${HOME} %h \"b\"\\c/esker.toml"),
            "\"/a $${HOME} %%h \\\"b\\\"\\\\c/esker.toml\""
        );
    }
}
