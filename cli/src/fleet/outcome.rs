//! How a tier came out of a run, in numbers and for people.

use crate::exit::Failure;
use crate::output;
use crate::units::{counted, counted_are};
use engine::tier::sync::SyncReport;
use engine::{Monitor, Repository};
use serde::Serialize;
use std::time::Duration;

/// What packs are there is not looked for again so soon.
const LOOKED: Duration = Duration::from_secs(600);

/// How a tier came out of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TierOutcome {
    pub(crate) tier: String,
    #[serde(skip)]
    pub(super) is_primary: bool,
    /// Why it could not be brought up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) snapshots_copied: u64,
    /// Of the primary: snapshots that only a copy had, and that it names again.
    pub(crate) snapshots_brought_back: u64,
    /// Records of snapshots that were lost there and came from another place.
    pub(crate) records_mended: u64,
    pub(crate) packs_copied: u64,
    pub(crate) bytes_copied: u64,
    pub(crate) chunks_rewritten: u64,
    pub(crate) bytes_rewritten: u64,
    pub(crate) locks_extended: u64,
    /// Snapshots that were forgotten there.
    pub(crate) snapshots_forgotten: u64,
    pub(crate) bytes_removed: u64,
    /// Objects that nothing needs as far as is known, and that stay, since HEAD was made anew after they were written.
    pub(crate) objects_kept: u64,
    /// Snapshots that are named there and cannot be read.
    pub(crate) snapshots_unreadable: u64,
    /// Their ids, shortened.
    #[serde(skip)]
    pub(super) unreadable: Vec<String>,
    /// The first of them that no other tier has.
    #[serde(skip)]
    pub(super) lost: Option<String>,
    /// Snapshots that are promised to it, and are not there, or cannot be seen there.
    pub(crate) snapshots_owed: u64,
    /// The promises that say so.
    pub(crate) promises_behind: Vec<String>,
}

impl TierOutcome {
    /// Nothing yet, of the primary.
    pub(super) fn of_primary(name: &str) -> Self {
        Self { tier: name.to_owned(), is_primary: true, ..Self::default() }
    }

    /// Notes packs that the primary has lost: backups store again what they need of them, and older snapshots may need them.
    pub(super) fn note_lost(&mut self, primary: &Repository, monitor: &dyn Monitor) -> Result<(), Failure> {
        primary.sync_index(monitor)?;
        let lost = primary.store().lost_packs(LOOKED)?;
        if !lost.is_empty() {
            self.error.get_or_insert_with(|| {
                format!(
                    "{} missing there of those that it lists, or of another length than before ({}): older snapshots may \
                     need what is in them. 'esker heal {}' mends what another tier or parity has, and says what to do about the \
                     rest",
                    counted_are(lost.len(), "pack"),
                    lost.names(),
                    self.tier
                )
            });
        }
        Ok(())
    }

    pub(super) fn add(&mut self, report: SyncReport) {
        self.snapshots_copied += report.snapshots;
        self.packs_copied += report.packs;
        self.bytes_copied += report.bytes;
        self.chunks_rewritten += report.chunks_rewritten;
        self.bytes_rewritten += report.bytes_rewritten;
        self.locks_extended += report.locks_extended;
        if report.packs_lost > 0 {
            self.error.get_or_insert_with(|| {
                format!(
                    "{} missing there of those that it lists, or of another length than before: snapshots that were copied \
                     before may need what is in them, and 'esker heal {}' mends what another tier has",
                    counted_are(report.packs_lost, "pack"),
                    self.tier
                )
            });
        }
    }

    /// Whether something came back, or should have.
    pub(super) fn has_news(&self) -> bool {
        self.snapshots_brought_back > 0 || self.records_mended > 0 || self.error.is_some()
    }

    /// Whether something that was promised is not as it should be.
    pub(crate) fn is_behind(&self) -> bool {
        self.error.is_some() || self.snapshots_owed > 0 || self.snapshots_unreadable > 0
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = format!("tier '{}':", self.tier);
        if self.snapshots_copied > 0 || self.packs_copied > 0 {
            text += &format!(
                " copied {}, {} with {};",
                counted(self.snapshots_copied, "snapshot"),
                counted(self.packs_copied, "pack"),
                output::bytes(self.bytes_copied)
            );
        }
        if self.snapshots_brought_back > 0 {
            text += &format!(
                " brought back {} that only a copy had;",
                counted(self.snapshots_brought_back, "snapshot")
            );
        }
        if self.records_mended > 0 {
            text += &format!(
                " put {} of a snapshot back from a copy;",
                counted(self.records_mended, "lost record")
            );
        }
        if self.chunks_rewritten > 0 {
            text += &format!(
                " sealed {} anew, {};",
                counted(self.chunks_rewritten, "chunk"),
                output::bytes(self.bytes_rewritten)
            );
        }
        if self.locks_extended > 0 {
            text += &format!(" extended {};", counted(self.locks_extended, "lock"));
        }
        if self.snapshots_forgotten > 0 {
            text += &format!(
                " forgot {}, removed {};",
                counted(self.snapshots_forgotten, "snapshot"),
                output::bytes(self.bytes_removed)
            );
        }
        if self.objects_kept > 0 {
            text += &format!(
                " kept {} that HEAD, which was made anew, does not need ('{}' removes what is not needed);",
                counted(self.objects_kept, "object"),
                super::accepting_head((!self.is_primary).then_some(self.tier.as_str()))
            );
        }
        if self.snapshots_unreadable > 0 {
            text += &format!(
                " {} CANNOT BE READ ({}): {};",
                counted(self.snapshots_unreadable, "snapshot"),
                self.unreadable.join(", "),
                match &self.lost {
                    None => "'esker heal' copies their records from another tier".to_owned(),
                    Some(id) => format!("no tier has {id}, and 'esker forget {id}' gives it up"),
                }
            );
        }
        match (&self.error, self.snapshots_owed) {
            (Some(error), _) => text += &format!(" BEHIND: {error}"),
            (None, 0) if self.snapshots_unreadable > 0 => text.truncate(text.len() - 1),
            (None, 0) => text += " up to date",
            (None, owed) => {
                text += &format!(
                    " BEHIND: {} owed ({})",
                    counted(owed, "snapshot"),
                    self.promises_behind.join("; ")
                );
            }
        }
        text
    }
}
