//! Tables for people: columns without borders, nothing cut off, the same in a pipe but for the colours.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::console::printable;

/// What a text means, and so its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Works, was allowed.
    Good,
    /// Is refused, went wrong.
    Bad,
    /// Wants a look.
    Warn,
    /// Matters less.
    Faint,
}

impl Tone {
    /// The tone of a state, an environment or another word that has one.
    pub(super) fn of_word(word: &str) -> Self {
        match word {
            "active" | "allowed" | "yes" => Self::Good,
            "revoked" | "suspended" | "denied" => Self::Bad,
            "disabled" | "expired" => Self::Warn,
            "-" => Self::Faint,
            _ => Self::Plain,
        }
    }

    /// The text in its colour, if there are colours.
    pub(super) fn paint(self, text: &str, has_colours: bool) -> String {
        let code = match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Faint => "2",
            Self::Plain => return text.to_owned(),
        };
        if has_colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Rows of cells below a head, if it has one.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// With names above the columns.
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|name| ((*name).to_owned(), Tone::Faint)).collect()] }
    }

    /// Without names above the columns.
    pub(super) const fn without_head() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. A cell is one line; a line break in it is shown as such.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = (String, Tone)>) {
        let shown = |text: String| printable(&text).replace('\n', "\\n");
        self.rows.push(cells.into_iter().map(|(text, tone)| (shown(text), tone)).collect());
    }

    /// Adds a row in which each word has its own tone.
    pub(super) fn words(&mut self, cells: impl IntoIterator<Item = String>) {
        self.row(cells.into_iter().map(|word| {
            let tone = Tone::of_word(&word);
            (word, tone)
        }));
    }

    /// The table as text; the last column is not filled up.
    pub(super) fn render(&self, has_colours: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|(text, _)| text.width()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (index, (cell, tone)) in row.iter().enumerate() {
                text.push_str(&tone.paint(cell, has_colours));
                if index + 1 < row.len() {
                    let fill = widths[index] - cell.width() + 2;
                    // Writing to a string does not fail.
                    let _ = write!(text, "{:fill$}", "");
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.words(["鍵".to_owned(), "active".to_owned()]);
        table.words(["a longer name\n".to_owned(), "-".to_owned()]);
        assert_eq!(
            table.render(false),
            "NAME             STATE\n鍵               active\na longer name\\n  -\n"
        );
        let coloured = table.render(true);
        assert!(coloured.contains("\u{1b}[32mactive\u{1b}[0m"), "{coloured:?}");
    }
}
