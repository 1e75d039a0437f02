//! Sets of pages, kept as runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::range::{PageCount, PageIndex, PageRange};

/// A set of pages as ascending runs that neither overlap nor touch.
///
/// On the wire it is a list of (gap since the end of the run before, length) pairs: small numbers, which a variable-length
/// integer encoding keeps short, and no list of such pairs can describe runs that overlap. Decoding refuses empty runs,
/// runs that touch and page numbers past the largest address.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct PageSet {
    runs: Vec<PageRange>,
}

/// A decoded list of runs that is no page set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidPageSet;

impl fmt::Display for InvalidPageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the runs of a page set are empty, touching or out of range")
    }
}

impl std::error::Error for InvalidPageSet {}

impl PageSet {
    /// Largest page number plus one that a decoded set may hold: 2^52 pages are the whole 64-bit address space.
    pub const LIMIT: PageIndex = PageIndex(1 << 52);

    /// The empty set.
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Adds `range`. Cheap when it lies at or behind the end of the set, which is how scans produce ranges.
    pub fn insert(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        // The runs that overlap or touch the new one are the half-open index range first..last.
        let first = self.runs.partition_point(|run| run.end() < range.start);
        let last = self.runs.partition_point(|run| run.start <= range.end());
        let mut merged = range;
        if let Some(touched) = self.runs.get(first..last)
            && let (Some(low), Some(high)) = (touched.first(), touched.last())
        {
            merged = PageRange::between(low.start.min(range.start), high.end().max(range.end()));
        }
        self.runs.splice(first..last, [merged]);
    }

    /// The runs, ascending.
    pub fn runs(&self) -> &[PageRange] {
        &self.runs
    }

    /// Every page, ascending.
    pub fn pages(&self) -> impl Iterator<Item = PageIndex> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// How many pages.
    pub fn count(&self) -> PageCount {
        PageCount(self.runs.iter().map(|run| run.count.0).sum())
    }

    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// One past the last page; page 0 for the empty set.
    pub fn end(&self) -> PageIndex {
        self.runs.last().map_or(PageIndex(0), |run| run.end())
    }

    /// Whether `page` is in the set.
    pub fn contains(&self, page: PageIndex) -> bool {
        let after = self.runs.partition_point(|run| run.start <= page);
        after.checked_sub(1).and_then(|index| self.runs.get(index)).is_some_and(|run| run.contains(page))
    }

    /// The runs of this set cut to `window`, ascending.
    pub fn within(&self, window: PageRange) -> impl Iterator<Item = PageRange> {
        let first = self.runs.partition_point(|run| run.end() <= window.start);
        self.runs
            .iter()
            .skip(first)
            .take_while(move |run| run.start < window.end())
            .map(move |run| run.intersection(window))
            .filter(|run| !run.is_empty())
    }

    /// The runs of `window` that are not in this set, ascending.
    pub fn gaps(&self, window: PageRange) -> impl Iterator<Item = PageRange> {
        let starts = std::iter::once(window.start).chain(self.within(window).map(|run| run.end()));
        let ends = self.within(window).map(|run| run.start).chain(std::iter::once(window.end()));
        starts.zip(ends).map(|(start, end)| PageRange::between(start, end)).filter(|gap| !gap.is_empty())
    }

    /// Pages in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut runs: Vec<_> = self.runs.iter().chain(&other.runs).copied().collect();
        runs.sort_unstable_by_key(|run| run.start);
        runs.into_iter().collect()
    }

    /// Pages in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.runs.iter().flat_map(|run| other.within(*run)).collect()
    }

    /// The same with the pages between two runs that are at most `gap` pages apart.
    #[must_use]
    pub fn bridged(&self, gap: PageCount) -> Self {
        let mut runs: Vec<PageRange> = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            match runs.last_mut() {
                Some(last) if run.start.0 - last.end().0 <= gap.0 => {
                    *last = PageRange::between(last.start, run.end());
                }
                _ => runs.push(*run),
            }
        }
        Self { runs }
    }

    /// Pages in this set but not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.runs.iter().flat_map(|run| other.gaps(*run)).collect()
    }
}

