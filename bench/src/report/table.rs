//! A table of spreads, shown in Markdown with aligned columns.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::statistics::Spread;

/// Rows of figures under named columns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    title: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Column {
    name: String,
    digits: usize,
    /// A ratio of ours to theirs: shown with its spread, and called noise where the rounds disagree who is ahead.
    ratio: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    cells: Vec<Option<Spread>>,
}

impl Table {
    /// Columns by their names and digits after the point.
    pub(crate) fn new(title: &str, columns: &[(&str, usize)]) -> Self {
        let column = |(name, digits): &(&str, usize)| Column {
            name: (*name).to_owned(),
            digits: *digits,
            ratio: false,
        };
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// One more column, of ratios.
    pub(crate) fn ratio(mut self, name: &str) -> Self {
        self.columns.push(Column {
            name: name.to_owned(),
            digits: 2,
            ratio: true,
        });
        self
    }

    pub(crate) fn row(&mut self, name: &str, cells: Vec<Option<Spread>>) {
        self.rows.push(Row {
            name: name.to_owned(),
            cells,
        });
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let heads = self.columns.iter().map(|column| column.name.clone());
        let mut lines = vec![std::iter::once(self.title.clone()).chain(heads).collect::<Vec<_>>()];
        for row in &self.rows {
            let cells = row
                .cells
                .iter()
                .zip(&self.columns)
                .map(|(cell, column)| show(cell.as_ref(), column));
            lines.push(std::iter::once(row.name.clone()).chain(cells).collect());
        }
        lines
    }
}

fn show(cell: Option<&Spread>, column: &Column) -> String {
    match cell {
        None => "–".to_owned(),
        Some(spread) if column.ratio && spread.straddles(1.0) => {
            format!("{}, within the noise", with_spread(spread, column.digits))
        }
        Some(spread) if column.ratio => with_spread(spread, column.digits),
        Some(spread) => number(spread.median, column.digits),
    }
}

/// `0.81 (0.80–0.82)`.
pub(super) fn with_spread(spread: &Spread, digits: usize) -> String {
    format!(
        "{} ({}–{})",
        number(spread.median, digits),
        number(spread.least, digits),
        number(spread.most, digits)
    )
}

/// With a thin space between thousands.
fn number(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push('\u{2009}');
        }
        grouped.push(digit);
    }
    let sign = if value < 0.0 { "−" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{fraction}")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let widths: Vec<usize> = (0..=self.columns.len())
            .map(|column| {
                lines
                    .iter()
                    .filter_map(|line| Some(line.get(column)?.chars().count()))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for (index, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let space = " ".repeat(width - cell.chars().count());
                match column {
                    0 => write!(f, "| {cell}{space} |")?,
                    _ => write!(f, " {space}{cell} |")?,
                }
            }
            writeln!(f)?;
            if index == 0 {
                write!(f, "|{}|", "-".repeat(widths[0] + 2))?;
                for width in &widths[1..] {
                    write!(f, "{}:|", "-".repeat(width + 1))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(rounds: &[f64]) -> Option<Spread> {
        Spread::of(rounds.to_vec())
    }

    #[test]
    fn a_table_is_markdown_with_aligned_columns() {
        let mut table = Table::new("32 connections", &[("requests/s", 0)]).ratio("ours ÷ theirs");
        table.row("ours", vec![spread(&[61234.4]), None]);
        table.row("nginx", vec![spread(&[9.0]), spread(&[0.8, 0.82])]);
        assert_eq!(
            table.to_string(),
            "| 32 connections | requests/s |    ours ÷ theirs |\n\
             |----------------|-----------:|-----------------:|\n\
             | ours           |     61\u{2009}234 |                – |\n\
             | nginx          |          9 | 0.81 (0.80–0.82) |\n"
        );
    }

    #[test]
    fn a_ratio_whose_rounds_disagree_is_called_noise() {
        let mut table = Table::new("", &[]).ratio("r");
        table.row("x", vec![spread(&[0.98, 1.02])]);
        assert!(table.to_string().contains("1.00 (0.98–1.02), within the noise"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.0, 0), "1\u{2009}234\u{2009}567");
        assert_eq!(number(999.96, 1), "1\u{2009}000.0");
        assert_eq!(number(-12.34, 1), "−12.3");
    }
}
