//! A picture of guest memory by page class and loading order, as text and as SVG.

use std::fmt::{self, Write};

use pages::{PageCount, PageIndex, PageRange, PageSet};

use crate::loading_set::LoadingSet;
use crate::recording::PageClasses;

/// Cells in a row.
const COLUMNS: u64 = 64;
/// Rows at most; a cell stands for as many pages as that takes.
const MAX_ROWS: u64 = 32;
/// Side of a cell in the SVG.
const CELL: u64 = 12;

/// Guest-physical memory drawn as a grid of cells in address order; each shows the most telling class among its pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPicture {
    pages_per_cell: PageCount,
    cells: Vec<Cell>,
    sizes: [PageCount; 4],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    /// Pages of the loading set, the earliest at this place in the order of loading, in hundredths.
    Loading(u64),
    Cold,
    Released,
    Unused,
    Absent,
}

impl MemoryPicture {
    /// The picture of a guest with `page_count` pages in `classes`; the order of loading is that of `set`.
    pub fn new(page_count: PageCount, classes: &PageClasses, set: Option<&LoadingSet>) -> Self {
        let pages_per_cell = PageCount(page_count.0.div_ceil(COLUMNS * MAX_ROWS).max(1));
        let total = set.map_or(0, |set| set.page_count().0).max(1);
        let mut order: Vec<(PageRange, u64)> = Vec::new();
        let mut before = 0;
        for region in set.map(LoadingSet::regions).unwrap_or_default() {
            order.push((region.range, before * 100 / total));
            before += region.range.count.0;
        }
        order.sort_by_key(|(range, _)| range.start);
        let cell = |number: u64| {
            let window = PageRange::new(PageIndex(number * pages_per_cell.0), pages_per_cell);
            let has = |pages: &PageSet| pages.within(window).next().is_some();
            if has(&classes.loading) {
                let first = order.partition_point(|(range, _)| range.end() <= window.start);
                let inside = order.iter().skip(first).take_while(|(range, _)| range.start < window.end());
                Cell::Loading(inside.map(|(_, place)| *place).min().unwrap_or(0))
            } else if has(&classes.cold) {
                Cell::Cold
            } else if has(&classes.released) {
                Cell::Released
            } else if has(&classes.unused) {
                Cell::Unused
            } else {
                Cell::Absent
            }
        };
        Self {
            pages_per_cell,
            cells: (0..page_count.0.div_ceil(pages_per_cell.0)).map(cell).collect(),
            sizes: [&classes.loading, &classes.cold, &classes.released, &classes.unused].map(PageSet::count),
        }
    }

    /// The picture as an SVG document: the loading set from dark (first) to light (last).
    pub fn svg(&self) -> String {
        let rows = (self.cells.len() as u64).div_ceil(COLUMNS);
        let (width, height) = (COLUMNS * CELL, rows * CELL + 2 * CELL);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             font-size=\"10\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
        );
        for (number, cell) in (0u64..).zip(&self.cells) {
            let (x, y) = (number % COLUMNS * CELL, number / COLUMNS * CELL);
            let fill = match cell {
                Cell::Loading(place) => format!("hsl(215,80%,{}%)", 25 + place * 45 / 100),
                Cell::Cold => "#d9a441".to_owned(),
                Cell::Released => "#9bc48f".to_owned(),
                Cell::Unused => "#eeeeee".to_owned(),
                Cell::Absent => continue,
            };
            // Writing to a String can't fail.
            let _ = writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"11\" height=\"11\" fill=\"{fill}\"/>");
        }
        let _ = writeln!(svg, "<text x=\"0\" y=\"{}\">{}</text>\n</svg>", height - CELL / 2, self.legend());
        svg
    }

    fn legend(&self) -> String {
        let names = ["loading set", "cold", "released", "unused"];
        let sizes =
            names.iter().zip(&self.sizes).map(|(name, count)| format!("{name} {} KiB", count.bytes() >> 10));
        format!(
            "{}; a cell is {} KiB",
            sizes.collect::<Vec<_>>().join(", "),
            self.pages_per_cell.bytes() >> 10
        )
    }
}

impl fmt::Display for MemoryPicture {
    /// Digits for the loading set (0 is loaded first, 9 last), `o` cold, `+` released, `.` unused, blank for no memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.cells.chunks(COLUMNS as usize) {
            for cell in row {
                match cell {
                    Cell::Loading(place) => write!(f, "{}", place / 10)?,
                    Cell::Cold => f.write_char('o')?,
                    Cell::Released => f.write_char('+')?,
                    Cell::Unused => f.write_char('.')?,
                    Cell::Absent => f.write_char(' ')?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f, "0-9 loading set in its order, o cold, + released, . unused")?;
        write!(f, "{}", self.legend())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(start: u64, end: u64) -> PageSet {
        [PageRange::between(PageIndex(start), PageIndex(end))].into_iter().collect()
    }

    #[test]
    fn cells_show_the_most_telling_class() {
        let classes = PageClasses {
            loading: set(3, 5),
            cold: set(0, 3).union(&set(5, 64)),
            released: set(64, 66),
            unused: set(66, 70),
        };
        let picture = MemoryPicture::new(PageCount(80), &classes, None);
        let text = picture.to_string();
        let mut lines = text.lines();
        assert_eq!(lines.next().unwrap(), format!("ooo00{}", "o".repeat(59)));
        assert_eq!(lines.next().unwrap(), format!("++....{}", " ".repeat(10)));
        assert!(
            text.ends_with("loading set 8 KiB, cold 248 KiB, released 8 KiB, unused 16 KiB; a cell is 4 KiB"),
            "{text}"
        );
        let svg = picture.svg();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<rect x=").count(), 70);
    }

    #[test]
    fn a_large_guest_still_fits_a_terminal() {
        let classes = PageClasses { unused: set(0, 1 << 22), ..PageClasses::default() };
        let picture = MemoryPicture::new(PageCount(1 << 22), &classes, None);
        assert_eq!(picture.cells.len() as u64, COLUMNS * MAX_ROWS);
    }
}
