//! Which repository the places of esker.toml are to hold. Another one may lie in any of them, of the same password: a
//! disk of another machine's, say. What it holds is never to be taken for ours.
//!
//! Told by `repository_id` of esker.toml; else by what this machine has seen in these places; else by most of the places
//! that can be reached, those that were made as what esker.toml calls them counting first. Where that does not tell, none
//! of them is read. One of several places that alone can be reached is read, as after a disaster, and not written to.

use super::Context;
use crate::exit::Failure;
use crate::file::{File, TierPlace};
use crate::places::Make;
use chunkstore::env::{SystemEnv, random_array};
use chunkstore::private;
use chunkstore::storage::Storage;
use chunkstore::store::{Claim, claim};
use chunkstore::{RepositoryId, id::to_hex};
use engine::tier::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The repository that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    /// Its id, or the beginning of it.
    id: String,
    /// Who says so.
    by: Witness,
}

/// Who says which repository is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Witness {
    File,
    Memory,
    Most,
    /// The one place that can be reached, of several.
    Alone,
}

impl Witness {
    fn shown(self) -> &'static str {
        match self {
            Self::File => "esker.toml",
            Self::Memory => "what this machine has seen in the places of esker.toml",
            Self::Most => "most places of esker.toml",
            Self::Alone => "the one place of esker.toml that can be reached",
        }
    }
}

impl Meant {
    fn is(&self, id: &RepositoryId) -> bool {
        id.to_string().starts_with(&self.id)
    }

    fn short(&self) -> &str {
        self.id.get(..8).unwrap_or(&self.id)
    }
}

/// A place that says what it is.
struct Voter<'a> {
    tier: &'a TierPlace,
    claim: Claim,
}

impl Voter<'_> {
    fn is_primary(&self) -> bool {
        self.tier.options.role == Role::Primary
    }

    /// Whether it was made as what esker.toml calls it.
    fn is_as_called(&self) -> bool {
        match &self.claim.made_as {
            None => self.is_primary(),
            Some(name) => *name == self.tier.options.name,
        }
    }
}

