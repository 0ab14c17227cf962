//! Tables. Their width follows the terminal. Elsewhere a row is one line without borders or colours.

use std::io::{self, IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle,
    TableStyle,
};

use crate::error::Error;
use crate::states::{self, State};
use crate::ui::wants_colors;
use agentkey::KeyId;

/// A line under the header, and no other.
const RULED: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table that is being filled.
pub(crate) struct Table {
    table: comfy_table::Table,
    is_terminal: bool,
    is_colored: bool,
}

impl Table {
    /// Returns an empty table with this header.
    pub(crate) fn new(header: &[&str]) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_colored = is_terminal && wants_colors();
        let mut table = comfy_table::Table::new();
        if is_terminal {
            table.load_style(RULED);
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.load_style(NOTHING);
            table.set_content_arrangement(ContentArrangement::Disabled);
            table.force_no_tty();
        }
        let mut table = Self { table, is_terminal, is_colored };
        let header: Vec<_> = header.iter().map(|name| table.heading(name)).collect();
        if !header.is_empty() {
            table.table.set_header(header);
        }
        table
    }

    /// Returns whether a person looks at it.
    pub(crate) const fn is_on_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Aligns a column to the right, as numbers are.
    pub(crate) fn right(mut self, column: usize) -> Self {
        self.table.discover_columns();
        if let Some(column) = self.table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self
    }

    /// Leaves a column out, which has nothing to show.
    pub(crate) fn hide(&mut self, column: usize) {
        if let Some(column) = self.table.column_mut(column) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }

    /// Adds a row.
    pub(crate) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells = cells.into_iter().map(|text| Cell::new(printable(text.as_ref())));
        self.table.add_row(cells.collect::<Vec<_>>());
    }

    /// Adds a row of a key, whose last cell is its state.
    pub(crate) fn key_row<T: AsRef<str>>(
        &mut self,
        cells: impl IntoIterator<Item = T>,
        state: (State, Option<KeyId>),
    ) {
        let color = match state.0 {
            State::Active => Color::Green,
            State::Disabled => Color::Yellow,
            State::Expired | State::Revoked => Color::Red,
        };
        self.row_with_last(cells, &states::shown(state), color);
    }

    /// Adds a row whose last cell has a colour.
    pub(crate) fn row_with_last<T: AsRef<str>>(
        &mut self,
        cells: impl IntoIterator<Item = T>,
        last: &str,
        color: Color,
    ) {
        let mut cells: Vec<_> =
            cells.into_iter().map(|text| Cell::new(printable(text.as_ref()))).collect();
        let last = Cell::new(printable(last));
        cells.push(if self.is_colored { last.fg(color) } else { last });
        self.table.add_row(cells);
    }

    /// Prints it.
    pub(crate) fn print(&self) -> Result<(), Error> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for line in self.table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(out.flush()?)
    }

    fn heading(&self, name: &str) -> Cell {
        let cell = Cell::new(name);
        if self.is_colored { cell.add_attribute(Attribute::Bold) } else { cell }
    }
}

/// Replaces control characters, with which a name could move the cursor, forge a row or turn its text around.
fn printable(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() || is_bidi(char) { '\u{fffd}' } else { char })
        .collect()
}

/// Whether a character changes the direction of the text around it (UAX #9).
fn is_bidi(char: char) -> bool {
    matches!(
        char,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The application's own SQL may write any name.
    #[test]
    fn a_name_cannot_forge_a_row_or_move_the_cursor() {
        assert_eq!(printable("a\nb\u{1b}[2Jc"), "a\u{fffd}b\u{fffd}[2Jc");
        assert_eq!(printable("a\u{202e}b"), "a\u{fffd}b", "nor turn the text around");
        let mut table = Table::new(&["NAME"]);
        table.row(["one\n99 two"]);
        assert_eq!(table.table.lines().count(), 2, "a header and a row");
    }
}
