//! The server that a URL names is the one that is read and written, whatever the environment and the user's files say.

use crate::harness::{Repo, expect};
use crate::mariadb::Maria;

#[test]
fn nothing_but_the_url_says_which_server() {
    let repo = Repo::new();
    let (one, other) = (Maria::start(&repo, "one"), Maria::start(&repo, "other"));
    one.root("CREATE DATABASE here; CREATE TABLE here.t (a int); INSERT INTO here.t VALUES (1)");
    other.root("CREATE DATABASE there; CREATE TABLE there.t (a int); INSERT INTO there.t VALUES (2)");
    let socket = other.home.join("s.sock").display().to_string();
    let port = other.port.to_string();
    let lines = format!(
        "host=127.0.0.1\nport={port}\nsocket={socket}\nprotocol=socket\nuser=nobody\npassword=wrong\ninit-command=\"CREATE DATABASE spoilt\"\n"
    );
    let file = format!(
        "[client]\n{lines}[client-mariadb]\n{lines}[mysql]\n{lines}[mariadb]\n{lines}[mariadb-client]\n{lines}[mysqldump]\nno-data\nignore-table=here.t\n[mariadb-dump]\nno-data\nignore-table=here.t\n[mysqlbinlog]\nport={port}\n[client_evil]\nport={port}\n"
    );
    let folder = repo.path("etc");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("my.cnf"), &file).unwrap();
    std::fs::write(repo.path(".my.cnf"), &file).unwrap();
    std::fs::write(repo.path(".mylogin.cnf"), "x").unwrap();
    let folder = folder.display().to_string();
    let variables = [
        ("MYSQL_HOST", "127.0.0.1"),
        ("MYSQL_TCP_PORT", &port),
        ("MARIADB_TCP_PORT", &port),
        ("MYSQL_UNIX_PORT", &socket),
        ("MARIADB_UNIX_PORT", &socket),
        ("MYSQL_HOME", &folder),
        ("MARIADB_HOME", &folder),
        ("MYSQL_GROUP_SUFFIX", "_evil"),
        ("MARIADB_GROUP_SUFFIX", "_evil"),
        ("MYSQL_TEST_LOGIN_FILE", &format!("{folder}/my.cnf")),
        ("MYSQL_PS1", "x"),
        ("MYSQL_DEBUG", "d:t:o,/tmp/esker-trace"),
        ("LIBMYSQL_PLUGIN_DIR", &folder),
        ("LIBMYSQL_PLUGINS", "evil"),
        ("MARIADB_PLUGIN_DIR", &folder),
        ("LD_LIBRARY_PATH", &folder),
        ("LC_ALL", "C"),
        ("LANG", "de_DE.ISO-8859-1"),
    ];
    let esker = |args: &[&str]| {
        let mut command = repo.command(args);
        expect(&command.envs(variables).output().unwrap(), 0)
    };
    let url = one.url();
    esker(&["backup", &url]);
    let list = repo.ok(["ls", "latest"]);
    assert!(list.contains("/here.sql\n") && !list.contains("/there.sql\n"), "{list}");
    let before = other.root("SHOW DATABASES");
    esker(&["restore", "latest", "--to", &format!("{url}/copy"), "--database", "here"]);
    one.root("DELETE FROM here.t");
    other.root("CREATE DATABASE here");
    esker(&["restore", "latest", "--to", &url, "--database", "here", "--replace"]);
    assert_eq!(one.root("SELECT count(*) FROM copy.t, here.t"), "1");
    assert_eq!(other.root("SHOW DATABASES").replace("here\n", ""), before);
    assert_eq!(other.root("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'here'"), "0");
    assert!(!one.root("SHOW DATABASES").contains("spoilt"));
    // A socket is a place, too, and a place is one.
    one.root("CREATE USER local@localhost; GRANT ALL ON *.* TO local@localhost");
    let socket = one.home.join("s.sock").display().to_string();
    esker(&[
        "restore",
        "latest",
        "--to",
        &format!("mysql://local@localhost/second?socket={socket}"),
        "--database",
        "here",
    ]);
    assert_eq!(one.root("SELECT count(*) FROM second.t"), "1");
    let both = format!("mysql://local@127.0.0.1:{}/third?socket={socket}", one.port);
    let text = repo.fails(25, ["restore", "latest", "--to", &both, "--database", "here"]);
    assert!(text.contains("a host or a socket"), "{text}");
}

/// Two servers of one machine, by their sockets, are two places in one snapshot.
#[test]
fn a_socket_is_a_part_of_the_place() {
    let repo = Repo::new();
    let servers = ["one", "other"].map(|name| Maria::start(&repo, name));
    for (number, server) in servers.iter().enumerate() {
        server.root(&format!("CREATE DATABASE same; CREATE TABLE same.t AS SELECT {number} AS a"));
    }
    let urls = servers
        .each_ref()
        .map(|server| format!("mysql://root@localhost/?socket={}", server.home.join("s.sock").display()));
    repo.ok(["backup", &urls[0], &urls[1]]);
    let list = repo.ok(["ls", "latest"]);
    assert_eq!(list.matches("/databases/same.sql\n").count(), 2, "{list}");
    let text = repo.fails(1, ["restore", "latest", "--to", &servers[0].url()]);
    assert!(text.contains("several MariaDB or MySQL servers"), "{text}");
    for (number, server) in servers.iter().enumerate() {
        let place = server.home.join("s.sock").display().to_string().replace('/', "%2F");
        let into = format!("{}/copy", servers[0].url());
        repo.ok([
            "restore",
            &format!("latest:/mysql/{place}"),
            "--to",
            &into,
            "--database",
            "same",
            "--replace",
        ]);
        assert_eq!(servers[0].root("SELECT a FROM copy.t"), number.to_string());
    }
}

#[test]
fn names_are_not_options() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let names = [
        "--result-file=evil",
        "--plugin-dir=/x",
        "--default-auth=evil",
        "--host=192.0.2.1",
        "@file",
        "-e",
        "--help",
        "x\\test",
        "x\\\\nend",
        "..",
        "%",
        "a;b",
        "line\nfeed",
        "'q\"`",
    ];
    for name in names {
        let quoted = name.replace('`', "``");
        server.root(&format!("CREATE DATABASE `{quoted}`; CREATE TABLE `{quoted}`.`{quoted}` (a int); INSERT INTO `{quoted}`.`{quoted}` VALUES (7)"));
    }
    repo.ok(["backup", &server.url()]);
    assert!(!repo.path("evil").exists());
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for name in names {
        let quoted = name.replace('`', "``");
        assert_eq!(target.root(&format!("SELECT a FROM `{quoted}`.`{quoted}`")), "7", "{name}");
        let (database, table) = (format!("--database={name}"), format!("--table={name}"));
        repo.ok(["restore", "latest", "--to", &target.url(), &database, "--replace"]);
        repo.ok(["restore", "latest", "--to", &target.url(), &database, &table, "--replace"]);
    }
}
