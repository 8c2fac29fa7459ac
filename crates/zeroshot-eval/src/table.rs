//! Tables with typed cells, written as Markdown, HTML, CSV or JSON.

use std::fmt;

use serde_json::{Value, json};

/// A table with named columns.
///
/// `Display` writes Markdown.
///
/// ```
/// use zeroshot_eval::table::{Cell, Table};
///
/// let mut table = Table::new(["model"]).with_numbers(["top-1, %"]);
/// table.push([Cell::from("ViT-B-32"), Cell::percent(0.625)]);
/// assert_eq!(
///     table.to_string(),
///     "| model    | top-1, % |\n|----------|---------:|\n| ViT-B-32 |     62.5 |\n"
/// );
/// assert_eq!(table.to_csv(), "model,\"top-1, %\"\nViT-B-32,62.5\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// Name and alignment of a column.
#[derive(Clone, Debug, PartialEq)]
struct Column {
    name: String,
    align: Align,
}

/// Alignment of a column's cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cell {
    /// No value; text writers print `-`.
    Missing,
    /// Text.
    Text(String),
    /// An integer.
    Count(u64),
    /// A number with its precision.
    Number(Number),
}

/// A number, and how text shows it. CSV and JSON hold all its digits.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Number {
    /// The value.
    pub value: f64,
    /// Standard deviation, or half the width of a confidence interval.
    pub spread: Option<f64>,
    /// Digits after the decimal point.
    pub digits: usize,
    /// Whether a positive value has a sign.
    pub signed: bool,
    /// Whether text marks the value with `*`.
    pub marked: bool,
    /// The unit, which text prints after the value.
    pub unit: &'static str,
}

impl Number {
    /// Creates a number with `digits` after the decimal point.
    pub fn new(value: f64, digits: usize) -> Self {
        Number { value, spread: None, digits, signed: false, marked: false, unit: "" }
    }

    /// Sets the spread; `None` removes it.
    pub fn with_spread(mut self, spread: Option<f64>) -> Self {
        self.spread = spread;
        self
    }

    /// Prints a sign also for positive values.
    pub fn with_sign(mut self) -> Self {
        self.signed = true;
        self
    }

    /// Sets the mark.
    pub fn with_mark(mut self, marked: bool) -> Self {
        self.marked = marked;
        self
    }

    /// Sets the unit.
    pub fn with_unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Number { value, spread, digits, signed, marked, unit } = *self;
        match signed {
            true => write!(out, "{value:+.digits$}")?,
            false => write!(out, "{value:.digits$}")?,
        }
        if let Some(spread) = spread {
            write!(out, " ± {spread:.digits$}")?;
        }
        if marked {
            write!(out, " *")?;
        }
        if !unit.is_empty() {
            write!(out, " {unit}")?;
        }
        Ok(())
    }
}

impl Cell {
    /// Creates a number with `digits` after the decimal point.
    pub fn number(value: f64, digits: usize) -> Self {
        Cell::Number(Number::new(value, digits))
    }

    /// Creates a percentage of a fraction (0 to 1), with one digit.
    pub fn percent(fraction: f64) -> Self {
        Cell::number(fraction * 100.0, 1)
    }

    fn spread(&self) -> Option<f64> {
        match self {
            Cell::Number(number) => number.spread,
            _ => None,
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Missing => Value::Null,
            Cell::Text(text) => json!(text),
            Cell::Count(count) => json!(count),
            Cell::Number(Number { value, spread: None, .. }) => json!(value),
            Cell::Number(Number { value, spread, .. }) => json!({ "value": value, "spread": spread }),
        }
    }

    /// Returns the cell without rounding; empty if missing.
    fn csv(&self) -> String {
        match self {
            Cell::Missing => String::new(),
            Cell::Text(text) => quoted(text),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number) => number.value.to_string(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Missing => out.write_str("-"),
            Cell::Text(text) => out.write_str(text),
            Cell::Count(count) => count.fmt(out),
            Cell::Number(number) => number.fmt(out),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Cell::Count(count)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Cell::Count(count as u64)
    }
}

impl From<Number> for Cell {
    fn from(number: Number) -> Self {
        Cell::Number(number)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Cell::Missing, Into::into)
    }
}

