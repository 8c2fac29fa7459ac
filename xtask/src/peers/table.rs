//! The report of a comparison: a table in Markdown, and JSON.

use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::results::{Outcome, Spread};
use super::rows::{Bar, Row};
use super::sides::Side;
use crate::python;
use crate::shell::output;

/// Instruction sets of a processor that affect the speed, as `/proc/cpuinfo` names them.
const INSTRUCTIONS: [&str; 4] = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"];

/// The machine of a measurement.
pub(super) struct Machine {
    /// Processor, cores and instruction sets.
    description: String,
    /// Whether the processor has bf16 instructions.
    pub has_bf16: bool,
}

impl Machine {
    pub(super) fn of_this() -> Self {
        let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::parse(&facts, cores)
    }

    fn parse(facts: &str, cores: usize) -> Self {
        let field = |name: &str| {
            let mut fields = facts.lines().filter_map(|line| line.split_once(':'));
            fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
        };
        let name = field("model name").unwrap_or(std::env::consts::ARCH);
        let flags = field("flags").unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        let known = INSTRUCTIONS.into_iter().filter(|name| flags.contains(name)).collect::<Vec<_>>();
        let has_bf16 = known.iter().any(|name| name.ends_with("bf16"));
        let with = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        Machine { description: format!("{name}{with}, {cores} cores"), has_bf16 }
    }
}

/// The rows of a comparison with their outcomes.
pub(super) struct Report<'a> {
    pub args: &'a [String],
    pub machine: Machine,
    pub threads: usize,
    pub rows: &'a [Row],
    pub outcomes: &'a [Result<Outcome>],
}

