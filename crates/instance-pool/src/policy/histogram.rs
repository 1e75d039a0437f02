//! A function's idle times and what follows from them (*Serverless in the Wild*, section 4).

use std::time::Duration;

use super::Windows;

/// The hybrid histogram policy's parameters; the defaults are the paper's.
#[derive(Clone, PartialEq, Debug)]
pub struct HistogramSettings {
    /// Width of a bin.
    pub bin: Duration,
    /// Number of bins; longer idle times are out of bounds.
    pub bins: usize,
    /// The share of idle times that may be shorter than the pre-warming window.
    pub head: f64,
    /// The share of idle times that the keep-alive window reaches.
    pub tail: f64,
    /// By this share the pre-warming window is shortened and the keep-alive window lengthened.
    pub margin: f64,
    /// The histogram is used when its bins' coefficient of variation is at least this: a flat one predicts nothing.
    pub variation: f64,
    /// The histogram is not used when more than this share of idle times was out of bounds. The paper forecasts these with
    /// ARIMA; here they are kept for [`Self::fallback`].
    pub out_of_bounds: f64,
    /// Idle times that have to be known before the histogram is used.
    pub least: u32,
    /// How long instances are kept while the histogram is not used.
    pub fallback: Duration,
}

impl Default for HistogramSettings {
    fn default() -> Self {
        Self {
            bin: Duration::from_secs(60),
            bins: 240,
            head: 0.05,
            tail: 0.99,
            margin: 0.1,
            variation: 2.0,
            out_of_bounds: 0.5,
            least: 5,
            fallback: Duration::from_secs(600),
        }
    }
}

/// How often a function was idle for how long.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct IdleHistogram {
    /// Empty until the first idle time; then as many as the settings say.
    bins: Vec<u32>,
    out_of_bounds: u32,
}

impl IdleHistogram {
    /// Adds an idle time.
    pub fn observe(&mut self, settings: &HistogramSettings, idle: Duration) {
        self.bins.resize(settings.bins, 0);
        let bin = idle.as_nanos().checked_div(settings.bin.as_nanos()).unwrap_or(u128::MAX);
        let count = usize::try_from(bin).ok().and_then(|bin| self.bins.get_mut(bin));
        match count {
            Some(count) => *count = count.saturating_add(1),
            None => self.out_of_bounds = self.out_of_bounds.saturating_add(1),
        }
    }

    /// The histogram as it is kept: the bins that are not empty, by number, and what was out of bounds.
    pub fn parts(&self) -> (Vec<(u32, u32)>, u32) {
        let counted = (0_u32..).zip(self.bins.iter().copied()).filter(|(_, count)| *count > 0);
        (counted.collect(), self.out_of_bounds)
    }

