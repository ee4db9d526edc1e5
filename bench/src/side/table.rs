//! The results as a page of Markdown, for a terminal and for whoever copies it.

use std::fmt::Write as _;

use crate::report::number;

use super::Results;
use super::results::{Line, find};

/// What ratios are to: Crossdock over TCP if it was measured.
fn reference(results: &Results) -> &str {
    let names: Vec<&str> = results.systems.iter().map(|system| system.system.as_str()).collect();
    let own = |name: &&&str| name.starts_with("Crossdock");
    names.iter().find(|name| **name == "Crossdock").or(names.iter().find(own)).copied().unwrap_or_default()
}

/// What was measured on what, with which settings. Writing to a string cannot fail.
pub(crate) fn head(results: &Results) -> String {
    let took = match results {
        Results { in_pieces: true, .. } => "Measured in several runs".to_owned(),
        Results { rounds, seconds_each, .. } => format!("{rounds} rounds, {seconds_each} s for each figure"),
    };
    let mut text = format!(
        "{}\n\n{took}; the median, and in brackets the lowest and the highest.\n\n\
         | system | an acknowledged message is | set otherwise than by default, and its client |\n\
         | --- | --- | --- |\n",
        results.machine
    );
    for system in &results.systems {
        let _ = writeln!(text, "| {} | {} | {} |", system.system, system.durability, system.settings);
    }
    text
}

/// Everything that was measured.
pub(crate) fn text(results: &Results) -> String {
    let mut text = head(results);
    let reference = reference(results);
    let mut places: Vec<(&str, usize, usize)> = Vec::new();
    for line in &results.results {
        let place = (line.work.as_str(), line.size, line.in_flight);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    // Works as they were done, the windows of each in their order.
    let first = |work: &str, size| places.iter().position(|place| place.0 == work && place.1 == size);
    let mut sorted = places.clone();
    sorted.sort_by_key(|(work, size, in_flight)| (first(work, *size), *in_flight));
    for (work, size, in_flight) in sorted {
        let _ = write!(
            text,
            "\n{work}, {size} B, {in_flight} in flight:\n\n\
             | system | messages/s | to {reference} | p50 ms | p99 ms | p99.9 ms | server CPU s per million | RSS MB |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        );
        let base = find(&results.results, reference, work, size, in_flight);
        let here = results
            .results
            .iter()
            .filter(|line| line.work == work && line.size == size && line.in_flight == in_flight);
        for line in here {
            row(&mut text, line, base);
        }
    }
    text + &foot(results)
}

/// What a reader must know beside the figures, and the aims.
pub(crate) fn foot(results: &Results) -> String {
    let mut text = String::new();
    if !results.notes.is_empty() || !results.missing.is_empty() {
        text.push_str("\nNotes:\n\n");
    }
    for note in &results.notes {
        let _ = writeln!(text, "* {note}");
    }
    for missing in &results.missing {
        let first = missing.lines().next().unwrap_or_default();
        let _ = writeln!(text, "* not measured: {first}");
    }
    text.push_str("\n| aim | measured | |\n| --- | --- | --- |\n");
    for bar in &results.bars {
        let word = match bar.met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        };
        let _ = writeln!(text, "| {} | {} | {word} |", bar.aim, bar.measured);
    }
    text
}

fn row(text: &mut String, line: &Line, base: Option<&Line>) {
    let decimal = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
    let rate = line.rate.map_or_else(String::new, |rate| {
        format!("**{}** ({} - {})", number(rate.median), number(rate.min), number(rate.max))
    });
    let ratio = line
        .rate
        .zip(base.and_then(|base| base.rate))
        .map(|(rate, base)| format!("{:.3}x", rate.median / base.median))
        .unwrap_or_default();
    let rss = line.rss.map(|rss| format!("{rss:.0}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "| {} | {rate} | {ratio} | {} | {} | {} | {} | {rss} |",
        line.system,
        decimal(line.p50),
        decimal(line.p99),
        decimal(line.p999),
        decimal(line.cpu_s_per_million),
    );
}