impl Report<'_> {
    /// Returns the command with its arguments.
    fn command(&self) -> String {
        let words = ["cargo xtask bench peers"].into_iter().chain(self.args.iter().map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = String::from(
            "| row | what | peer | here | ratio | range | bar | met |\n|---|---|--:|--:|--:|---|---|---|\n",
        );
        for (row, outcome) in self.rows.iter().zip(self.outcomes) {
            let cells = match outcome {
                Ok(outcome) => cells(row, outcome),
                Err(error) => {
                    let reason = format!("error: {error:#}").replace('|', "/").replace('\n', " ");
                    vec![reason, String::new(), String::new(), String::new(), bar(row), String::new()]
                }
            };
            text.push_str(&format!("| `{}` | {} | {} |\n", row.name, row.title, cells.join(" | ")));
        }
        text.push_str(&format!("\n    {}\n\n{}\n", self.command(), self.context()));
        text
    }

    /// Returns a line with date, commit, machine and the peer's packages.
    fn context(&self) -> String {
        let mut text = format!(
            "{}, commit {}, {}, {} threads. Peer: {}.",
            date(),
            commit(),
            self.machine.description,
            self.threads,
            python::PACKAGES.join(", ")
        );
        if self.rows.iter().any(Row::is_bf16) && !self.machine.has_bf16 {
            text.push_str(
                "\nThis processor has no instructions for bf16: both sides emulate it, so the absolute times of bf16 rows are not \
                 representative.",
            );
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let rows = self.rows.iter().zip(self.outcomes).map(|(row, outcome)| {
            let mut object = json!({ "name": row.name, "title": row.title, "unit": row.unit() });
            (object["bar"], object["bar_is"]) = match row.bar {
                Some(Bar::AtLeast(bar)) => (json!(bar), json!("at least")),
                Some(Bar::AtMost(bar)) => (json!(bar), json!("at most")),
                None => (Value::Null, Value::Null),
            };
            match outcome {
                Err(error) => object["error"] = json!(format!("{error:#}")),
                Ok(outcome) => {
                    object["peer"] = outcome.values(Side::Peer).map_or(Value::Null, spread);
                    object["here"] = outcome.values(Side::Here).map_or(Value::Null, spread);
                    let ratio = outcome.ratio();
                    object["ratio"] = ratio.map_or(Value::Null, spread);
                    object["met"] = json!(is_met(row, ratio));
                    let deviation = outcome.deviation;
                    object["deviation"] = json!({ "largest": deviation.largest, "mean": deviation.mean });
                }
            }
            object
        });
        let rows = rows.collect::<Vec<_>>();
        json!({
            "command": self.command(), "date": date(), "commit": commit(), "machine": self.machine.description,
            "bf16_instructions": self.machine.has_bf16, "threads": self.threads, "peer": python::PACKAGES, "rows": rows,
        })
    }
}

fn cells(row: &Row, outcome: &Outcome) -> Vec<String> {
    let value = |side| match outcome.values(side) {
        Some(found) => format!("{} {}", rounded(found.median), row.unit()),
        None => "unknown".into(),
    };
    let ratio = outcome.ratio();
    let median = ratio.map_or("unknown".into(), |ratio| format!("{:.2}", ratio.median));
    let range = ratio.map_or(String::new(), |ratio| format!("{:.2}..{:.2}", ratio.low, ratio.high));
    let met = match is_met(row, ratio) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    vec![value(Side::Peer), value(Side::Here), median, range, bar(row), met.into()]
}

/// Returns the ratio of a row on one line, for progress.
pub(super) fn line(outcome: &Outcome) -> String {
    match outcome.ratio() {
        Some(ratio) => format!("  ratio {:.2} ({:.2}..{:.2})", ratio.median, ratio.low, ratio.high),
        None => "  no ratio".into(),
    }
}

/// Whether the median ratio reaches the bar, if the row has one.
fn is_met(row: &Row, ratio: Option<Spread>) -> Option<bool> {
    Some(row.bar?.is_met(ratio?.median))
}

fn bar(row: &Row) -> String {
    match row.bar {
        Some(Bar::AtLeast(bar)) => format!("≥ {bar}"),
        Some(Bar::AtMost(bar)) => format!("≤ {bar}"),
        None => String::new(),
    }
}

fn spread(values: Spread) -> Value {
    json!({ "median": values.median, "min": values.low, "max": values.high })
}

/// Formats a value with three significant digits, or as an integer from 100.
fn rounded(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn date() -> String {
    output("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(|| "unknown date".into())
}

fn commit() -> String {
    let root = crate::shell::root().display().to_string();
    output("git", &["-C", &root, "rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into())
}

/// Prints the result to standard output.
pub(super) fn print(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(format!("{}\n", text.trim_end()).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::results::Round;
    use crate::peers::rows;

    #[test]
    fn a_machine_is_described_by_its_processor() {
        let machine = Machine::parse("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f amx_bf16\n", 2);
        assert_eq!(machine.description, "AMD EPYC (avx2, avx512f, amx_bf16), 2 cores");
        assert!(machine.has_bf16 && !Machine::parse("flags : avx2 avx512f", 1).has_bf16);
    }

    #[test]
    fn the_table_shows_ratios_bars_and_errors() {
        let rows = rows::all().into_iter().filter(|row| row.name.ends_with("bf16")).collect::<Vec<_>>();
        let mut outcome = Outcome::new(&rows[0]);
        for (side, seconds) in [(Side::Peer, 4.0), (Side::Here, 2.0)] {
            outcome.add(side, &Round { seconds, items: 10.0, memory: None });
        }
        let outcomes =
            [Ok(outcome), Err(anyhow::anyhow!("the results | differ")), Err(anyhow::anyhow!("other"))];
        let args = ["--rounds".to_string(), "1".to_string()];
        let machine = Machine::parse("", 2);
        let report = Report { args: &args, machine, threads: 2, rows: &rows, outcomes: &outcomes };
        let text = report.markdown();
        for part in [
            "2.50 samples/s | 5.00 samples/s | 2.00 | 2.00..2.00 | ≥ 1.6 | yes |",
            "error: the results / differ",
            "    cargo xtask bench peers --rounds 1\n",
            "no instructions for bf16",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let found = report.json();
        assert_eq!(
            (&found["rows"][0]["ratio"]["median"], &found["rows"][0]["met"]),
            (&json!(2.0), &json!(true))
        );
        assert_eq!(found["rows"][1]["error"], "the results | differ");
    }
}