    /// The histogram of such parts. Bins that `settings` do not have are left out.
    pub fn from_parts(settings: &HistogramSettings, bins: &[(u32, u32)], out_of_bounds: u32) -> Self {
        let mut histogram = Self { bins: vec![0; settings.bins], out_of_bounds };
        for (bin, count) in bins {
            let place = usize::try_from(*bin).ok().and_then(|bin| histogram.bins.get_mut(bin));
            if let Some(place) = place {
                *place = *count;
            }
        }
        histogram
    }

    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.out_of_bounds == 0 && self.bins.iter().all(|count| *count == 0)
    }

    /// What these idle times advise.
    pub fn windows(&self, settings: &HistogramSettings) -> Windows {
        if !self.is_telling(settings) {
            return Windows { pre_warm: Duration::ZERO, keep_alive: settings.fallback };
        }
        // The head is rounded down to its bin's begin, the tail up to its bin's end.
        let head = settings.bin.saturating_mul(self.percentile(settings.head));
        let tail = settings.bin.saturating_mul(self.percentile(settings.tail).saturating_add(1));
        let pre_warm = head.mul_f64((1.0 - settings.margin).clamp(0.0, 1.0));
        let until = tail.mul_f64((1.0 + settings.margin).clamp(1.0, 2.0));
        Windows { pre_warm, keep_alive: until.saturating_sub(pre_warm) }
    }

    fn within(&self) -> u64 {
        self.bins.iter().map(|count| u64::from(*count)).sum()
    }

    /// Whether there is enough, in bounds, and not spread evenly.
    fn is_telling(&self, settings: &HistogramSettings) -> bool {
        let within = self.within();
        let all = within + u64::from(self.out_of_bounds);
        if within == 0 || all < u64::from(settings.least) {
            return false;
        }
        if f64::from(self.out_of_bounds) > settings.out_of_bounds * all as f64 {
            return false;
        }
        let bins = self.bins.len() as f64;
        let mean = within as f64 / bins;
        let squares: f64 = self.bins.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum();
        (squares / bins).sqrt() / mean >= settings.variation
    }

    /// The bin of the idle time that `share` of those in bounds do not exceed.
    fn percentile(&self, share: f64) -> u32 {
        let wanted = (self.within() as f64 * share).ceil().max(1.0);
        let mut seen = 0.0;
        for (bin, count) in (0_u32..).zip(&self.bins) {
            seen += f64::from(*count);
            if seen >= wanted {
                return bin;
            }
        }
        u32::try_from(self.bins.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn of(minutes: &[f64]) -> Windows {
        let settings = HistogramSettings::default();
        let mut histogram = IdleHistogram::default();
        for idle in minutes {
            histogram.observe(&settings, MINUTE.mul_f64(*idle));
        }
        histogram.windows(&settings)
    }

    #[test]
    fn a_regular_function_is_ended_and_made_ready_shortly_before_its_call() {
        // Idle for 30.5 minutes each time: bin 30. Ready after 27 minutes, kept until minute 31 and a tenth more.
        let windows = of(&[30.5; 20]);
        assert_eq!(windows.pre_warm, 27 * MINUTE);
        assert_eq!(windows.pre_warm + windows.keep_alive, MINUTE.mul_f64(34.1));
    }

    #[test]
    fn a_busy_function_is_simply_kept() {
        let windows = of(&[0.2; 20]);
        assert_eq!(windows, Windows { pre_warm: Duration::ZERO, keep_alive: MINUTE.mul_f64(1.1) });
    }

    #[test]
    fn what_tells_nothing_falls_back() {
        let fallback = Windows { pre_warm: Duration::ZERO, keep_alive: Duration::from_secs(600) };
        assert_eq!(of(&[]), fallback);
        assert_eq!(of(&[30.0; 4]), fallback, "too few");
        assert_eq!(of(&[300.0; 20]), fallback, "out of bounds");
        let flat: Vec<f64> = (0..240).map(f64::from).collect();
        assert_eq!(of(&flat), fallback, "spread evenly");
    }

    proptest! {
        #[test]
        fn nineteen_of_twenty_seen_idle_times_fall_into_the_windows(
            minutes in prop::collection::vec(0.0_f64..60.0, 20..200),
        ) {
            let windows = of(&minutes);
            // Also when the histogram is flat: then the fallback holds and says nothing.
            if windows.keep_alive != HistogramSettings::default().fallback || !windows.pre_warm.is_zero() {
                let within = |idle: &&f64| {
                    let idle = MINUTE.mul_f64(**idle);
                    idle >= windows.pre_warm && idle <= windows.pre_warm + windows.keep_alive
                };
                let share = minutes.iter().filter(within).count() as f64 / minutes.len() as f64;
                prop_assert!(share >= 0.94, "{share} of {minutes:?} in {windows:?}");
            }
        }
    }

    #[test]
    fn a_histogram_comes_back_from_its_parts() {
        let settings = HistogramSettings::default();
        let mut histogram = IdleHistogram::default();
        assert!(histogram.is_empty());
        for minutes in [1, 1, 30, 1000] {
            histogram.observe(&settings, minutes * MINUTE);
        }
        let (bins, out_of_bounds) = histogram.parts();
        assert_eq!((bins.as_slice(), out_of_bounds), ([(1, 2), (30, 1)].as_slice(), 1));
        assert_eq!(IdleHistogram::from_parts(&settings, &bins, out_of_bounds), histogram);
        assert!(IdleHistogram::from_parts(&settings, &[(u32::MAX, 1)], 0).is_empty());
    }
}
