//! Which pages a spare worker makes ready: those that the next function to be restored is likely to touch.
//!
//! Functions of one runtime have their interpreter at the same guest-physical pages, since a guest's space is handed out in
//! the order in which it is asked for. Of ten Python functions nine tenths of what `hello` touches are touched by the others, too.

use pages::{PageCount, PageIndex, PageRange, PageSet};

/// How the pages are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ReadyRule {
    /// A page that less than this share of restores touches is not made ready. A page that is ready and not touched costs a
    /// restore some 0.5 us, one that is touched and not ready 5 to 10 us, so that memory decides, not time.
    pub share: f64,
    /// At most this many: the likeliest.
    pub most: PageCount,
}

impl Default for ReadyRule {
    /// A fifth, and 40 MiB.
    fn default() -> Self {
        Self { share: 0.2, most: PageCount(10_240) }
    }
}

impl ReadyRule {
    /// The pages to make ready, when restores touch each of these sets as often as its weight says. Weights are positive.
    pub fn pages<'a>(&self, touched: impl IntoIterator<Item = (f64, &'a PageSet)>) -> PageSet {
        let (mut all, mut borders) = (0.0, Vec::new());
        for (weight, pages) in touched {
            all += weight;
            let runs = pages.runs().iter();
            borders.extend(runs.flat_map(|run| [(run.start, weight), (run.end(), -weight)]));
        }
        borders.sort_unstable_by_key(|(page, _)| *page);
        let mut likely = Vec::new();
        let (mut weight, mut since) = (0.0, PageIndex(0));
        for (page, change) in borders {
            // Sums of fractions are off by a little.
            if page > since && weight >= all * self.share - all * 1e-9 && weight > all * 1e-9 {
                likely.push((weight, PageRange::between(since, page)));
            }
            (weight, since) = (weight + change, page);
        }
        likely.sort_by(|(one, first), (other, second)| {
            other.total_cmp(one).then(first.start.cmp(&second.start))
        });
        let mut left = self.most.0;
        let chosen = likely.into_iter().map(|(_, run)| {
            let run = PageRange::new(run.start, PageCount(run.count.0.min(left)));
            left -= run.count.0;
            run
        });
        chosen.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample::set;

    fn pages(share: f64, most: u64, touched: &[(f64, &[(u64, u64)])]) -> PageSet {
        let touched: Vec<_> = touched.iter().map(|(weight, runs)| (*weight, set(runs))).collect();
        let rule = ReadyRule { share, most: PageCount(most) };
        rule.pages(touched.iter().map(|(weight, pages)| (*weight, pages)))
    }

    #[test]
    fn what_enough_restores_touch_is_made_ready() {
        let touched: [(f64, &[(u64, u64)]); 3] =
            [(1.0, &[(0, 10), (100, 110)]), (1.0, &[(5, 20), (105, 106)]), (2.0, &[(5, 8), (200, 210)])];
        assert_eq!(pages(0.5, 1000, &touched), set(&[(5, 10), (105, 106), (200, 210)]));
        assert_eq!(pages(0.75, 1000, &touched), set(&[(5, 8)]));
        assert_eq!(pages(0.0, 1000, &touched), set(&[(0, 20), (100, 110), (200, 210)]));
    }

    #[test]
    fn the_likeliest_come_first_when_there_is_no_room_for_all() {
        let touched: [(f64, &[(u64, u64)]); 2] = [(1.0, &[(0, 10), (100, 120)]), (3.0, &[(105, 109)])];
        assert_eq!(pages(0.2, 6, &touched), set(&[(0, 2), (105, 109)]));
        assert_eq!(pages(0.2, 4, &touched), set(&[(105, 109)]));
    }

    #[test]
    fn nothing_known_means_nothing_ready() {
        assert_eq!(pages(0.2, 100, &[]), PageSet::new());
        assert_eq!(pages(0.0, 100, &[(1.0, &[])]), PageSet::new());
    }
}
