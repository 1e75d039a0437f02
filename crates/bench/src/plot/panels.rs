//! Panels in a grid, under a title, a unit and a legend.

use super::svg::{Anchor, Svg};

const MARGIN: f64 = 14.0;

/// What surrounds the panels of a figure; lengths in units of the SVG.
pub(crate) struct Grid<'a> {
    pub title: &'a str,
    /// What is measured upwards.
    pub unit: &'a str,
    /// Names and their colours.
    pub legend: &'a [(String, String)],
    /// Panels in a row.
    pub columns: usize,
    /// A panel's own width and height.
    pub panel: (f64, f64),
    /// Room left of each panel for the numbers at its axis.
    pub left: f64,
    /// Room between panels.
    pub gap: f64,
    /// Room below each panel for what is written there and the next one's title.
    pub below: f64,
}

impl Grid<'_> {
    /// The figure: `draw` is given each panel and the place of its upper left corner.
    pub fn svg<P>(&self, panels: &[P], draw: impl Fn(&mut Svg, &P, (f64, f64))) -> String {
        let columns = self.columns.min(panels.len()).max(1);
        let rows = panels.len().div_ceil(columns);
        let step = (self.left + self.panel.0 + self.gap, self.panel.1 + self.below);
        let width = 2.0 * MARGIN + step.0 * columns as f64 - self.gap;
        // How many lines the legend needs is known once it is drawn.
        let top = 40.0 + Svg::new(width, 0.0).legend(MARGIN, 0.0, width - MARGIN, self.legend);
        let mut svg = Svg::new(width, top + step.1 * rows as f64 + 4.0);
        svg.bold((MARGIN, 20.0), 13.0, Anchor::Start, self.title);
        svg.text((width - MARGIN, 20.0), 10.0, Anchor::End, self.unit);
        svg.legend(MARGIN, 40.0, width - MARGIN, self.legend);
        for (index, panel) in panels.iter().enumerate() {
            let x = MARGIN + self.left + step.0 * (index % columns) as f64;
            let y = top + 18.0 + step.1 * (index / columns) as f64;
            draw(&mut svg, panel, (x, y));
        }
        svg.finish()
    }
}
