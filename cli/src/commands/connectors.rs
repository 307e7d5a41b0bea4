//! `esker connectors`

use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use engine::connector::{Choice, Connector, Target};
use serde_json::{Value, json};

pub(crate) fn run(context: &Context) -> CommandResult {
    if context.global.json {
        let all: Vec<Value> = connectors::all().iter().map(|one| described(*one)).collect();
        output::json_line(&json!(all));
    } else {
        let headings = ["System", "Backs up", "Restores to", "Restore takes", "Follows", "Lists", "Settings"];
        let mut table = output::table(&headings);
        for one in connectors::all() {
            table.add_row(row(*one));
        }
        output::block(table.trim_fmt());
    }
    Ok(Code::Done)
}

/// Schemes as people write them, a line each.
fn urls(schemes: &[&str]) -> String {
    schemes.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join("\n")
}

/// The choices of a server and of a folder, each once.
fn choices(one: &dyn Connector) -> Vec<&'static Choice> {
    let mut all: Vec<&'static Choice> = vec![];
    for choice in targets(one).flat_map(|target| target.choices()) {
        if all.iter().all(|known| known.flag != choice.flag) {
            all.push(choice);
        }
    }
    all
}

/// The server and the folder that a restore writes to, as far as the system has them.
fn targets(one: &dyn Connector) -> impl Iterator<Item = &dyn Target> {
    [one.target(), one.folder_target()].into_iter().flatten()
}

fn row(one: &dyn Connector) -> Vec<String> {
    let schemes: Vec<&str> = one.schemes().iter().map(|scheme| scheme.name).collect();
    let mut restores = urls(one.target_schemes());
    restores += if one.folder_target().is_some() { "\nfolders" } else { "" };
    let flags: Vec<String> = choices(one).iter().map(|choice| format!("--{}", choice.flag)).collect();
    let settings: Vec<&str> = one
        .settings()
        .iter()
        .map(|setting| if setting.secret { setting.variable.unwrap_or(setting.name) } else { setting.name })
        .collect();
    vec![
        one.title().to_owned(),
        urls(&schemes),
        restores.trim().to_owned(),
        flags.join("\n"),
        one.live_stream().map(|live| urls(live.schemes())).unwrap_or_default(),
        one.contents().map(|contents| format!("{}s", contents.noun())).unwrap_or_default(),
        settings.join("\n"),
    ]
}

fn choice(choice: &Choice) -> Value {
    json!({"flag": choice.flag, "value": choice.value, "many": choice.many, "about": choice.about})
}

fn described(one: &dyn Connector) -> Value {
    let list = |all: &[&'static Choice]| all.iter().map(|one| choice(one)).collect::<Vec<_>>();
    json!({
        "name": one.name(),
        "title": one.title(),
        "schemes": one
            .schemes()
            .iter()
            .map(|scheme| json!({"name": scheme.name, "form": scheme.form, "about": scheme.about}))
            .collect::<Vec<_>>(),
        "incremental": one.incremental_schemes(),
        "restores_to": one
            .target()
            .map(|target| json!({"schemes": one.target_schemes(), "choices": list(target.choices())})),
        "restores_to_folder": one.folder_target().map(|target| json!({"choices": list(target.choices())})),
        "follows": one
            .live_stream()
            .map(|live| json!({"schemes": live.schemes(), "choices": list(live.choices())})),
        "lists": one.contents().map(|contents| contents.noun()),
        "settings": one
            .settings()
            .iter()
            .map(|setting| {
                json!({
                    "name": setting.name,
                    "values": setting.values,
                    "about": setting.about,
                    "variable": setting.variable,
                    "file_variable": setting.file_variable,
                    "secret": setting.secret,
                })
            })
            .collect::<Vec<_>>(),
        "variables": one.variables(),
        "formats": one.formats().iter().map(|format| format.name).collect::<Vec<_>>(),
        "logins": one.logins(),
    })
}
