//! The figures as they stand in docs/PERFORMANCE.md: few tables that are easy to compare, between two marks.

use std::fmt::Write as _;

use crate::Failure;
use crate::report::number;

use super::results::{Line, find};
use super::{PLAIN_FILE, Results, table};

const BEGIN: &str = "<!-- figures begin: `crossdock-bench charts` writes them -->";
const END: &str = "<!-- figures end -->";

/// A column: its heading, and the work, size and window it shows.
type Column<'a> = (&'a str, &'a str, usize, usize);

/// The page with the figures of this run between its marks.
pub(crate) fn renew(page: &str, results: &Results, charts: &[String]) -> Result<String, Failure> {
    let (before, rest) = page.split_once(BEGIN).ok_or("the page has no mark where the figures begin")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no mark where the figures end")?;
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", figures(results, charts)))
}

fn figures(results: &Results, charts: &[String]) -> String {
    let mut text = table::head(results);
    for chart in charts {
        let name = chart.trim_end_matches(".svg").replace('-', ", ");
        let _ = writeln!(text, "\n![{name}](charts/{chart})");
    }
    let rate = |line: &Line| {
        line.rate
            .map(|rate| format!("**{}** ({} - {})", number(rate.median), number(rate.min), number(rate.max)))
    };
    let latency = |line: &Line| Some(format!("{:.2} / {:.2}", line.p50?, line.p99?));
    let tails = |line: &Line| Some(format!("{:.2} / {:.2} / {:.2}", line.p50?, line.p99?, line.p999?));
    let cost = |line: &Line| Some(format!("{:.2} s, {:.0} MB", line.cpu_s_per_million?, line.rss?));
    let memory = |line: &Line| Some(format!("{:.0} MB", line.rss?));
    for size in [128, 1024, 16_384] {
        for (work, words) in [("publish", "Publish"), ("consume", "Consume and settle")] {
            let columns = [
                ("1 in flight", work, size, 1),
                ("64", work, size, 64),
                ("1024", work, size, 1024),
                ("4000", work, size, 4000),
            ];
            matrix(&mut text, results, &format!("{words}, {size} B, messages/s"), &columns, rate);
            matrix(&mut text, results, &format!("{words}, {size} B, p50 / p99 in ms"), &columns, latency);
            let title = format!("{words}, {size} B: server CPU per million messages, most memory");
            matrix(&mut text, results, &title, &columns, cost);
        }
    }
    let columns = [("128 B", "latency", 128, 4000), ("1024 B", "latency", 1024, 4000)];
    matrix(&mut text, results, "End to end at 20,000 messages/s, p50 / p99 / p99.9 in ms", &columns, tails);
    let columns =
        ["1 subscription", "8 subscriptions", "64 subscriptions"].map(|work| (work, work, 128, 1024));
    matrix(&mut text, results, "Subscriptions on one topic, 128 B, deliveries/s", &columns, rate);
    matrix(&mut text, results, "The same: server CPU per million deliveries, most memory", &columns, cost);
    let columns = [("three failures each", "redelivery storm", 128, 1024)];
    matrix(&mut text, results, "Redelivery storm, 128 B, deliveries/s", &columns, rate);
    let columns = ["1 topic", "10000 topics"].map(|work| (work, work, 128, 1024));
    matrix(
        &mut text,
        results,
        "Publish to one of so many topics, 128 B, 1024 in flight, messages/s",
        &columns,
        rate,
    );
    matrix(&mut text, results, "The same: memory when idle", &columns, memory);
    let columns = [
        ("publish, no backlog", "publish, no backlog", 128, 1024),
        ("publish, backlog", "publish, backlog", 128, 1024),
        ("drain it", "drain a backlog", 128, 4000),
    ];
    matrix(&mut text, results, "A backlog of 10 million, 128 B, messages/s", &columns, rate);
    let columns = [("append", "append + fdatasync", 128, 1), ("overwrite", "overwrite + fdatasync", 128, 1)];
    let yardstick = |line: &Line| (line.system == PLAIN_FILE).then(|| latency(line)).flatten();
    matrix(
        &mut text,
        results,
        "The disk by itself, 128 B and fdatasync, p50 / p99 in ms",
        &columns,
        yardstick,
    );
    text + &table::foot(results)
}

/// A table with a row for each system that has something in one of the columns; nothing where none has.
fn matrix(
    text: &mut String,
    results: &Results,
    title: &str,
    columns: &[Column<'_>],
    show: impl Fn(&Line) -> Option<String>,
) {
    let systems = results.systems.iter().map(|system| system.system.as_str()).chain([PLAIN_FILE]);
    let row = |system: &str| -> Vec<String> {
        let cell = |column: &Column<'_>| show(find(&results.results, system, column.1, column.2, column.3)?);
        columns.iter().map(|column| cell(column).unwrap_or_default()).collect()
    };
    let rows: Vec<_> = systems
        .map(|system| (system, row(system)))
        .filter(|(_, cells)| cells.iter().any(|cell| !cell.is_empty()))
        .collect();
    if rows.is_empty() {
        return;
    }
    let headings: Vec<_> = columns.iter().map(|column| column.0).collect();
    let _ = write!(text, "\n{title}:\n\n| system | {} |\n| --- |", headings.join(" | "));
    let _ = writeln!(text, "{}", " ---: |".repeat(columns.len()));
    for (system, cells) in rows {
        let _ = writeln!(text, "| {system} | {} |", cells.join(" | "));
    }
}
