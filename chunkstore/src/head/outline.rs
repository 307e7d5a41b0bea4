//! What identifies the segments of HEAD without reading them, for caches that remember which segments they have.

use super::{List, SegmentRef};
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// The leaves of HEAD's list of segments, and the segments that HEAD itself names. A leaf never changes, and its name is
/// not used twice: equal outlines have the same segments. Lists with the same segments may have different outlines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// Names of the leaves, each with the places of the items that were taken out.
    leaves: Vec<(ObjectId, Vec<u32>)>,
    loose: Vec<ObjectId>,
}

impl Outline {
    /// The outline of a list. No leaf is read.
    #[must_use]
    pub fn of(list: &List<SegmentRef>) -> Self {
        let (leaves, loose) = list.outline();
        Self {
            leaves: leaves.into_iter().map(|(id, gone)| (id, gone.to_vec())).collect(),
            loose: loose.into_iter().map(|segment| segment.id).collect(),
        }
    }

    /// The segments that `list` has in addition, if the list shows without its leaves being read that they are the only
    /// difference.
    #[must_use]
    pub fn added<'a>(&self, list: &'a List<SegmentRef>) -> Option<Vec<&'a SegmentRef>> {
        let (leaves, loose) = list.outline();
        let is_same = self.leaves.iter().map(|(id, gone)| (*id, gone.as_slice())).eq(leaves);
        let known: HashSet<ObjectId> = self.loose.iter().copied().collect();
        let there: HashSet<ObjectId> = loose.iter().map(|segment| segment.id).collect();
        let is_part = is_same && known.is_subset(&there);
        is_part.then(|| loose.into_iter().filter(|segment| !known.contains(&segment.id)).collect())
    }

    /// Whether the list shows without its leaves being read that it has all these segments. The answer is `false` if
    /// segments were moved from HEAD to a leaf, or from leaf to leaf.
    #[must_use]
    pub fn is_within(&self, list: &List<SegmentRef>) -> bool {
        let (leaves, loose) = list.outline();
        let leaves: HashMap<ObjectId, &[u32]> = leaves.into_iter().collect();
        let loose: HashSet<ObjectId> = loose.into_iter().map(|segment| segment.id).collect();
        let has_leaf = |(id, gone): &(ObjectId, Vec<u32>)| {
            let missing = leaves.get(id);
            missing.is_some_and(|missing| missing.iter().all(|place| gone.binary_search(place).is_ok()))
        };
        self.leaves.iter().all(has_leaf) && self.loose.iter().all(|id| loose.contains(id))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::leaves::{Leaves, Stamp};
    use super::super::{Age, NoColumns};
    use super::*;
    use crate::Result;
    use crate::env::{Env, SeededEnv};
    use crate::id::RepositoryId;
    use crate::keys::KeyRing;
    use crate::storage::memory::MemoryStorage;
    use std::sync::Arc;
    use std::time::Duration;

    /// HEAD holds next to nothing itself.
    struct TightEnv(SeededEnv);

    impl Env for TightEnv {
        fn now(&self) -> Duration {
            self.0.now()
        }
        fn random(&self, bytes: &mut [u8]) -> Result<()> {
            self.0.random(bytes)
        }
        fn sleep(&self, time: Duration) {
            self.0.sleep(time);
        }
        fn head_inline(&self) -> usize {
            // Two kilobytes to a leaf.
            2
        }
    }

    /// A place for leaves; all items of a list are written to leaves there.
    pub(crate) struct Shelf(Arc<Leaves>);

    impl Shelf {
        pub(crate) fn new() -> Self {
            let env = Arc::new(TightEnv(SeededEnv::new(7)));
            let keys = KeyRing::generate(RepositoryId([1; 16]), &*env).unwrap();
            let storage = Arc::new(MemoryStorage::default());
            Self(Arc::new(Leaves::new(storage, Arc::new(keys), env, None, &NoColumns, None)))
        }

        pub(crate) fn settle(&self, list: &mut List<SegmentRef>) {
            list.settle(&self.0, Stamp { age: Age { incarnation: 1, generation: 1 }, epoch: 1 }, &mut vec![])
                .unwrap();
        }
    }

    pub(crate) fn segment_ref(seed: u8) -> SegmentRef {
        SegmentRef { id: ObjectId([seed; 32]), hash: ObjectId([seed; 32]), packs: 1, chunks: 50, epoch: 1 }
    }

    /// The same list, whose leaves cannot be read.
    pub(crate) fn unreadable(list: &List<SegmentRef>) -> List<SegmentRef> {
        let list: List<SegmentRef> = serde_json::from_slice(&serde_json::to_vec(list).unwrap()).unwrap();
        assert!(list.iter().is_err());
        list
    }

    #[test]
    fn an_outline_shows_what_was_added_and_whether_all_is_there() {
        let shelf = Shelf::new();
        let mut list: List<SegmentRef> = (1..=5).map(segment_ref).collect();
        shelf.settle(&mut list);
        list.push(segment_ref(6));
        let outline = Outline::of(&list);
        assert_eq!((outline.leaves.len(), outline.loose.len()), (1, 1));
        assert_eq!(outline.added(&list), Some(vec![]));
        assert!(outline.is_within(&list));

        let mut more = list.clone();
        more.push(segment_ref(7));
        assert_eq!(outline.added(&more), Some(vec![&segment_ref(7)]));
        assert!(outline.is_within(&more) && !Outline::of(&more).is_within(&list));
        assert_eq!(Outline::of(&more).added(&list), None);

        let mut fewer = list.clone();
        fewer.retain(|segment| segment.id != segment_ref(2).id).unwrap();
        assert!(!outline.is_within(&fewer) && Outline::of(&fewer).is_within(&list));
        assert_eq!((outline.added(&fewer), Outline::of(&fewer).added(&list)), (None, None));

        // The same segments, but only the leaves say so.
        let mut settled = list.clone();
        shelf.settle(&mut settled);
        assert!(!outline.is_within(&settled));
        assert_eq!((outline.added(&settled), settled.len()), (None, 6));
    }
}
