//! What the commands about epochs look at: a repository alone, or the primary with the tiers that can be reached.

use crate::context::Context;
use crate::exit::Failure;
use crate::fleet::Fleet;
use engine::Repository;

/// The repository of the command, with its tiers if esker.toml has any.
pub(super) enum Places {
    Alone(Repository),
    Fleet(Box<Fleet>),
}

impl Places {
    pub(super) fn open(context: &Context, to_write: bool) -> Result<Self, Failure> {
        let has_tiers = context.uses_file() && context.file.as_ref().is_some_and(|file| file.tiers.len() > 1);
        Ok(match (has_tiers, to_write) {
            (true, true) => Self::Fleet(Box::new(context.fleet(None)?)),
            (true, false) => Self::Fleet(Box::new(context.fleet_to_look(None)?)),
            (false, true) => Self::Alone(context.open()?),
            (false, false) => Self::Alone(context.open_to_look()?),
        })
    }

    pub(super) fn primary(&self) -> &Repository {
        match self {
            Self::Alone(repo) => repo,
            Self::Fleet(fleet) => &fleet.primary,
        }
    }

    pub(super) fn fleet(&self) -> Option<&Fleet> {
        match self {
            Self::Alone(_) => None,
            Self::Fleet(fleet) => Some(fleet),
        }
    }

    /// The primary's name; that of a repository alone is not known.
    pub(super) fn name(&self) -> &str {
        self.fleet().map_or("primary", |fleet| &fleet.name)
    }
}
