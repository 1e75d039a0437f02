//! Medians and how sure they are.

use serde::Serialize;

/// Resamplings for a confidence interval.
const RESAMPLINGS: usize = 2000;

/// A median with its 95% confidence interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Median {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    pub count: usize,
}

/// The median of `values`; none of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which that share of `values` lies, between two neighbours in proportion.
pub(crate) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(place as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// The geometric mean of positive `values`; none of nothing.
pub(crate) fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| *value <= 0.0) {
        return None;
    }
    Some((values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

impl Median {
    /// By the bootstrap: medians of samples drawn from `values` with replacement. The same values give the same interval.
    pub fn of(values: &[f64]) -> Option<Self> {
        let value = median(values)?;
        let mut random = Random::new(values.len() as u64);
        let medians: Vec<f64> = (0..RESAMPLINGS)
            .filter_map(|_| {
                let drawn: Vec<f64> = (0..values.len())
                    .filter_map(|_| values.get(random.below(values.len() as u64) as usize).copied())
                    .collect();
                median(&drawn)
            })
            .collect();
        let bound = |share| quantile(&medians, share).unwrap_or(value);
        Some(Self { value, low: bound(0.025), high: bound(0.975), count: values.len() })
    }
}

/// A small generator (SplitMix64), for orders and resamplings that are the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// From 0 up to, but without, 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_means() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 3.0, 4.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(quantile(&[0.0, 10.0, 20.0], 0.99), Some(19.8));
        assert!((geometric_mean(&[1.0, 4.0]).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
    }

    #[test]
    fn an_interval_holds_its_median_and_narrows() {
        let mut random = Random::new(3);
        let many: Vec<f64> = (0..200).map(|_| random.share()).collect();
        let wide = Median::of(&many[..10]).unwrap();
        let narrow = Median::of(&many).unwrap();
        assert!(wide.low <= wide.value && wide.value <= wide.high);
        assert!(narrow.high - narrow.low < wide.high - wide.low);
        assert_eq!(Median::of(&[5.0; 7]), Some(Median { value: 5.0, low: 5.0, high: 5.0, count: 7 }));
    }

    #[test]
    fn shuffling_keeps_everything() {
        let mut items: Vec<u32> = (0..50).collect();
        Random::new(1).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
