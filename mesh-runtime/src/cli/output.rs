//! What goes to stdout: lines, tables and JSON.

use std::fmt::{Arguments, Write as _};
use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

/// A line, at once, for whoever reads along.
pub(crate) fn line(text: Arguments<'_>) -> anyhow::Result<()> {
    write(&format!("{text}\n"))
}

pub(super) fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    write(&format!("{value:#}\n"))
}

/// Columns under their titles, as wide as their widest cell.
pub(super) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> anyhow::Result<()> {
    let bold = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    write(&layout(titles, rows, bold))
}

fn layout<const N: usize>(titles: [&str; N], rows: &[[String; N]], bold: bool) -> String {
    let mut widths = titles.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let put = |cells: &[String; N]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.truncate(line.trim_end().len());
        line
    };
    let header = put(&titles.map(str::to_owned));
    let _ = if bold {
        writeln!(text, "\u{1b}[1m{header}\u{1b}[0m")
    } else {
        writeln!(text, "{header}")
    };
    for row in rows {
        let _ = writeln!(text, "{}", put(row));
    }
    text
}

/// A reader that closed the pipe has what it wanted.
fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "10.0.0.1:1".to_owned()],
            ["accounts-1".to_owned(), "b".to_owned()],
        ];
        let text = "ID          ADDRESS\na           10.0.0.1:1\naccounts-1  b\n";
        assert_eq!(layout(["ID", "ADDRESS"], &rows, false), text);
    }

    #[test]
    fn an_empty_table_has_its_titles() {
        assert_eq!(layout(["A", "B"], &[], false), "A  B\n");
    }

    #[test]
    fn only_the_titles_are_bold() {
        assert_eq!(layout(["A"], &[["x".to_owned()]], true), "\u{1b}[1mA\u{1b}[0m\nx\n");
    }
}
