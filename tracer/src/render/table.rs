//! Tables in text: columns as wide as what is in them, within bounds, and a last one that has the rest of the line. Pure.

use crate::util::human;

/// A column that is not the last.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    heading: &'static str,
    least: usize,
    most: usize,
    is_number: bool,
}

impl Column {
    /// Of text, flush left: what is longer is cut.
    pub const fn text(heading: &'static str, least: usize, most: usize) -> Self {
        Self { heading, least, most: if most > least { most } else { least }, is_number: false }
    }

    /// Of numbers, flush right. They are never cut: what is left of one would be another.
    pub const fn number(heading: &'static str, least: usize, most: usize) -> Self {
        Self { is_number: true, ..Self::text(heading, least, most) }
    }
}

/// A table's columns with the widths that they have.
pub struct Table {
    columns: Vec<(Column, usize)>,
    gap: &'static str,
    last: &'static str,
}

impl Table {
    /// With widths for these rows, of a cell for each column.
    pub fn new(
        columns: impl IntoIterator<Item = Column>,
        last: &'static str,
        gap: &'static str,
        rows: &[Vec<String>],
    ) -> Self {
        let width = |(at, column): (usize, Column)| {
            let widest = rows.iter().filter_map(|row| row.get(at)).map(|cell| human::columns(cell)).max();
            (column, widest.unwrap_or(0).clamp(column.least, column.most))
        };
        Self { columns: columns.into_iter().enumerate().map(width).collect(), gap, last }
    }

    /// What all columns but the last take of a line.
    pub fn before_last(&self) -> usize {
        self.columns.iter().map(|(_, width)| width + human::columns(self.gap)).sum()
    }

    /// The names of the columns.
    pub fn heading(&self) -> String {
        self.line(self.columns.iter().map(|(column, _)| column.heading), self.last)
    }

    /// A row.
    pub fn row(&self, cells: &[String], last: &str) -> String {
        self.line(cells.iter().map(String::as_str), last)
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>, last: &str) -> String {
        let mut line = String::new();
        for ((column, width), cell) in self.columns.iter().zip(cells) {
            if column.is_number {
                line += &" ".repeat(width.saturating_sub(human::columns(cell)));
                line += cell;
            } else {
                line += &human::pad(&human::fit(cell, *width), *width);
            }
            line += self.gap;
        }
        line += last;
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_within_bounds() {
        let columns = [Column::number("AGE", 4, 6), Column::text("NAME", 4, 6), Column::text("X", 1, 9)];
        let rows = [
            ["12s", "a", ""].map(String::from).to_vec(),
            ["123456789", "日本語日本", "x"].map(String::from).to_vec(),
        ];
        let table = Table::new(columns, "LAST", "  ", &rows);
        assert_eq!(table.heading(), "   AGE  NAME    X  LAST");
        assert_eq!(table.row(&rows[0], "rest"), "   12s  a          rest");
        assert_eq!(table.row(&rows[1], "rest"), "123456789  日本…   x  rest");
        assert_eq!(table.before_last(), 6 + 2 + 6 + 2 + 1 + 2);
        let empty = Table::new(columns, "LAST", " ", &[]);
        assert_eq!(empty.heading(), " AGE NAME X LAST");
    }
}
