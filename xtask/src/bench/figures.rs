//! Figures of the two sides, their medians and ratios.

use anyhow::{Context, Result};

/// What was measured, in the order in which a program prints it.
#[derive(Debug, Default)]
pub(super) struct Samples {
    measures: Vec<Measure>,
}

#[derive(Debug)]
struct Measure {
    name: String,
    /// Nanoseconds, one for each turn.
    native: Vec<f64>,
    guest: Vec<f64>,
}

impl Samples {
    /// Adds a native turn's output.
    pub(super) fn add_native(&mut self, output: &str) -> Result<()> {
        self.add(output, |measure| &mut measure.native)
    }

    /// Adds a guest turn's output.
    pub(super) fn add_guest(&mut self, output: &str) -> Result<()> {
        self.add(output, |measure| &mut measure.guest)
    }

    fn add(&mut self, output: &str, side: impl Fn(&mut Measure) -> &mut Vec<f64>) -> Result<()> {
        for line in output.lines() {
            let (name, figure) = line.split_once(' ').with_context(|| format!("no figure in {line:?}"))?;
            let figure = figure.parse().with_context(|| format!("no figure in {line:?}"))?;
            let at = match self.measures.iter().position(|measure| measure.name == name) {
                Some(at) => at,
                None => {
                    let name = name.to_owned();
                    self.measures.push(Measure { name, native: Vec::new(), guest: Vec::new() });
                    self.measures.len() - 1
                }
            };
            if let Some(measure) = self.measures.get_mut(at) {
                side(measure).push(figure);
            }
        }
        Ok(())
    }

    /// A Markdown table, with the geometric mean of the ratios below.
    pub(super) fn table(&self) -> String {
        let mut text = "| | native | guest | ratio |\n|---|---:|---:|---:|\n".to_owned();
        let mut logarithms = Vec::new();
        for measure in &self.measures {
            let (Some(native), Some(guest)) = (median(&measure.native), median(&measure.guest)) else {
                continue;
            };
            let ratio = guest / native;
            logarithms.push(ratio.ln());
            text.push_str(&format!(
                "| {} | {} | {} | {ratio:.2} |\n",
                measure.name,
                time(native),
                time(guest)
            ));
        }
        if !logarithms.is_empty() {
            let mean = (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp();
            text.push_str(&format!("| geometric mean | | | {mean:.3} |\n"));
        }
        text
    }
}

/// The middle of the sorted figures, or the mean of the two in the middle.
fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        small if small < 1e3 => format!("{small:.0} ns"),
        middle if middle < 1e6 => format!("{:.1} us", middle / 1e3),
        large => format!("{:.1} ms", large / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_shown() {
        let mut samples = Samples::default();
        for (native, guest) in [("100", "400"), ("300", "600"), ("200", "200")] {
            samples.add_native(&format!("call {native}\nwork 2000000.0\n")).unwrap();
            samples.add_guest(&format!("call {guest}\nwork 4000000\n")).unwrap();
        }
        let table = samples.table();
        assert!(table.contains("| call | 200 ns | 400 ns | 2.00 |"), "{table}");
        assert!(table.contains("| work | 2.0 ms | 4.0 ms | 2.00 |"), "{table}");
        assert!(table.contains("| geometric mean | | | 2.000 |"), "{table}");
    }

    #[test]
    fn what_is_no_figure_is_refused() {
        assert!(Samples::default().add_native("Traceback (most recent call last):").is_err());
        assert_eq!((median(&[]), median(&[1.0, 4.0])), (None, Some(2.5)));
    }
}
