//! Sets of offsets that lie mostly next to each other.

use std::collections::BTreeMap;

/// A set of offsets, kept as runs. What is asked of it costs the logarithm of the number of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The first offset of each run, and the one after its last. No two runs touch.
    runs: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds an offset.
    pub fn insert(&mut self, offset: u64) {
        // In the usual case it comes right behind all others.
        if let Some(mut last) = self.runs.last_entry()
            && *last.get() == offset
        {
            last.insert(offset + 1);
            return;
        }
        let before = self.runs.range_mut(..=offset).next_back().map(|(start, end)| (*start, end));
        let start = match before {
            Some((_, end)) if offset < *end => return,
            Some((start, end)) if offset == *end => {
                *end += 1;
                start
            }
            _ => {
                self.runs.insert(offset, offset + 1);
                offset
            }
        };
        if let Some((&next, &end)) = self.runs.range(offset + 1..).next()
            && next == offset + 1
        {
            self.runs.remove(&next);
            self.runs.insert(start, end);
        }
    }

    /// Adds a run from `start` to before `end`, all of it behind what is there already.
    pub(super) fn push(&mut self, start: u64, end: u64) {
        match self.runs.last_entry() {
            Some(mut last) if *last.get() == start => drop(last.insert(end)),
            _ => drop(self.runs.insert(start, end)),
        }
    }

    /// Takes an offset out.
    pub fn remove(&mut self, offset: u64) {
        let Some((&start, end)) = self.runs.range_mut(..=offset).next_back() else { return };
        let old = *end;
        if offset >= old {
            return;
        }
        if offset + 1 == old && start < offset {
            *end = offset;
            return;
        }
        if start == offset {
            self.runs.remove(&start);
        } else {
            *end = offset;
        }
        if offset + 1 < old {
            self.runs.insert(offset + 1, old);
        }
    }

    /// Takes out everything before `head`.
    pub fn remove_before(&mut self, head: u64) {
        while let Some(first) = self.runs.first_entry().filter(|first| *first.key() < head) {
            let end = first.remove();
            if end > head {
                self.runs.insert(head, end);
            }
        }
    }

    /// Whether it holds an offset.
    #[must_use]
    pub fn contains(&self, offset: u64) -> bool {
        self.runs.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// The smallest offset.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.runs.keys().next().copied()
    }

    /// The offset after the largest one.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.runs.values().next_back().copied()
    }

    /// The runs, ascending: the first offset of each, and the one after its last.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.runs.iter().map(|(start, end)| (*start, *end))
    }

    /// Every offset, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.runs().flat_map(|(start, end)| start..end)
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<T: IntoIterator<Item = u64>>(offsets: T) -> Self {
        let mut ranges = Self::default();
        offsets.into_iter().for_each(|offset| ranges.insert(offset));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_lies_next_to_each_other_is_one_run() {
        let mut ranges: Ranges = [5, 7, 6, 1].into_iter().collect();
        assert_eq!(ranges.runs().collect::<Vec<_>>(), [(1, 2), (5, 8)]);
        ranges.remove(6);
        assert_eq!(ranges.runs().collect::<Vec<_>>(), [(1, 2), (5, 6), (7, 8)]);
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((0..3u8, 0..40u64), 0..200)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (kind, offset) in steps {
                match kind {
                    0 => { ranges.insert(offset); model.insert(offset); }
                    1 => { ranges.remove(offset); model.remove(&offset); }
                    _ => {
                        let head = offset / 4;
                        ranges.remove_before(head);
                        model = model.split_off(&head);
                    }
                }
                prop_assert_eq!(ranges.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ranges.first(), model.first().copied());
                prop_assert_eq!(ranges.contains(offset), model.contains(&offset));
                let runs: Vec<_> = ranges.runs().collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", runs);
            }
        }
    }
}
