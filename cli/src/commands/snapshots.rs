//! `esker snapshots`: records are read one after the other, and what is shown of them is printed or kept.

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use engine::Repository;
use engine::admit::waiting;
use engine::policy::GroupBy;

mod authors;
mod listing;
mod shown;
mod view;
use authors::Authors;
use listing::Listing;
pub(crate) use shown::to_json;
use view::{Form, Viewed, Viewer};

/// List snapshots
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these, by id or latest
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only the newest N of each group, as --group-by says [default: as forget groups them]
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// The same as --latest 1
    #[arg(long, hide = true, conflicts_with = "latest")]
    last: bool,
    /// Show snapshots in groups: host, paths, tags, separated by commas
    #[arg(short, long, value_name = "WHAT")]
    group_by: Option<GroupBy>,
    /// Without paths
    #[arg(short, long)]
    compact: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let form = match context.global.json {
        true => Form::Json,
        false if args.compact => Form::Compact,
        false => Form::Table,
    };
    let latest = args.latest.or(args.last.then_some(1));
    let is_grouped = args.group_by.is_some();
    let viewer = Viewer {
        form,
        is_grouped,
        group_by: (is_grouped || latest.is_some()).then(|| args.group_by.unwrap_or_default()),
        filter: args.filter.filter(),
        authors: Authors { repository: *repo.store().keys().repository(), hosts: repo.store().hosts()? },
    };
    let mut listing = Listing::new(form, is_grouped, latest);
    view(&repo, viewer, &args.snapshots, context, &mut |viewed| listing.add(viewed))?;
    listing.finish();
    if form != Form::Json && !is_grouped {
        pending(&repo, context)?;
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

/// Takes what is shown of each snapshot that is named, or else fits.
fn view(
    repo: &Repository,
    viewer: Viewer,
    named: &[String],
    context: &Context,
    take: &mut dyn FnMut(Viewed),
) -> Result<(), Failure> {
    let monitor = context.console.monitor();
    let unserializable = |error: serde_json::Error| engine::Error::Invalid(error.to_string());
    let filter = viewer.filter.clone();
    if !named.is_empty() {
        for ranked in repo.choose(&filter, named, monitor)? {
            take(viewer.view(&ranked).map_err(unserializable)?);
        }
        return Ok(());
    }
    let (mut count, mut fitting) = (0, 0);
    repo.view_snapshots(
        move |ranked| viewer.view_if_fits(&ranked),
        &mut |viewed: serde_json::Result<Option<Viewed>>| {
            count += 1;
            if let Some(viewed) = viewed.map_err(unserializable)? {
                fitting += 1;
                take(viewed);
            }
            Ok(())
        },
        monitor,
    )?;
    match fitting == 0 && count > 0 {
        true => Err(filter.fits_none(count).into()),
        false => Ok(()),
    }
}

/// Says what of hosts waits to be admitted: there are no snapshots of it yet.
fn pending(repo: &Repository, context: &Context) -> Result<(), Failure> {
    if repo.store().head().hosts.is_empty() || repo.store().tier().is_some() {
        return Ok(());
    }
    match waiting(repo.store()) {
        Ok(waiting) => {
            for (host, run, waits) in waiting {
                let bytes = output::bytes(waits.bytes);
                output::line(format!(
                    "pending: run {run} of host {}, {bytes}; 'esker host admit' takes it in",
                    host.name
                ));
            }
        }
        // A reader need not have the right to look there.
        Err(error) => context.console.say(format!("what waits in inboxes is not known: {error}")),
    }
    Ok(())
}
