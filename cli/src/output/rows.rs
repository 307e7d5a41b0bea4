//! Tables of many rows: a hundred thousand of them take little more memory than their text.

use crate::stdout;
use engine::shown;
use unicode_width::UnicodeWidthStr as _;

/// Bytes of a table that are written together.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// A table without borders, as [`super::table`] makes it: each cell between two spaces, and each column as wide as its widest
/// cell.
pub(crate) struct Rows {
    /// All rows, the headings first.
    text: String,
    /// Where each row ends.
    ends: Vec<usize>,
    widths: Vec<usize>,
}

impl Rows {
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut rows = Self { text: String::new(), ends: vec![], widths: vec![0; headings.len()] };
        rows.push(&row(headings));
        rows
    }

    /// Adds what [`row`] made.
    pub(crate) fn push(&mut self, row: &str) {
        for (cell, width) in row.split('\t').zip(&mut self.widths) {
            *width = cell.split('\n').map(|line| line.width()).max().unwrap_or_default().max(*width);
        }
        self.text += row;
        self.ends.push(self.text.len());
    }

    /// Writes the table to standard output.
    pub(crate) fn print(&self) {
        self.write(&mut |text| stdout::write(shown::text(text).as_bytes()));
    }

    fn write(&self, write: &mut dyn FnMut(&str)) {
        let (mut out, mut start) = (String::new(), 0);
        for end in &self.ends {
            self.lay_out(self.text.get(start..*end).unwrap_or_default(), &mut out);
            start = *end;
            if out.len() >= WRITTEN_AT_ONCE {
                write(&out);
                out.clear();
            }
        }
        write(&out);
    }

    /// Adds the lines of a row: as many as its highest cell has.
    fn lay_out(&self, row: &str, out: &mut String) {
        let mut cells: Vec<_> = row.split('\t').map(|cell| cell.split('\n').peekable()).collect();
        while cells.iter_mut().any(|lines| lines.peek().is_some()) {
            let start = out.len();
            for (lines, width) in cells.iter_mut().zip(&self.widths) {
                let line = lines.next().unwrap_or_default();
                out.push(' ');
                out.push_str(line);
                out.extend(std::iter::repeat_n(' ', 1 + width.saturating_sub(line.width())));
            }
            let len = out.get(start..).unwrap_or_default().trim_end().len();
            out.truncate(start + len);
            out.push('\n');
        }
    }
}

/// A row of these cells, which may have several lines. A tab ends a cell: none has one, since [`shown`] escapes tabs.
pub(crate) fn row<T: AsRef<str>>(cells: &[T]) -> String {
    let mut text = String::new();
    for (number, cell) in cells.iter().enumerate() {
        if number > 0 {
            text.push('\t');
        }
        debug_assert!(!cell.as_ref().contains('\t'), "a tab within a cell");
        text += cell.as_ref();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever stands in cells: wide characters, lines, spaces at ends, nothing.
        #[test]
        fn it_is_the_table_that_small_tables_are(
            cells in proptest::collection::vec(proptest::collection::vec("[ a-c\u{e9}\u{65e5}\u{301}\n]{0,6}", 3), 0..5),
        ) {
            let mut expected = super::super::table(&["ID", "Host", "Paths"]);
            let mut rows = Rows::new(&["ID", "Host", "Paths"]);
            for cells in cells {
                rows.push(&row(&cells));
                expected.add_row(cells);
            }
            let mut text = String::new();
            rows.write(&mut |piece| text += piece);
            prop_assert_eq!(text, expected.trim_fmt() + "\n");
        }
    }

    #[test]
    fn a_long_table_is_written_in_pieces() {
        let mut rows = Rows::new(&["ID"]);
        (0..20_000).for_each(|number| rows.push(&row(&[number.to_string()])));
        let (mut lines, mut largest) = (0, 0);
        rows.write(&mut |piece| (lines, largest) = (lines + piece.lines().count(), piece.len().max(largest)));
        assert_eq!(lines, 20_001);
        assert!(largest < WRITTEN_AT_ONCE + 100, "{largest}");
    }
}
