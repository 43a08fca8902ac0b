//! Rows, the readable table, and the JSON.

use crate::Failure;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Whether an aim was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// Yes.
    Yes,
    /// No.
    No,
    /// The row has no aim, or its baseline could not be measured.
    Open,
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Only shown.
    None,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    measured: String,
    baseline: String,
    ratio: Option<f64>,
    aim: String,
    met: Met,
}

impl Row {
    /// A row whose `ratio` is judged by `aim`, of which `words` say what it means.
    pub fn new(what: &str, measured: String, baseline: String, ratio: Option<f64>, aim: Aim, words: &str) -> Self {
        let met = match (ratio, aim) {
            (Some(ratio), Aim::AtLeast(least)) if ratio >= least => Met::Yes,
            (Some(ratio), Aim::AtMost(most)) if ratio <= most => Met::Yes,
            (Some(_), Aim::AtLeast(_) | Aim::AtMost(_)) => Met::No,
            _ => Met::Open,
        };
        Row { what: what.into(), measured, baseline, ratio, aim: words.into(), met }
    }

    /// A figure that only stands beside others.
    pub fn figure(what: &str, measured: String) -> Self {
        Row::new(what, measured, String::new(), None, Aim::None, "")
    }

    fn cells(&self) -> [String; 6] {
        let met = match self.met {
            Met::Yes => "yes",
            Met::No => "NO",
            Met::Open => "",
        };
        let ratio = self.ratio.map(|r| format!("{r:.2}")).unwrap_or_default();
        [self.what.clone(), self.measured.clone(), self.baseline.clone(), ratio, self.aim.clone(), met.into()]
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what, "measured": self.measured, "baseline": self.baseline,
            "ratio": self.ratio, "aim": self.aim,
            "met": match self.met { Met::Yes => Some(true), Met::No => Some(false), Met::Open => None },
        })
    }
}

const HEAD: [&str; 6] = ["what", "measured", "baseline", "ratio", "aim", "met?"];

/// The rows of a run, with the figures behind them.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    figures: serde_json::Map<String, Value>,
}

impl Report {
    /// Adds a row, and says it at once: a run takes minutes.
    pub fn row(&mut self, row: Row) {
        println!("  {}", row.cells().into_iter().filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" | "));
        self.rows.push(row);
    }

    /// Adds figures for the JSON.
    pub fn figure(&mut self, name: &str, value: Value) {
        self.figures.insert(name.into(), value);
    }

    /// The table, in Markdown with aligned columns.
    pub fn table(&self) -> String {
        let mut lines: Vec<[String; 6]> = vec![HEAD.map(String::from)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} "));
            text += &format!("|{}|\n", cells.collect::<Vec<_>>().join("|"));
            if number == 0 {
                let rules = widths.iter().map(|width| "-".repeat(width + 2));
                text += &format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
            }
        }
        text
    }

    /// Writes the JSON below `folder`; its name is the date.
    pub fn write(&self, folder: &Path, machine: &Value) -> Result<PathBuf, Failure> {
        let failed = |e| Failure::new(format!("writing below {}", folder.display()), e);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let path = folder.join(format!("{}.json", machine["date"]));
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let all = json!({ "machine": machine, "rows": rows, "figures": self.figures });
        std::fs::write(&path, format!("{all:#}\n")).map_err(failed)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_judged_by_the_ratio_and_open_without_one() {
        let met = |ratio, aim| Row::new("a", String::new(), String::new(), ratio, aim, "").met;
        assert_eq!(met(Some(1.5), Aim::AtLeast(1.5)), Met::Yes);
        assert_eq!(met(Some(1.4), Aim::AtLeast(1.5)), Met::No);
        assert_eq!(met(Some(1.2), Aim::AtMost(1.15)), Met::No);
        assert_eq!(met(None, Aim::AtMost(1.0)), Met::Open);
        assert_eq!(met(Some(9.0), Aim::None), Met::Open);
    }

    #[test]
    fn the_table_has_a_line_a_row_and_as_many_columns() {
        let mut report = Report::default();
        report.rows.push(Row::figure("x", "1 us".into()));
        let table = report.table();
        assert_eq!(table.lines().count(), 3);
        assert!(table.lines().all(|line| line.matches('|').count() == 7));
    }
}
