//! Lines over a number that doubles, in panels.

use super::panels::Grid;
use super::svg::{Anchor, FAINT, INK, Svg, short, ticks};

const PANEL_WIDTH: f64 = 230.0;
const PANEL_HEIGHT: f64 = 150.0;

/// A line.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Series {
    pub colour: String,
    /// Across and up.
    pub points: Vec<(f64, f64)>,
}

/// One function.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LinePanel {
    pub title: String,
    pub series: Vec<Series>,
}

/// A figure of panels.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LineFigure {
    pub title: String,
    pub across: String,
    pub up: String,
    pub panels: Vec<LinePanel>,
    pub legend: Vec<(String, String)>,
    pub columns: usize,
    /// Whether equal distances are equal factors, across and upwards.
    pub logarithmic: (bool, bool),
}

/// From values to a place between 0 and 1.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>, logarithmic: bool) -> Self {
        let (low, high) = values
            .filter(|value| !logarithmic || *value > 0.0)
            .fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| (low.min(value), high.max(value)));
        match (low.is_finite(), logarithmic) {
            (false, _) => Self { low: 1.0, high: 10.0, logarithmic },
            (true, true) => Self { low: low * 0.9, high: high * 1.1, logarithmic },
            (true, false) => Self { low: 0.0, high: high.max(1e-9) * 1.06, logarithmic },
        }
    }

    fn place(&self, value: f64) -> f64 {
        if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return ticks(self.high);
        }
        let first = self.low.log10().floor() as i32;
        let last = self.high.log10().ceil() as i32;
        let factors: &[f64] = if last - first > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all =
            (first..=last).flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
        all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

impl LineFigure {
    pub fn svg(&self) -> String {
        let grid = Grid {
            title: &self.title,
            unit: &self.up,
            legend: &self.legend,
            columns: self.columns,
            panel: (PANEL_WIDTH, PANEL_HEIGHT),
            left: 44.0,
            gap: 22.0,
            below: 62.0,
        };
        grid.svg(&self.panels, |svg, panel, corner| self.panel(svg, panel, corner))
    }

    fn panel(&self, svg: &mut Svg, panel: &LinePanel, (x, y): (f64, f64)) {
        let points = || panel.series.iter().flat_map(|series| series.points.iter().copied());
        let across = Scale::of(points().map(|point| point.0), self.logarithmic.0);
        let up = Scale::of(points().map(|point| point.1), self.logarithmic.1);
        let bottom = y + PANEL_HEIGHT;
        let place = |(right, value): (f64, f64)| {
            (x + across.place(right) * PANEL_WIDTH, bottom - up.place(value) * PANEL_HEIGHT)
        };
        svg.bold((x + PANEL_WIDTH / 2.0, y - 6.0), 11.0, Anchor::Middle, &panel.title);
        for tick in up.ticks() {
            let (_, at) = place((across.low, tick));
            svg.line((x, at), (x + PANEL_WIDTH, at), FAINT, 0.7, "");
            svg.text((x - 4.0, at + 3.0), 9.0, Anchor::End, &short(tick));
        }
        // On a logarithmic axis the measured numbers themselves are named: they are few and double.
        let mut named: Vec<f64> =
            if across.logarithmic { points().map(|point| point.0).collect() } else { across.ticks() };
        named.sort_by(f64::total_cmp);
        named.dedup();
        for tick in named {
            let (at, _) = place((tick, up.high));
            svg.line((at, bottom), (at, bottom + 3.0), INK, 0.8, "");
            svg.text((at, bottom + 13.0), 9.0, Anchor::Middle, &short(tick));
        }
        svg.text((x + PANEL_WIDTH / 2.0, bottom + 27.0), 9.5, Anchor::Middle, &self.across);
        for series in &panel.series {
            let placed: Vec<(f64, f64)> = series.points.iter().map(|point| place(*point)).collect();
            svg.path(&placed, &series.colour);
            placed.iter().for_each(|point| svg.dot(*point, &series.colour));
        }
        svg.line((x, bottom), (x + PANEL_WIDTH, bottom), INK, 1.0, "");
        svg.line((x, y), (x, bottom), INK, 1.0, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_factors_are_equal_distances() {
        let scale = Scale { low: 1.0, high: 100.0, logarithmic: true };
        assert!((scale.place(10.0) - 0.5).abs() < 1e-12);
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        let scale = Scale::of([2.0, 10.0].into_iter(), false);
        assert_eq!(scale.low, 0.0);
        assert!(scale.place(10.0) < 1.0);
    }
}
