//! A binary log is replayed into the databases of its snapshot, and changes nothing else of the server.

use crate::harness::{Process, Repo, run};
use crate::mariadb::{Maria, following, wait_durable};

/// Ends a stream as its user does.
fn end(mut process: Process) {
    run("kill", &["-INT", &process.0.id().to_string()]);
    process.0.wait().unwrap();
}

/// What a server has besides the databases that are restored.
fn neighbours(server: &Maria) -> String {
    let grants = server.root("SELECT concat(user, '@', host) FROM mysql.user WHERE user <> '' ORDER BY 1");
    let grants: Vec<String> = grants
        .lines()
        .map(|account| {
            let (user, host) = account.split_once('@').unwrap();
            let is_role = host.is_empty();
            let name = if is_role { format!("'{user}'") } else { format!("'{user}'@'{host}'") };
            server.root(&format!("SHOW GRANTS FOR {name}"))
        })
        .collect();
    format!("{}\n{}", grants.join("\n"), server.dumped("neigh"))
}

#[test]
fn a_database_that_only_the_target_has_is_not_changed_by_a_log() {
    let repo = Repo::new();
    let source = Maria::start(&repo, "my");
    let target = Maria::start(&repo, "target");
    target.root(
        "CREATE DATABASE neigh; CREATE TABLE neigh.precious (a int); INSERT INTO neigh.precious VALUES (42)",
    );
    let before = neighbours(&target);
    for (number, sql) in [
        "CREATE DATABASE neigh; CREATE TABLE neigh.scratch (a int); DROP DATABASE neigh",
        "SET binlog_format = 'ROW'; CREATE DATABASE `NEIGH`; CREATE TABLE `NEIGH`.precious (a int); \
         INSERT INTO `NEIGH`.precious VALUES (7)",
        "CREATE PROCEDURE shop.p() INSERT INTO neigh.precious VALUES (7)",
        "UPDATE mysql.global_priv SET priv = json_set(priv, '$.x', 1) WHERE user = 'root'",
    ]
    .iter()
    .enumerate()
    {
        let repo = Repo::again(&repo, repo.path(&format!("repo-{number}")).display().to_string());
        repo.ok(["init"]);
        source.root("DROP DATABASE IF EXISTS `NEIGH`; DROP DATABASE IF EXISTS shop; CREATE DATABASE shop");
        source.root("CREATE TABLE shop.a (i int PRIMARY KEY)");
        let process = following(&repo, &source.url());
        wait_durable(&repo, &source);
        source.root(sql);
        wait_durable(&repo, &source);
        end(process);
        for more in [&["-n"][..], &[], &["--replace"]] {
            let told = repo.fails(1, [&["restore", "latest", "--to", &target.url()][..], more].concat());
            let names = if number == 3 { "'mysql'" } else { "'neigh'" };
            assert!(told.contains("the event at") && told.contains(names), "{sql} {more:?}: {told}");
        }
        assert_eq!(target.root("SHOW DATABASES LIKE 'shop'"), "");
        assert_eq!(neighbours(&target), before, "{sql}");
        // Without the log it goes.
        let one = ["restore", "latest", "--to", &target.url(), "--database", "shop"];
        assert!(repo.fails(1, one).contains("--base-only"), "{sql}");
        repo.ok([&one[..], &["--base-only"]].concat());
        target.root("DROP DATABASE shop");
    }
}

#[test]
fn accounts_that_the_target_has_are_not_changed_by_a_log() {
    let repo = Repo::new();
    let source = Maria::start(&repo, "my");
    let target = Maria::start(&repo, "target");
    source.root("CREATE DATABASE shop; CREATE TABLE shop.a (i int PRIMARY KEY); CREATE USER bob@'%'");
    let own = "CREATE DATABASE neigh; CREATE TABLE neigh.t (a int); CREATE USER carol@'%' IDENTIFIED BY 'hers'; \
               GRANT SELECT ON neigh.* TO carol@'%'; CREATE USER bob@'%' IDENTIFIED BY 'his'; CREATE ROLE auditor";
    target.root(own);
    let before = neighbours(&target);
    let process = following(&repo, &source.url());
    wait_durable(&repo, &source);
    source.root("SET PASSWORD FOR 'keeper'@'127.0.0.1' = PASSWORD('ses\"ame#')");
    source.root("GRANT ALL ON *.* TO bob@'%' WITH GRANT OPTION; SET PASSWORD FOR bob@'%' = PASSWORD('evil')");
    source.root("CREATE USER carol@'%'; DROP USER carol@'%'; CREATE ROLE auditor; GRANT auditor TO bob@'%'");
    source.root("CREATE USER late@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO late@'%'");
    source.root("INSERT INTO shop.a VALUES (1)");
    wait_durable(&repo, &source);
    end(process);
    let told = repo.json(["restore", "latest", "--to", &target.url()]);
    assert!(told["notes"].to_string().contains("accounts that the server has"), "{told}");
    assert_eq!(target.root("SELECT count(*) FROM shop.a"), "1");
    let late = target.root("SHOW GRANTS FOR late@'%'");
    assert!(late.contains("`shop`"), "{late}");
    target.root("DROP USER late@'%'");
    assert_eq!(neighbours(&target), before);
    // Over itself: all accounts of the log are there.
    source.root("INSERT INTO shop.a VALUES (2)");
    let accounts = source.root("SELECT count(*) FROM mysql.user");
    repo.ok(["restore", "latest", "--to", &source.url(), "--replace"]);
    assert_eq!(source.root("SELECT count(*) FROM shop.a"), "1");
    assert_eq!(source.root("SELECT count(*) FROM mysql.user"), accounts);
}
