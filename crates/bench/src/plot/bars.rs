//! Bars in panels, one panel for each function with a scale of its own.

use super::panels::Grid;
use super::svg::{Anchor, FAINT, INK, Svg, short, ticks};

const PANEL_WIDTH: f64 = 205.0;
const PANEL_HEIGHT: f64 = 128.0;

/// Part of a bar.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Segment {
    pub value: f64,
    pub colour: String,
}

/// A bar of one or several parts.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bar {
    /// Written below the bar; empty when the colour says it.
    pub label: String,
    pub segments: Vec<Segment>,
    /// The interval of the whole bar.
    pub interval: Option<(f64, f64)>,
}

impl Bar {
    fn height(&self) -> f64 {
        self.segments.iter().map(|segment| segment.value).sum()
    }

    fn top(&self) -> f64 {
        self.interval.map_or(0.0, |(_, high)| high).max(self.height())
    }
}

/// One function.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct BarPanel {
    pub title: String,
    pub bars: Vec<Bar>,
    /// A line across, such as the warm time.
    pub line: Option<f64>,
}

/// A figure of panels.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct BarFigure {
    pub title: String,
    /// What the height of a bar is.
    pub unit: String,
    pub panels: Vec<BarPanel>,
    /// Names and their colours.
    pub legend: Vec<(String, String)>,
    /// Panels in a row.
    pub columns: usize,
    /// Room below the bars for their labels.
    pub label_room: f64,
}

impl BarFigure {
    pub fn svg(&self) -> String {
        let grid = Grid {
            title: &self.title,
            unit: &self.unit,
            legend: &self.legend,
            columns: self.columns,
            panel: (PANEL_WIDTH, PANEL_HEIGHT),
            left: 40.0,
            gap: 18.0,
            below: self.label_room + 34.0,
        };
        grid.svg(&self.panels, BarPanel::draw)
    }
}

impl BarPanel {
    fn draw(svg: &mut Svg, panel: &Self, (x, y): (f64, f64)) {
        let most = panel.bars.iter().map(Bar::top).fold(panel.line.unwrap_or(0.0), f64::max).max(1e-9) * 1.06;
        let bottom = y + PANEL_HEIGHT;
        let at = |value: f64| bottom - value / most * PANEL_HEIGHT;
        svg.bold((x + PANEL_WIDTH / 2.0, y - 6.0), 11.0, Anchor::Middle, &panel.title);
        for tick in ticks(most) {
            svg.line((x, at(tick)), (x + PANEL_WIDTH, at(tick)), FAINT, 0.7, "");
            svg.text((x - 4.0, at(tick) + 3.0), 9.0, Anchor::End, &short(tick));
        }
        let slot = PANEL_WIDTH / panel.bars.len().max(1) as f64;
        let thick = (slot * 0.78).min(34.0);
        for (index, bar) in panel.bars.iter().enumerate() {
            let left = x + slot * index as f64 + (slot - thick) / 2.0;
            let mut height = 0.0;
            for segment in &bar.segments {
                let (from, to) = (at(height), at(height + segment.value));
                svg.rectangle(left, to, thick, (from - to).max(0.0), &segment.colour);
                height += segment.value;
            }
            let middle = left + thick / 2.0;
            if let Some((low, high)) = bar.interval {
                svg.line((middle, at(low)), (middle, at(high)), INK, 1.0, "");
                for end in [low, high] {
                    svg.line((middle - 3.0, at(end)), (middle + 3.0, at(end)), INK, 1.0, "");
                }
            }
            if !bar.label.is_empty() {
                svg.upright((middle + 3.0, bottom + 5.0), 8.5, Anchor::End, &bar.label);
            }
        }
        if let Some(line) = panel.line {
            svg.line((x, at(line)), (x + PANEL_WIDTH, at(line)), INK, 1.0, "4 3");
        }
        svg.line((x, bottom), (x + PANEL_WIDTH, bottom), INK, 1.0, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_in_proportion() {
        let bar = |value| Bar {
            label: String::new(),
            segments: vec![Segment { value, colour: "#123456".to_owned() }],
            interval: None,
        };
        let panel = BarPanel { title: "json & more".to_owned(), bars: vec![bar(10.0), bar(5.0)], line: None };
        let figure = BarFigure {
            title: "t".to_owned(),
            unit: "ms".to_owned(),
            panels: vec![panel],
            legend: vec![],
            columns: 4,
            label_room: 0.0,
        };
        let svg = figure.svg();
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("#123456"))
            .filter_map(|line| line.split("height=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(heights.len(), 2);
        assert!((heights[0] / heights[1] - 2.0).abs() < 0.01, "{heights:?}");
        assert!(svg.contains("json &amp; more"));
    }
}
