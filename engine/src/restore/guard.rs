//! Targets that a restore refuses: the repository's own folders, and with `delete`, unless confirmed, those in which a
//! mistake costs a whole machine, a home or the backups.

use super::RestoreOptions;
use crate::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// A path without links and dots, as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut parts = absolute.components();
    match parts.next_back() {
        Some(Component::Normal(name)) => real(parts.as_path()).join(name),
        Some(Component::ParentDir) => {
            let above = real(parts.as_path());
            above.parent().map_or_else(|| above.clone(), Path::to_owned)
        }
        _ => absolute,
    }
}

/// Looks at the target before anything is written.
pub(super) fn check(options: &RestoreOptions) -> Result<()> {
    let target = real(&options.target);
    let shown = options.target.display();
    let protected: Vec<PathBuf> = options.protected.iter().map(|path| real(path)).collect();
    if let Some(folder) = protected.iter().find(|folder| target.starts_with(folder)) {
        let folder = folder.display();
        return Err(Error::Refused(format!(
            "the target {shown} is in {folder}, where esker stores its own data"
        )));
    }
    if !options.delete || options.dry_run || options.confirmed {
        return Ok(());
    }
    let home = options.home.as_deref().map(real).filter(|home| home.parent().is_some());
    let holds = |folder: &Path| folder.starts_with(&target);
    let why = match () {
        () if target.parent().is_none() => "is the whole system".to_owned(),
        () if home.as_deref() == Some(&*target) => "is your home".to_owned(),
        () if home.as_deref().is_some_and(holds) => "holds your home".to_owned(),
        () => match protected.iter().find(|folder| holds(folder)) {
            Some(folder) => format!("holds {}, where esker keeps its own data", folder.display()),
            None => return Ok(()),
        },
    };
    Err(Error::Refused(format!(
        "--delete in {shown}, which {why}: -n says what would be removed, --yes does it. Nothing was written or removed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(target: &Path, home: &Path, repo: &Path, delete: bool, confirmed: bool) -> bool {
        let options = RestoreOptions {
            target: target.to_owned(),
            home: Some(home.to_owned()),
            protected: vec![repo.to_owned()],
            delete,
            confirmed,
            ..RestoreOptions::default()
        };
        check(&options).is_err()
    }

    #[test]
    fn places_in_which_a_mistake_is_dear_are_confirmed() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for name in ["home/u/docs", "srv/repo/packs", "out"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::os::unix::fs::symlink(at("home"), at("link")).unwrap();
        let (home, repo) = (at("home/u"), at("srv/repo"));
        let table = [
            (PathBuf::from("/"), true),
            (at("home/u"), true),
            (at("home/u/docs/.."), true),
            (at("home"), true),
            (at("link/u"), true),
            (at("srv"), true),
            (at("out"), false),
            (at("home/u/docs"), false),
            (at("home/u/new/folder"), false),
        ];
        for (target, expected) in table {
            let shown = target.display();
            assert_eq!(refused(&target, &home, &repo, true, false), expected, "{shown}");
            assert!(!refused(&target, &home, &repo, true, true), "{shown}, confirmed");
            assert!(!refused(&target, &home, &repo, false, false), "{shown}, nothing removed");
        }
        for target in ["srv/repo", "srv/repo/packs", "srv/repo/new"] {
            assert!(refused(&at(target), &home, &repo, false, true), "{target}");
        }
    }
}
