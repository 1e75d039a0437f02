//! The few shapes that figures are made of.

use std::fmt::Write;

pub(super) const INK: &str = "#222222";
pub(super) const FAINT: &str = "#dddddd";

/// Where a text's position is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG document in the making. Units are pixels at 96 dots an inch.
pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Self {
        Self { body: String::new(), width, height }
    }

    pub fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        // Writing to a String can't fail, here and below.
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        );
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64, dashes: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{stroke}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"{}\"/>",
            from.0,
            from.1,
            to.0,
            to.1,
            if dashes.is_empty() { "none" } else { dashes }
        );
    }

    pub fn path(&mut self, points: &[(f64, f64)], stroke: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"1.6\"/>",
            points.join(" ")
        );
    }

    pub fn dot(&mut self, at: (f64, f64), fill: &str) {
        let _ =
            writeln!(self.body, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.4\" fill=\"{fill}\"/>", at.0, at.1);
    }

    pub fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, text: &str) {
        self.styled(at, size, anchor, text, "");
    }

    pub fn bold(&mut self, at: (f64, f64), size: f64, anchor: Anchor, text: &str) {
        self.styled(at, size, anchor, text, " font-weight=\"bold\"");
    }

    /// Text that reads upwards.
    pub fn upright(&mut self, at: (f64, f64), size: f64, anchor: Anchor, text: &str) {
        let turn = format!(" transform=\"rotate(-90 {:.1} {:.1})\"", at.0, at.1);
        self.styled(at, size, anchor, text, &turn);
    }

    fn styled(&mut self, at: (f64, f64), size: f64, anchor: Anchor, text: &str, style: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            self.body,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{INK}\"{style}>{text}</text>",
            at.0, at.1
        );
    }

    /// A row of colours with their meaning, from `x` on; breaks lines. Gives the height that it took.
    pub fn legend(&mut self, x: f64, y: f64, right: f64, items: &[(String, String)]) -> f64 {
        const LINE: f64 = 15.0;
        let (mut across, mut down) = (x, y);
        for (name, colour) in items {
            let width = 24.0 + 6.5 * name.chars().count() as f64;
            if across + width > right && across > x {
                across = x;
                down += LINE;
            }
            self.rectangle(across, down - 8.0, 9.0, 9.0, colour);
            self.text((across + 13.0, down), 10.0, Anchor::Start, name);
            across += width;
        }
        down - y + LINE
    }

    pub fn finish(self) -> String {
        let Self { body, width, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"DejaVu Sans, sans-serif\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

/// Round steps from 0 to `most`: at most five.
pub(super) fn ticks(most: f64) -> Vec<f64> {
    if most <= 0.0 || !most.is_finite() {
        return vec![0.0];
    }
    let rough = most / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let mut ticks = Vec::new();
    let mut at = 0.0;
    while at <= most * 1.0001 {
        ticks.push(at);
        at += step;
    }
    ticks
}

/// A number as short as an axis wants it.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.2}") };
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(ticks(9.0), [0.0, 2.5, 5.0, 7.5]);
        assert_eq!(ticks(130.0), [0.0, 50.0, 100.0]);
        assert_eq!(ticks(0.0), [0.0]);
        assert_eq!(
            ["0", "2.5", "20k", "1.5M"],
            [0.0, 2.5, 20_000.0, 1_500_000.0].map(short).each_ref().map(|text| text.as_str())
        );
    }
}
