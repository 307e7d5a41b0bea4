//! `esker key sheet`

use super::{Owner, add, for_tiers};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output::Summary;
use crate::secret_files::SecretFile;
use crate::secrets::Secret;
use crate::sheet::{Opens, Sheet};
use chunkstore::env::SystemEnv;
use chunkstore::keys::RawKey;
use engine::{Repository, shown};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The HTML file to make
    #[arg(value_name = "FILE.html")]
    file: PathBuf,
    #[command(flatten)]
    owner: Owner,
}

pub(super) fn run(args: Args, repo: &Repository, context: &Context) -> CommandResult {
    let owner = args.owner.labelled("recovery sheet");
    let key = RawKey::generate(&SystemEnv)?;
    let sheet = Sheet::of(repo, context, &owner.label);
    let file = SecretFile::write(&args.file, &sheet.html(&key.text(), Opens::Alone)?)?;
    let slot = add(repo, &Secret::Key(key), owner.get(), context);
    let slot = SecretFile::settle_all(vec![file], slot)?;
    let mut summary =
        Summary::new(json!({"added": [slot], "removed": [], "files": [shown::path(&args.file)]}));
    summary.line(format!("added key slot {}; its key is in {}", slot.short(), shown::path(&args.file)));
    summary.line("Print it on one page, delete the file, and lock the page away: whoever has it can open the repository.");
    for_tiers(context, &mut summary);
    context.console.summary(&summary);
    Ok(Code::Done)
}