impl Table {
    /// Creates a table whose first columns are aligned to the left.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Table::default().with_columns(columns, Align::Left)
    }

    /// Adds columns that are aligned to the right.
    pub fn with_numbers<S: Into<String>>(self, columns: impl IntoIterator<Item = S>) -> Self {
        self.with_columns(columns, Align::Right)
    }

    fn with_columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>, align: Align) -> Self {
        self.columns.extend(columns.into_iter().map(|name| Column { name: name.into(), align }));
        self
    }

    /// Sets the title, which documents print as a heading.
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Returns the title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Appends a row. A short row is filled with [`Cell::Missing`]; cells beyond the last column are dropped.
    pub fn push<C: Into<Cell>>(&mut self, row: impl IntoIterator<Item = C>) {
        let mut row = row.into_iter().map(Into::into).collect::<Vec<_>>();
        row.resize(self.columns.len(), Cell::Missing);
        self.rows.push(row);
    }

    /// Returns the rows.
    pub fn rows(&self) -> &[Vec<Cell>] {
        &self.rows
    }

    /// Whether the table has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes Markdown with padded cells.
    pub fn to_markdown(&self) -> String {
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        let head = self.columns.iter().map(|column| cell(&column.name)).collect::<Vec<_>>();
        let rows = self.rows.iter().map(|row| row.iter().map(|value| cell(&value.to_string())).collect());
        let rows = rows.collect::<Vec<Vec<_>>>();
        let width = |column: usize| {
            let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths = (0..head.len()).map(width).collect::<Vec<_>>();
        let line = |row: &Vec<String>| {
            let cells =
                row.iter().zip(&self.columns).zip(&widths).map(|((cell, column), &width)| {
                    match column.align {
                        Align::Left => format!("| {cell:width$} "),
                        Align::Right => format!("| {cell:>width$} "),
                    }
                });
            cells.collect::<String>() + "|\n"
        };
        let rule = self.columns.iter().zip(&widths).map(|(column, width)| match column.align {
            Align::Left => format!("|{}", "-".repeat(width + 2)),
            Align::Right => format!("|{}:", "-".repeat(width + 1)),
        });
        line(&head) + &rule.collect::<String>() + "|\n" + &rows.iter().map(line).collect::<String>()
    }

    /// Writes an HTML `table` element. Cells of numbers have the class `n`.
    pub fn to_html(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>, tag: &str| {
            let cells = cells.zip(&self.columns).map(|(cell, column)| {
                let class = if column.align == Align::Right { " class=\"n\"" } else { "" };
                format!("<{tag}{class}>{}</{tag}>", escape_html(&cell))
            });
            format!("<tr>{}</tr>", cells.collect::<String>())
        };
        let head = line(&mut self.columns.iter().map(|column| column.name.clone()), "th");
        let rows = self.rows.iter().map(|row| line(&mut row.iter().map(Cell::to_string), "td"));
        format!("<table>{head}{}</table>", rows.collect::<String>())
    }

    /// Writes CSV with a header. A column with spreads is followed by a column of them.
    pub fn to_csv(&self) -> String {
        let with_spread = (0..self.columns.len())
            .map(|column| self.rows.iter().any(|row| row[column].spread().is_some()))
            .collect::<Vec<_>>();
        let line = |cells: &mut dyn Iterator<Item = [String; 2]>| {
            let cells = cells
                .zip(&with_spread)
                .flat_map(|([value, spread], with)| std::iter::once(value).chain(with.then_some(spread)));
            cells.collect::<Vec<_>>().join(",") + "\n"
        };
        let names = self.columns.iter().map(|column| &column.name);
        let mut text = line(&mut names.map(|name| [quoted(name), quoted(&format!("{name} (spread)"))]));
        for row in &self.rows {
            let spread = |cell: &Cell| cell.spread().map_or_else(String::new, |spread| spread.to_string());
            text.push_str(&line(&mut row.iter().map(|cell| [cell.csv(), spread(cell)])));
        }
        text
    }

    /// Writes JSON with `title`, `columns` and `rows`. Numbers are not rounded; missing cells are `null`.
    pub fn to_json(&self) -> Value {
        let columns = self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>();
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::json).collect::<Vec<_>>());
        json!({ "title": self.title, "columns": columns, "rows": rows.collect::<Vec<_>>() })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.to_markdown())
    }
}

/// Escapes the characters that have a meaning in HTML.
pub fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Quotes a CSV field if it needs quotes.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["a|b", "set"]).with_numbers(["x", "n"]).with_title("A <title>");
        let spread = Number::new(1.25, 1).with_spread(Some(0.5)).with_sign().with_mark(true);
        table.push([Cell::from("<p>"), "one, \"two\"".into(), spread.into(), 3usize.into()]);
        table.push([Cell::from("q"), Cell::Missing, Number::new(f64::NAN, 2).with_unit("s").into()]);
        table
    }

    #[test]
    fn markdown_is_aligned_and_keeps_its_columns() {
        let expected = "\
| a\\|b | set        |            x |   n |
|------|------------|-------------:|----:|
| <p>  | one, \"two\" | +1.2 ± 0.5 * |   3 |
| q    | -          |        NaN s |   - |
";
        assert_eq!(table().to_markdown(), expected);
    }

    #[test]
    fn html_escapes_and_marks_numbers() {
        let html = table().to_html();
        assert!(html.starts_with("<table><tr><th>a|b</th><th>set</th><th class=\"n\">x</th>"), "{html}");
        assert!(html.contains("<td>&lt;p&gt;</td><td>one, &quot;two&quot;</td>"), "{html}");
        assert!(html.ends_with("<td class=\"n\">-</td></tr></table>"), "{html}");
    }

    #[test]
    fn csv_and_json_hold_all_digits() {
        let expected = "a|b,set,x,x (spread),n\n<p>,\"one, \"\"two\"\"\",1.25,0.5,3\nq,,NaN,,\n";
        assert_eq!(table().to_csv(), expected);
        let rows =
            json!([["<p>", "one, \"two\"", { "value": 1.25, "spread": 0.5 }, 3], ["q", null, null, null]]);
        let expected = json!({ "title": "A <title>", "columns": ["a|b", "set", "x", "n"], "rows": rows });
        assert_eq!(table().to_json(), expected);
    }
}
