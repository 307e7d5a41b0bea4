//! Azure as a copy, and its archive as a vault.

use super::{fill, same};
use crate::harness::{Repo, wait_for};

#[test]
fn azure_holds_a_copy_and_a_vault() {
    let azurite = crate::azurite::Azurite::start();
    azurite.python("service.create_container('vault')").unwrap();
    let toml = r#"
[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "azure"
url = "azure://backup/esker"
class = "Cool"

[[tier]]
name = "vault"
url = "azure://vault/esker"
role = "vault"
class = "Archive"

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
keep = "30d"
tiers = ["local", "azure", "vault"]
"#;
    let environment = azurite.environment();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let repo = Repo::with_tiers(toml, &environment, true);
    fill(&repo.path("data"), 800, 4, 1_000_000);
    repo.ok(["run"]);
    std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
    repo.ok(["restore", "latest", "--target", "from-copy"]);
    same(&repo, "from-copy");
    azurite.python("service.delete_container('backup')").unwrap();
    repo.fails(22, ["restore", "latest", "--target", "too-early"]);
    let plan = repo.json(["thaw", "plan", "latest"]);
    let asked = repo.json(["thaw", "start", "latest"]);
    assert_eq!(asked["packs_asked"], plan["packs"]);
    wait_for("rehydrated", 20, || repo.run(["thaw", "status", "latest"]).status.success());
    repo.ok(["restore", "latest", "--target", "from-vault"]);
    same(&repo, "from-vault");
}
