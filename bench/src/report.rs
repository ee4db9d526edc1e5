//! What was measured, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::Failure;
use crate::machine::Machine;

/// Everything that was measured, and where.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: usize,
    seconds_each: f64,
    works: Vec<Work>,
}

/// One thing that was measured, in all rounds.
#[derive(Debug, Serialize)]
struct Work {
    /// What was done, such as `publish, in process`.
    work: String,
    /// How, such as `128 B, 64 in flight`.
    setting: String,
    /// What the values count.
    unit: &'static str,
    values: Vec<f64>,
    /// Latencies in milliseconds, where they were taken: p50 and p99 of each round.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// One value of one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    /// What the value counts.
    pub(crate) unit: &'static str,
    /// How many of it.
    pub(crate) value: f64,
    /// p50 and p99 in milliseconds.
    pub(crate) latency: Option<(f64, f64)>,
}

impl Report {
    pub(crate) fn new(machine: Machine, rounds: usize, seconds_each: f64) -> Self {
        Self { machine, rounds, seconds_each, works: Vec::new() }
    }

    /// Adds the value of a round.
    pub(crate) fn add(&mut self, work: &str, setting: &str, value: Value) {
        eprintln!("bench: {work}, {setting}: {} {}", number(value.value), value.unit);
        let known = self.works.iter().position(|known| known.work == work && known.setting == setting);
        let index = known.unwrap_or_else(|| {
            self.works.push(Work {
                work: work.to_owned(),
                setting: setting.to_owned(),
                unit: value.unit,
                values: Vec::new(),
                p50: Vec::new(),
                p99: Vec::new(),
            });
            self.works.len() - 1
        });
        let known = &mut self.works[index];
        known.values.push(value.value);
        if let Some((p50, p99)) = value.latency {
            known.p50.push(p50);
            known.p99.push(p99);
        }
    }

    /// Writes `results.json` and `results.md` to a folder, and the table to standard output.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let table = self.table();
        std::fs::write(folder.join("results.md"), &table)?;
        std::io::Write::write_all(&mut std::io::stdout(), table.as_bytes())?;
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{}\n\n{} rounds of {} s each; the median, and in brackets the lowest and the highest.\n\n\
             | work | setting | result | p50 ms | p99 ms |\n| --- | --- | ---: | ---: | ---: |\n",
            self.machine, self.rounds, self.seconds_each
        );
        for work in &self.works {
            let latency = |values: &[f64]| median(values).map(|ms| format!("{ms:.2}")).unwrap_or_default();
            let spread = match extent(&work.values) {
                Some((low, high)) if work.values.len() > 1 => {
                    format!(" ({} - {})", number(low), number(high))
                }
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "| {} | {} | **{}** {}{spread} | {} | {} |",
                work.work,
                work.setting,
                number(median(&work.values).unwrap_or_default()),
                work.unit,
                latency(&work.p50),
                latency(&work.p99),
            );
        }
        text
    }
}

pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

pub(crate) fn extent(values: &[f64]) -> Option<(f64, f64)> {
    let low = values.iter().copied().min_by(f64::total_cmp)?;
    let high = values.iter().copied().max_by(f64::total_cmp)?;
    Some((low, high))
}

/// Three digits that matter, with thousands apart.
pub(crate) fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(999.6), "1,000");
        assert_eq!(number(1.5), "1.50");
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }
}