impl FromIterator<PageRange> for PageSet {
    fn from_iter<I: IntoIterator<Item = PageRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

impl Extend<PageRange> for PageSet {
    fn extend<I: IntoIterator<Item = PageRange>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert(range);
        }
    }
}

impl FromIterator<PageIndex> for PageSet {
    fn from_iter<I: IntoIterator<Item = PageIndex>>(pages: I) -> Self {
        pages.into_iter().map(|page| PageRange::new(page, PageCount(1))).collect()
    }
}

impl fmt::Debug for PageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.runs).finish()
    }
}

impl From<PageSet> for Vec<(u64, u64)> {
    fn from(set: PageSet) -> Self {
        let mut end = 0;
        set.runs
            .into_iter()
            .map(|run| {
                let gap = run.start.0 - end;
                end = run.end().0;
                (gap, run.count.0)
            })
            .collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for PageSet {
    type Error = InvalidPageSet;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, InvalidPageSet> {
        let mut runs = Vec::with_capacity(pairs.len());
        let mut end = 0u64;
        for (index, (gap, count)) in pairs.into_iter().enumerate() {
            if count == 0 || (gap == 0 && index > 0) {
                return Err(InvalidPageSet);
            }
            let start = end.checked_add(gap).ok_or(InvalidPageSet)?;
            end = start.checked_add(count).filter(|end| *end <= Self::LIMIT.0).ok_or(InvalidPageSet)?;
            runs.push(PageRange::new(PageIndex(start), PageCount(count)));
        }
        Ok(Self { runs })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count))
    }

    fn model(ranges: &[(u64, u64)]) -> BTreeSet<u64> {
        ranges.iter().flat_map(|(start, count)| *start..start + count).collect()
    }

    fn set(ranges: &[(u64, u64)]) -> PageSet {
        ranges.iter().map(|(start, count)| range(*start, *count)).collect()
    }

    fn listed(set: &PageSet) -> BTreeSet<u64> {
        set.pages().map(|page| page.0).collect()
    }

    #[test]
    fn touching_runs_become_one() {
        let set = set(&[(0, 2), (4, 2), (2, 2)]);
        assert_eq!(set.runs(), [range(0, 6)]);
    }

    #[test]
    fn encoded_runs_cannot_overlap_or_overflow() {
        assert_eq!(PageSet::try_from(vec![(3, 2), (1, 1)]), Ok(set(&[(3, 2), (6, 1)])));
        for bad in [vec![(0, 0)], vec![(0, 1), (0, 1)], vec![(u64::MAX, 2)], vec![(1 << 52, 1)]] {
            assert_eq!(PageSet::try_from(bad), Err(InvalidPageSet));
        }
    }

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0u64..200, 0u64..20), 0..30)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(a in ranges(), b in ranges()) {
            let (left, right) = (set(&a), set(&b));
            let (left_model, right_model) = (model(&a), model(&b));
            prop_assert_eq!(listed(&left), left_model.clone());
            prop_assert_eq!(left.count().0, left_model.len() as u64);
            prop_assert_eq!(listed(&left.union(&right)), &left_model | &right_model);
            prop_assert_eq!(listed(&left.intersection(&right)), &left_model & &right_model);
            prop_assert_eq!(listed(&left.difference(&right)), &left_model - &right_model);
            let bridged = left.bridged(PageCount(3));
            prop_assert!(bridged.runs().is_sorted_by(|one, next| next.start.0 - one.end().0 > 3));
            prop_assert_eq!((bridged.intersection(&left), bridged.end()), (left.clone(), left.end()));
            prop_assert!(bridged.difference(&left).runs().iter().all(|gap| gap.count.0 <= 3));
            let gaps: BTreeSet<u64> = left.gaps(range(20, 100)).flat_map(PageRange::iter).map(|page| page.0).collect();
            prop_assert_eq!(gaps, &(20..120).collect::<BTreeSet<u64>>() - &left_model);
            for page in 0..240 {
                prop_assert_eq!(left.contains(PageIndex(page)), left_model.contains(&page));
            }
            prop_assert!(left.runs().is_sorted_by(|one, next| one.end() < next.start));
            prop_assert_eq!(PageSet::try_from(Vec::from(left.clone())), Ok(left));
        }
    }
}
