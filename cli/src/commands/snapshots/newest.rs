//! The newest snapshots of each group: only these are shown, and only their records are kept.

use engine::group::GroupKey;
use engine::rank::Ranked;
use std::collections::{HashMap, VecDeque};

/// So many of each group.
pub(super) struct Newest {
    most: usize,
    count: usize,
    /// With their numbers among all.
    groups: HashMap<GroupKey, VecDeque<(usize, Box<Ranked>)>>,
}

impl Newest {
    pub(super) fn new(most: usize) -> Self {
        Self { most, count: 0, groups: HashMap::new() }
    }

    /// Adds the next snapshot.
    pub(super) fn add(&mut self, group: GroupKey, ranked: Box<Ranked>) {
        let group = self.groups.entry(group).or_default();
        group.push_back((self.count, ranked));
        self.count += 1;
        if group.len() > self.most {
            group.pop_front();
        }
    }

    /// Oldest first.
    pub(super) fn in_order(self) -> impl Iterator<Item = Box<Ranked>> {
        let mut all: Vec<(usize, Box<Ranked>)> = self.groups.into_values().flatten().collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, ranked)| ranked)
    }
}
