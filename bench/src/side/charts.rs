//! Bar charts as SVG: plain shapes and text that read on a light and on a dark page.

use std::fmt::Write as _;

use crate::report::number;

use super::Results;
use super::results::{Line, find};

/// All charts of a run, as (file name, SVG). One that has nothing to show is left out.
pub(crate) fn all(results: &Results) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    let rate = |line: &Line| line.rate.map(|rate| rate.median);
    for size in [128, 1024, 16_384] {
        for work in ["publish", "consume"] {
            let title = match work {
                "publish" => format!("Publish, {size} B: messages/s, acknowledged"),
                _ => format!("Consume with an outcome of each message, {size} B: messages/s"),
            };
            let groups = [64, 1024].map(|in_flight| {
                (format!("{in_flight} in flight"), values(results, work, size, in_flight, rate))
            });
            charts.push((format!("{work}-{size}.svg"), draw(&title, "messages/s", &groups)));
        }
        let groups = [("p50", values(results, "latency", size, 4000, |line| line.p50))].into_iter();
        let groups = groups.chain([("p99", values(results, "latency", size, 4000, |line| line.p99))]);
        let groups: Vec<_> = groups.map(|(name, values)| (name.to_owned(), values)).collect();
        let title = format!("End to end at 20,000 messages/s, {size} B: milliseconds");
        charts.push((format!("latency-{size}.svg"), draw(&title, "ms", &groups)));
    }
    let cpu = ["publish", "consume"].map(|work| {
        let values = values(results, work, 1024, 1024, |line| line.cpu_s_per_million);
        (format!("{work}, 1024 in flight"), values)
    });
    let title = "The server's processor time for a million messages of 1 KiB: seconds";
    charts.push(("processor-1024.svg".to_owned(), draw(title, "seconds", &cpu)));
    charts.into_iter().filter_map(|(name, svg)| Some((name, svg?))).collect()
}

/// One bar: a system and its value.
type Bars = Vec<(String, f64)>;

fn values(
    results: &Results,
    work: &str,
    size: usize,
    in_flight: usize,
    of: impl Fn(&Line) -> Option<f64>,
) -> Bars {
    let value = |system: &str| of(find(&results.results, system, work, size, in_flight)?);
    let systems = results.systems.iter().map(|system| system.system.as_str());
    systems.filter_map(|system| Some((system.to_owned(), value(system)?))).collect()
}

const WIDTH: f64 = 820.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 16.0;
const STEP: f64 = 21.0;
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-size:14px;font-weight:600}\
    .grid{stroke:#8c959f;stroke-opacity:.35}.own{fill:#0969da}.peer{fill:#8c959f}\
    @media(prefers-color-scheme:dark){text{fill:#adbac7}.own{fill:#539bf5}.peer{fill:#768390}}";

/// Horizontal bars from zero on one linear axis, in groups one below the other.
#[allow(clippy::cast_precision_loss)]
fn draw(title: &str, unit: &str, groups: &[(String, Bars)]) -> Option<String> {
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value).max_by(f64::total_cmp)?;
    let tick = tick(most);
    let span = (most / tick).ceil().max(1.0) * tick;
    let x = |value: f64| LEFT + value / span * (WIDTH - LEFT - RIGHT);
    let count: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let bottom = 40.0 + groups.len() as f64 * 30.0 + count as f64 * STEP;
    let height = bottom + 44.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"22\">{title}</text>\n"
    );
    let mut at = 0.0;
    while at <= span + tick / 2.0 {
        let place = x(at);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{place:.1}\" y1=\"36\" x2=\"{place:.1}\" y2=\"{bottom:.1}\"/>\
             <text x=\"{place:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            short(at)
        );
        at += tick;
    }
    let middle = x(span / 2.0);
    let _ = writeln!(
        svg,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{unit}</text>",
        bottom + 34.0
    );
    let mut y = 40.0;
    for (name, bars) in groups {
        let _ = writeln!(svg, "<text x=\"8\" y=\"{:.1}\" class=\"title\">{name}</text>", y + 16.0);
        y += 26.0;
        for (system, value) in bars {
            let class = if system.starts_with("Crossdock") { "own" } else { "peer" };
            let base = y + 12.5;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{system}</text>\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
                LEFT - 8.0,
                (x(*value) - LEFT).max(1.0),
                x(*value).max(LEFT + 1.0) + 6.0,
                number(*value)
            );
            y += STEP;
        }
        y += 4.0;
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A round distance between the lines of the grid: 1, 2 or 5 with zeros, for at most six of them.
fn tick(most: f64) -> f64 {
    let rough = most.max(1e-6) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= rough).unwrap_or(power * 10.0)
}

/// A number on the axis.
fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => (value, ""),
    };
    let text = format!("{scaled:.2}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_round_numbers() {
        assert_eq!([7.0, 130.0, 1.6e6].map(tick), [2.0, 50.0, 500_000.0]);
        assert_eq!([0.0, 2.5, 1500.0, 2e6].map(short), ["0", "2.5", "1.5 k", "2 M"]);
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bars = vec![("Crossdock".to_owned(), 1000.0), ("another".to_owned(), 500.0)];
        let svg = draw("A title", "messages/s", &[("64 in flight".to_owned(), bars)]).unwrap();
        assert!(svg.contains("width=\"480.0\"") && svg.contains("width=\"240.0\""), "{svg}");
        assert_eq!(draw("Nothing", "ms", &[("p50".to_owned(), Vec::new())]), None);
    }
}
