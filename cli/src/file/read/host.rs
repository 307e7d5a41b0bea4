//! What esker.toml may say on a write-only host: sources, and when they are backed up. Everything else needs a key, which such
//! a host does not have, and is refused with what does it instead.

use super::{Raw, Reader};
use crate::file::File;
use engine::tier::Role;

const NO_KEY: &str =
    "bundle names the file of a write-only host, which has no password and no key: leave this out, or bundle";
const NO_TIERS: &str = "a write-only host copies to no tier: 'esker run' or 'esker tier sync' of a full client does, \
    with its own esker.toml";
const NO_PROMISES: &str = "a write-only host cannot forget or copy what it backed up: write promises into the esker.toml of a \
    full client, whose 'esker run' keeps them";
const NO_FORGETTING: &str = "a write-only host can neither forget nor prune: 'esker run', or 'esker forget' and 'esker prune', \
    of a full client does";
const NO_STREAMS: &str = "a write-only host follows no server, since each commit is admitted later: 'esker stream' of a full \
    client does";
const OWN_NAME: &str = "a write-only host backs up under the name that it was added with: leave host out";

impl Reader<'_> {
    /// Refuses, by its line, what only full clients can do.
    pub(super) fn refuse_of_full_clients(&mut self, raw: &Raw) {
        let files = [&raw.password_file, &raw.key_file];
        files.into_iter().flatten().for_each(|at| self.wrong(at, NO_KEY));
        raw.password_command.iter().for_each(|at| self.wrong(at, NO_KEY));
        raw.kms.iter().for_each(|at| self.wrong(at, NO_KEY));
        raw.kms_cache.iter().for_each(|at| self.wrong(at, NO_KEY));
        let copies = raw.tier.iter().filter(|tier| tier.role != Role::Primary);
        copies.for_each(|tier| self.wrong(&tier.name, NO_TIERS));
        raw.promise.iter().for_each(|promise| self.wrong(&promise.keep, NO_PROMISES));
        let hosts = raw.source.iter().filter_map(|source| source.host.as_ref());
        hosts.for_each(|at| self.wrong(at, OWN_NAME));
        let said = raw.run.iter().flat_map(|run| [&run.forget, &run.prune]).flatten();
        said.filter(|said| *said.get_ref()).for_each(|at| self.wrong(at, NO_FORGETTING));
        raw.stream.iter().for_each(|stream| self.wrong(&stream.name, NO_STREAMS));
    }
}

impl File {
    /// Why a write-only host cannot follow this file, which was not written for one.
    pub(crate) fn refusal_of_host(&self) -> Option<&'static str> {
        let has_host = self.sources.iter().any(|source| source.host.is_some());
        let has_copies = self.copies().next().is_some();
        let all = [(has_copies, NO_TIERS), (!self.promises.is_empty(), NO_PROMISES), (has_host, OWN_NAME)];
        all.into_iter().find_map(|(is_so, why)| is_so.then_some(why))
    }
}

#[cfg(test)]
mod tests {
    use crate::file::File;
    use std::path::Path;

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let found = File::parse(Path::new("esker.toml"), text).err().unwrap_or_default();
        found.into_iter().map(|mistake| (mistake.line, mistake.message)).collect()
    }

    const HOST: &str = "bundle = \"/etc/esker/web1.esker-host\"\n\n[[source]]\nname = \"www\"\nurls = [\"/var/www\"]\n\n\
                        [[run]]\nname = \"nightly\"\nschedule = \"*-*-* 02:00\"\n";

    #[test]
    fn a_host_has_sources_and_runs_which_do_not_forget() {
        let file = File::parse(Path::new("esker.toml"), HOST).unwrap();
        assert_eq!(file.bundle.as_deref(), Some(Path::new("/etc/esker/web1.esker-host")));
        assert!(!file.runs[0].forget && !file.runs[0].prune && file.tiers.is_empty());
        let full = File::parse(Path::new("esker.toml"), &HOST.replace("bundle", "password_file")).unwrap();
        assert!(full.runs[0].forget && full.runs[0].prune);
        // The place may be said, too, with all that a tier has; and that nothing is forgotten.
        let place = "[[tier]]\nname = \"s3\"\nurl = \"s3://bucket/esker\"\nrole = \"primary\"\nretries = 2\n";
        assert!(mistakes(&format!("{HOST}forget = false\nprune = false\n{place}")).is_empty());
        assert!(mistakes(&format!("repository = \"/srv/esker\"\n{HOST}")).is_empty());
    }

    #[test]
    fn what_only_full_clients_do_is_refused_by_its_line() {
        let copy = "\n[[tier]]\nname = \"far\"\nurl = \"s3://bucket/esker\"\n";
        let promise = "\n[[promise]]\nkeep = \"1y\"\ntiers = [\"far\"]\n";
        let stream = "\n[[stream]]\nname = \"live\"\nurl = \"redis://127.0.0.1\"\n";
        for (before, after, line, words) in [
            ("password_file = \"/x\"\n", "", 1, "has no password and no key"),
            ("password_command = \"x\"\n", "", 1, "has no password and no key"),
            ("key_file = \"/x\"\n", "", 1, "has no password and no key"),
            ("kms = \"vault://h/transit/k\"\n", "", 1, "has no password and no key"),
            ("kms_cache = \"1h\"\n", "", 1, "has no password and no key"),
            ("", "forget = true\n", 10, "'esker forget' and 'esker prune', of a full client"),
            ("", "prune = true\n", 10, "'esker forget' and 'esker prune', of a full client"),
            ("", copy, 12, "'esker tier sync' of a full client"),
            ("", promise, 12, "esker.toml of a full client"),
            ("", stream, 12, "'esker stream' of a full client"),
        ] {
            let told = mistakes(&format!("{before}{HOST}{after}"));
            assert!(told.len() == 1 && told[0].0 == line && told[0].1.contains(words), "{after}: {told:?}");
        }
        let named = HOST.replace("name = \"www\"\n", "name = \"www\"\nhost = \"other\"\n");
        let told = mistakes(&named);
        assert!(told.len() == 1 && told[0].0 == 5 && told[0].1.contains("leave host out"), "{told:?}");
    }
}
