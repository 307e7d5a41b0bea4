//! Who runs this, by the user database: services have no `HOME`, and what the environment says of it is not the same
//! for a timer and by hand.

use std::path::PathBuf;

/// A line of `/etc/passwd` (passwd(5)), as far as it is looked at.
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    pub(crate) home: PathBuf,
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    Some(Account { name: (*name).to_owned(), uid, gid, home: PathBuf::from(home) })
}

/// What a database of glibc's name service has: the file, and where it lacks the key, `getent`.
fn lines(database: &str, key: &str, has: impl Fn(&str) -> bool) -> String {
    let file = std::fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    if file.lines().any(has) {
        return file;
    }
    // Directory services are asked by the program that knows them all.
    let asked = std::process::Command::new("getent").args([database, key]).output();
    let asked = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    file + "\n" + &String::from_utf8_lossy(&asked.unwrap_or_default())
}

/// The user's home by the user database, whatever `HOME` says; `None` for a user whom it does not have.
pub(crate) fn home() -> Option<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let is_ours = |line: &str| account(line).is_some_and(|account| account.uid == uid);
    let text = lines("passwd", &uid.to_string(), is_ours);
    let ours = text.lines().filter_map(account).find(|account| account.uid == uid)?;
    Some(ours.home).filter(|home| home.is_absolute())
}

/// The account of a name or number.
pub(crate) fn find(wanted: &str) -> Option<Account> {
    let fits = |account: &Account| account.name == wanted || account.uid.to_string() == wanted;
    let text = lines("passwd", wanted, |line| account(line).is_some_and(|account| fits(&account)));
    text.lines().filter_map(account).find(fits)
}

/// The user's home: `HOME`, else by the user database.
pub(crate) fn home_folder() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).or_else(home)
}

/// Whether a group has nobody in it but this user: what it may write, nobody else may. Unknown groups are not.
pub(crate) fn is_alone_in(gid: u32) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    let of = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, members, ..] = fields.as_slice() else { return None };
        let members: Vec<String> =
            members.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        (id.parse() == Ok(gid)).then_some(members)
    };
    let Some(members) = lines("group", &gid.to_string(), |line| of(line).is_some()).lines().find_map(of)
    else {
        return false;
    };
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let is_ours = |name: &str| {
        let named = users.lines().find(|line| line.split(':').next() == Some(name));
        named.and_then(account).is_some_and(|account| account.uid == uid)
    };
    members.iter().all(|name| is_ours(name))
        && users.lines().filter_map(account).all(|account| account.gid != gid || account.uid == uid)
        && users.lines().filter_map(account).any(|account| account.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_database_is_read() {
        let root = account("root:x:0:0:root:/root:/bin/bash").unwrap();
        assert!(root.uid == 0 && root.gid == 0 && root.home == std::path::Path::new("/root"));
        assert!(account("# nothing").is_none() && account("a:b:c:d:e:f:g").is_none());
        let root = find("0").unwrap();
        assert!(root.name == find("root").unwrap().name && root.uid == 0);
        assert!(find("nobody of this name").is_none());
        assert!(!is_alone_in(u32::MAX - 7));
    }
}