impl Context {
    /// Refuses what lies in a place of esker.toml if it is another repository than the one that is meant.
    pub(crate) fn refuse_another(&self, tier: &TierPlace, storage: &dyn Storage) -> Result<(), Failure> {
        let Some(claim) = claim(storage) else { return Ok(()) };
        let meant = self.meant()?;
        if meant.is(&claim.repository) {
            if meant.by != Witness::Alone {
                self.saw(tier, &claim.repository);
            }
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} holds another repository ({}) than {}, which is meant by {}: nothing of it is used for '{}'. If that one is \
             meant from now on, write repository_id = \"{}\" into esker.toml; -r reads it as it is",
            storage.place(),
            claim.repository.short(),
            meant.short(),
            meant.by.shown(),
            tier.options.name,
            claim.repository,
        )))
    }

    /// Refuses to write where nothing but the place itself says that it is ours.
    pub(crate) fn refuse_to_write_alone(&self) -> Result<(), Failure> {
        match self.repository.get() {
            Some(Ok(Meant { id, by: Witness::Alone })) => Err(Failure::new(format!(
                "one place of esker.toml alone can be reached, and this machine has seen none of them before: that the \
                 repository there ({id}) is the one that is meant, nothing tells, so nothing is written to it. Write \
                 repository_id = \"{id}\" into esker.toml if it is, or reach another place, too"
            ))),
            _ => Ok(()),
        }
    }

    /// Notes that a new repository was made, for all places of esker.toml: what was seen there before is over.
    pub(crate) fn made_anew(&self, id: &RepositoryId) {
        let Some(file) = self.file.as_ref().filter(|_| self.uses_file()) else { return };
        file.tiers.iter().for_each(|tier| self.saw(tier, id));
    }

    /// Whether it was asked which repository is meant, and nothing told it.
    pub(crate) fn cannot_tell(&self) -> bool {
        self.repository.get().is_some_and(Result::is_err)
    }

    fn meant(&self) -> Result<Meant, Failure> {
        let Some(file) = &self.file else {
            return Err(Failure::new("no esker.toml says which repository is meant"));
        };
        let found = self.repository.get_or_init(|| self.find_meant(file));
        found.clone().map_err(Failure::new)
    }

    fn find_meant(&self, file: &File) -> Result<Meant, String> {
        if let Some(id) = &file.repository_id {
            return Ok(Meant { id: id.clone(), by: Witness::File });
        }
        let seen: BTreeSet<String> = file.tiers.iter().filter_map(|tier| self.seen(tier)).collect();
        if seen.len() == 1
            && let Some(id) = seen.into_iter().next()
        {
            return Ok(Meant { id, by: Witness::Memory });
        }
        let open = |tier: &TierPlace| tier.place.open(Make::No, tier.rates).ok();
        let voters: Vec<Voter<'_>> = (file.tiers.iter())
            .filter_map(|tier| Some(Voter { tier, claim: claim(&*open(tier)?)? }))
            .collect();
        let by = if voters.len() == 1 && file.tiers.len() > 1 { Witness::Alone } else { Witness::Most };
        elect(&voters).map(|id| Meant { id: id.to_string(), by })
    }

    /// Where it is noted which repository was seen in a place.
    fn note_of(&self, tier: &TierPlace) -> Option<PathBuf> {
        let place = blake3::hash(tier.place.identity().as_bytes());
        Some(self.cache()?.join(format!("{}.place", to_hex(&place.as_bytes()[..16]))))
    }

    fn seen(&self, tier: &TierPlace) -> Option<String> {
        let path = self.note_of(tier)?;
        let noted = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            noted => noted.unwrap_or_default(),
        };
        let id = std::str::from_utf8(&noted).ok().and_then(|text| RepositoryId::parse(text.trim()));
        if id.is_none() {
            let (name, path) = (&tier.options.name, path.display());
            tracing::warn!(
                "the note of what was seen in the place of '{name}' cannot be read: {path}; the other places say which \
                 repository is meant"
            );
        }
        Some(id?.to_string())
    }

    pub(crate) fn saw(&self, tier: &TierPlace, id: &RepositoryId) {
        if self.seen(tier) == Some(id.to_string()) {
            return;
        }
        let Some(path) = self.note_of(tier) else { return };
        // A note that is lost is made again by the next command that can.
        let random = to_hex(&random_array::<8>(&SystemEnv).unwrap_or_default());
        if let Err(error) = private::replace_durably(&path, format!("{id}\n").as_bytes(), &random) {
            tracing::debug!(%error, "what was seen in a place was not noted");
        }
    }
}

/// The repository that most places hold, those that are what they are called before the others.
fn elect(voters: &[Voter<'_>]) -> Result<RepositoryId, String> {
    let mut votes: BTreeMap<RepositoryId, (usize, usize)> = BTreeMap::new();
    for voter in voters {
        let (as_called, all) = votes.entry(voter.claim.repository).or_default();
        *as_called += usize::from(voter.is_as_called());
        *all += 1;
    }
    let most = votes.values().max().copied().unwrap_or_default();
    let mut first = votes.iter().filter(|(_, votes)| **votes == most).map(|(id, _)| *id);
    match (first.next(), first.next()) {
        // One that is not what it is called, and alone, may be anybody's; but backups go to the primary's place, whatever
        // it was made as.
        (Some(id), None) if most.0 > 0 || voters.len() > 1 || voters.iter().any(Voter::is_primary) => Ok(id),
        _ => {
            let what: Vec<String> = voters
                .iter()
                .map(|Voter { tier, claim: Claim { repository, made_as } }| {
                    let made_as =
                        made_as.as_ref().map_or("a primary".to_owned(), |tier| format!("tier '{tier}'"));
                    format!("in the place of '{}' lies {repository}, made as {made_as}", tier.options.name)
                })
                .collect();
            Err(format!(
                "which repository is meant cannot be told: {}. Write repository_id = \"ID\" into esker.toml",
                what.join("; ")
            ))
        }
    }
}
