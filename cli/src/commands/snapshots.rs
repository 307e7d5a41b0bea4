//! `esker snapshots`: records are read one after the other, and what is shown of them is printed or kept.

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use engine::admit::waiting;
use engine::policy::GroupBy;
use engine::rank::Ranked;
use engine::{Monitor, Repository};
use std::sync::Arc;

mod authors;
mod listing;
mod newest;
mod shown;
mod view;
use authors::Authors;
use listing::Listing;
use newest::Newest;
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
    let is_grouped = args.group_by.is_some();
    let viewer = Viewer {
        form,
        is_grouped,
        group_by: args.group_by.unwrap_or_default(),
        filter: args.filter.filter(),
        authors: Authors { repository: *repo.store().keys().repository(), hosts: repo.store().hosts()? },
    };
    let mut listing = Listing::new(form, is_grouped);
    let mut add = |viewed| listing.add(viewed);
    let monitor = context.console.monitor();
    match args.latest.or(args.last.then_some(1)) {
        Some(latest) => view_latest(&repo, viewer, &args.snapshots, latest, monitor, &mut add)?,
        None => view(&repo, viewer, &args.snapshots, monitor, &mut add)?,
    }
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
    monitor: &dyn Monitor,
    take: &mut dyn FnMut(Viewed),
) -> Result<(), Failure> {
    if !named.is_empty() {
        for ranked in repo.choose(&viewer.filter, named, monitor)? {
            take(viewer.view(&ranked).map_err(unserializable)?);
        }
        return Ok(());
    }
    let viewer = Arc::new(viewer);
    let shown = Arc::clone(&viewer);
    each_fitting(
        repo,
        &viewer,
        move |ranked| shown.view(&ranked),
        &mut |viewed: serde_json::Result<Viewed>| {
            take(viewed.map_err(unserializable)?);
            Ok(())
        },
        monitor,
    )
}

/// The same of the latest of each group.
fn view_latest(
    repo: &Repository,
    viewer: Viewer,
    named: &[String],
    latest: usize,
    monitor: &dyn Monitor,
    take: &mut dyn FnMut(Viewed),
) -> Result<(), Failure> {
    let (by, mut newest) = (viewer.group_by, Newest::new(latest));
    let viewer = Arc::new(viewer);
    if named.is_empty() {
        each_fitting(
            repo,
            &viewer,
            move |ranked| (by.key(&ranked.listed.snapshot), Box::new(ranked)),
            &mut |(group, ranked)| {
                newest.add(group, ranked);
                Ok(())
            },
            monitor,
        )?;
    } else {
        for ranked in repo.choose(&viewer.filter, named, monitor)? {
            newest.add(by.key(&ranked.listed.snapshot), Box::new(ranked));
        }
    }
    for ranked in newest.in_order() {
        take(viewer.view(&ranked).map_err(unserializable)?);
    }
    Ok(())
}

/// Takes what `view` makes of each snapshot that fits. That none of existing ones fits is an error.
fn each_fitting<T: Send + 'static>(
    repo: &Repository,
    viewer: &Arc<Viewer>,
    view: impl Fn(Ranked) -> T + Send + Sync + 'static,
    take: &mut dyn FnMut(T) -> engine::Result<()>,
    monitor: &dyn Monitor,
) -> Result<(), Failure> {
    let (mut count, mut fitting) = (0, 0);
    let own = Arc::clone(viewer);
    repo.view_snapshots(
        move |ranked| own.fits(&ranked).then(|| view(ranked)),
        &mut |viewed: Option<T>| {
            count += 1;
            fitting += usize::from(viewed.is_some());
            viewed.map_or(Ok(()), &mut *take)
        },
        monitor,
    )?;
    match fitting == 0 && count > 0 {
        true => Err(viewer.filter.fits_none(count).into()),
        false => Ok(()),
    }
}

fn unserializable(error: serde_json::Error) -> engine::Error {
    engine::Error::Invalid(error.to_string())
}

/// Says what of hosts waits to be admitted: there are no snapshots of it yet.
fn pending(repo: &Repository, context: &Context) -> Result<(), Failure> {
    if repo.store().head().hosts.is_empty() || repo.store().tier().is_some() {
        return Ok(());
    }
    match waiting(repo.store(), context.console.monitor()) {
        Ok(waiting) => {
            for (host, inbox) in waiting {
                for (run, waits) in &inbox.waiting {
                    let bytes = output::bytes(waits.bytes);
                    output::line(format!(
                        "pending: run {run} of host {}, {bytes}; 'esker host admit' takes it in",
                        host.name
                    ));
                }
                let more = inbox.pending.runs.saturating_sub(inbox.waiting.len() as u64);
                if more > 0 {
                    output::line(format!("pending: {more} later runs of host {}", host.name));
                }
            }
        }
        // A reader need not have the right to look there.
        Err(error) => context.console.say(format!("what waits in inboxes is not known: {error}")),
    }
    Ok(())
}
