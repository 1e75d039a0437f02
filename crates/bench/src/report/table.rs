//! Columns as wide as their widest cell.

/// A table of text; the first column to the left, the others to the right.
#[derive(Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new<S: ToString>(headings: impl IntoIterator<Item = S>) -> Self {
        Self(vec![headings.into_iter().map(|heading| heading.to_string()).collect()])
    }

    pub fn row<S: ToString>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.0.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }

    /// All columns to the left, for words.
    pub fn words(&self) -> String {
        self.text(|_| true)
    }

    /// The first column to the left.
    pub fn figures(&self) -> String {
        self.text(|column| column == 0)
    }

    fn text(&self, left: impl Fn(usize) -> bool) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.0.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let padded = if left(column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                line.push_str(&padded);
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["", "ms"]);
        table.row(["json", "7"]);
        table.row(["hello-world", "123"]);
        assert_eq!(table.figures(), "              ms\njson           7\nhello-world  123\n");
        assert_eq!(table.words(), "             ms\njson         7\nhello-world  123\n");
    }
}
