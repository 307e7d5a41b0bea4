//! `esker key split`

use super::{Owner, add, for_tiers};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use crate::secret_files::SecretFile;
use crate::secrets::Secret;
use crate::sheet::{Opens, Sheet};
use chunkstore::ObjectId;
use chunkstore::env::SystemEnv;
use chunkstore::keys::{Share, Shares};
use chunkstore::private;
use engine::{Repository, shown};
use serde_json::json;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use zeroize::Zeroizing;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How many shares open the repository, of how many: 2/3
    #[arg(value_name = "M/N")]
    of: Numbers,
    /// Folder for the shares, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Make sheets to print, with words and a QR code, instead of text files
    #[arg(long)]
    html: bool,
    #[command(flatten)]
    owner: Owner,
}

/// `2/3`
#[derive(Clone, Copy, Debug)]
struct Numbers {
    threshold: u8,
    count: u8,
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(threshold, count)| {
            Some(Self { threshold: threshold.parse().ok()?, count: count.parse().ok()? })
        });
        numbers.ok_or_else(|| format!("'{text}' is not two numbers like 2/3, two of three"))
    }
}

pub(super) fn run(args: Args, repo: &Repository, context: &Context) -> CommandResult {
    let shares = Shares::make(args.of.threshold, args.of.count, &SystemEnv)?;
    let failed = |error| Failure::new(format!("cannot make {}: {error}", shown::path(&args.output)));
    // One that is there is left as it is: it may be any folder of the user's.
    let is_new = !args.output.exists();
    DirBuilder::new().recursive(true).mode(private::FOLDER).create(&args.output).map_err(failed)?;
    let made = make(&args, &shares, repo, context);
    if made.is_err() && is_new {
        // Only if nothing is in it.
        let _ = fs::remove_dir(&args.output);
    }
    let (slot, paths) = made?;
    let shown: Vec<String> = paths.iter().map(|path| shown::path(path)).collect();
    let Numbers { threshold, count } = args.of;
    let mut summary = Summary::new(json!({
        "added": [slot], "removed": [], "files": shown, "threshold": threshold, "shares": count,
    }));
    summary
        .line(format!("added key slot {}, which {threshold} of {count} shares open together:", slot.short()));
    shown.iter().for_each(|path| summary.line(path.clone()));
    summary.line("Give each to another person, and delete the files here: whoever has enough of them can open the repository.");
    for_tiers(context, &mut summary);
    context.console.summary(&summary);
    Ok(Code::Done)
}

/// Writes the files, then adds the slot.
fn make(
    args: &Args,
    shares: &Shares,
    repo: &Repository,
    context: &Context,
) -> Result<(ObjectId, Vec<PathBuf>), Failure> {
    let (mut files, mut paths) = (vec![], vec![]);
    for share in shares.iter() {
        let path = args.output.join(name(share, args.html));
        let text = match args.html {
            true => Sheet::of(repo, context, &args.owner.label).html(&share.text(), Opens::With(share))?,
            false => text(share, repo),
        };
        files.push(SecretFile::write(&path, &text)?);
        paths.push(path);
    }
    let slot = add(repo, &Secret::Shares(shares.clone()), args.owner.get(), context);
    Ok((SecretFile::settle_all(files, slot)?, paths))
}

/// Shares of several splits can be in one folder.
fn name(share: &Share, html: bool) -> String {
    let split: String = share.split().chars().take(8).collect();
    let end = if html { "html" } else { "txt" };
    format!("share-{split}-{}-of-{}.{end}", share.number(), share.of().1)
}

fn text(share: &Share, repo: &Repository) -> Zeroizing<String> {
    let (threshold, count) = share.of();
    let line = share.text().line();
    Zeroizing::new(format!(
        "# Share {} of {count} of a key of the esker repository {}. {threshold} of them open it together:\n\
         # 'esker --share FILE', once for each.\n{}\n",
        share.number(),
        repo.store().config().repository_id,
        *line
    ))
}
