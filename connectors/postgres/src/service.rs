//! Services: parameters of connections under a name, in a file of the user or of the machine, as libpq reads them.
//! Source: PostgreSQL's documentation, "The Connection Service File".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where Debian, and PostgreSQL's own builds, keep the services of the machine.
const SYSTEM_SERVICES: &[&str] = &["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/etc"];

/// The parameters of a service: from the user's file, else from the machine's.
pub(super) fn service_of(
    name: &str,
    file: Option<&str>,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let home = environment.get("HOME").map(|home| Path::new(home).join(".pg_service.conf"));
    let own = file.map(PathBuf::from).or(home);
    let system: Vec<PathBuf> = match environment.get("PGSYSCONFDIR") {
        Some(folder) => vec![folder.into()],
        None => SYSTEM_SERVICES.iter().map(PathBuf::from).collect(),
    };
    let places = own.into_iter().chain(system.into_iter().map(|folder| folder.join("pg_service.conf")));
    let mut seen = vec![];
    for path in places {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                if let Some(found) =
                    service_in(&text, name).map_err(|why| format!("{}: {why}", path.display()))?
                {
                    return Ok(found);
                }
                seen.push(path.display().to_string());
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    let places = if seen.is_empty() {
        "no service file is there".into()
    } else {
        format!("not in {}", seen.join(", "))
    };
    Err(format!("there is no service '{name}': {places}; unset PGSERVICE, or name its file in PGSERVICEFILE"))
}

/// A service's section `[name]`, if it is in the file.
fn service_in(text: &str, name: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let mut found: Option<Vec<(String, String)>> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            if found.is_some() {
                break;
            }
            found = (section.0 == name).then(Vec::new);
        } else if let Some(found) = &mut found {
            let (key, value) = match line.split_once('=') {
                Some(pair) if !line.starts_with("ldap") => pair,
                _ => return Err(format!("service '{name}' has a line that is not NAME=VALUE")),
            };
            if matches!(key, "service" | "servicefile") {
                return Err(format!("service '{name}' names another one"));
            }
            // The first one counts, as with libpq.
            if found.iter().all(|(other, _)| other != key) {
                found.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections() {
        let text = "# mine\n[other]\nhost=x\n\n [svc] \nhost=a=b\nhost=c\n";
        assert_eq!(service_in(text, "svc").unwrap().unwrap(), [("host".to_owned(), "a=b".to_owned())]);
        assert_eq!(service_in(text, "none"), Ok(None));
        for bad in ["[svc]\nldap://x?y=z", "[svc]\nhost", "[svc]\nservice=other"] {
            assert!(service_in(bad, "svc").is_err(), "{bad}");
        }
    }
}
