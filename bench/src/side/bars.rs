//! What was aimed at, and whether it was met: computed from the results.

use serde::{Deserialize, Serialize};

use super::results::{Line, find};
use super::{PLAIN_FILE, WINDOWS};

/// An aim, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bar {
    pub(crate) aim: String,
    /// What was measured, in words; empty when it was not.
    pub(crate) measured: String,
    /// None when something that it needs was not measured.
    pub(crate) met: Option<bool>,
}

const FAST: &str = "JetStream";
const SAFE: &str = "JetStream, sync always";
const REDIS: &str = "Redis Streams, always";
const QUORUM: &str = "RabbitMQ, quorum queue";
/// JetStream by itself in each setting, and Crossdock on it.
const ENGINES: [(&str, &str); 3] = [
    (FAST, "Crossdock on JetStream"),
    (SAFE, "Crossdock on JetStream, sync always"),
    ("JetStream, three servers", "Crossdock on JetStream, three servers"),
];
/// Redis without the sync before each answer.
const REDIS_FAST: &str = "Redis Streams, everysec";

/// The system the aims are about: over TCP if that was measured.
fn ours(lines: &[Line]) -> &'static str {
    const OVER_TCP: &str = "Crossdock";
    if lines.iter().any(|line| line.system == OVER_TCP) { OVER_TCP } else { "Crossdock, in process" }
}

/// All aims.
pub(crate) fn judge(lines: &[Line]) -> Vec<Bar> {
    let ours = ours(lines);
    let rate = |system: &str, work: &str, size, in_flight| {
        find(lines, system, work, size, in_flight)?.rate.map(|rate| rate.median)
    };
    let mut bars = Vec::new();
    let mut times = |aim: &str, least: f64, work: &str, peer: &str, size, in_flight| {
        let ratio = rate(ours, work, size, in_flight)
            .zip(rate(peer, work, size, in_flight))
            .map(|(ours, theirs)| ours / theirs);
        bars.push(Bar {
            aim: format!("{aim}: at least {least}x {peer}, {size} B, {in_flight} in flight"),
            measured: ratio.map(|ratio| format!("{ratio:.2}x")).unwrap_or_default(),
            met: ratio.map(|ratio| ratio >= least),
        });
    };
    for (least, peer, size, in_flight) in [
        (1.0, FAST, 128, 64),
        (1.0, FAST, 1024, 64),
        (5.0, FAST, 128, 1024),
        (1.8, FAST, 1024, 1024),
        (20.0, SAFE, 128, 64),
        (150.0, SAFE, 128, 1024),
        (1.5, REDIS, 128, 64),
        (4.0, REDIS, 128, 1024),
        (3.0, QUORUM, 128, 64),
        (6.0, QUORUM, 128, 1024),
    ] {
        times("publish", least, "publish", peer, size, in_flight);
    }
    for (least, size) in [(4.0, 128), (3.0, 1024)] {
        for peer in [FAST, REDIS_FAST, REDIS] {
            times("consume with an outcome of each message", least, "consume", peer, size, 1024);
        }
    }
    bars.extend([
        one_in_flight(lines, ours),
        end_to_end(lines, ours),
        processor(lines, ours),
        fan_out(lines, ours),
        idle_topics(lines, ours),
        topics_rate(lines, ours),
        backlog(lines, ours),
        memory(lines, ours),
    ]);
    for (bare, engine) in ENGINES {
        bars.extend(["publish", "consume"].map(|work| beside_bare(lines, bare, engine, work)));
        bars.push(added(lines, bare, engine));
    }
    bars
}

/// An aim that a number decides.
fn bar(aim: String, value: Option<f64>, met: impl Fn(f64) -> bool, words: impl Fn(f64) -> String) -> Bar {
    Bar { aim, measured: value.map(words).unwrap_or_default(), met: value.map(met) }
}

fn one_in_flight(lines: &[Line], ours: &str) -> Bar {
    let p50 = |system: &str, work: &str| find(lines, system, work, 128, 1)?.p50;
    let disk = p50(PLAIN_FILE, "append + fdatasync");
    let ratio = p50(ours, "publish").zip(disk).map(|(ours, disk)| ours / disk);
    let recycled = p50(ours, "publish").zip(p50(PLAIN_FILE, "overwrite + fdatasync"));
    let also = recycled.map(|(ours, disk)| format!(" ({:.2}x overwrite + fdatasync)", ours / disk));
    bar(
        "publish, 128 B, 1 in flight: p50 within 1.3x of the disk's append + fdatasync".into(),
        ratio,
        |ratio| ratio <= 1.3,
        |ratio| format!("{ratio:.2}x{}", also.clone().unwrap_or_default()),
    )
}

fn end_to_end(lines: &[Line], ours: &str) -> Bar {
    let disk = find(lines, PLAIN_FILE, "append + fdatasync", 128, 1).and_then(|line| line.p99);
    let most = disk.map_or(8.0, |p99| (3.0 * p99).max(8.0));
    bar(
        format!(
            "end to end at 20,000 messages/s, 128 B: p99 under {most:.1} ms (8 ms, or 3x the disk's own p99)"
        ),
        find(lines, ours, "latency", 128, 4000).and_then(|line| line.p99),
        |p99| p99 < most,
        |p99| format!("{p99:.2} ms"),
    )
}

fn processor(lines: &[Line], ours: &str) -> Bar {
    let cpu = |system: &str, work: &str| find(lines, system, work, 1024, 1024)?.cpu_s_per_million;
    let ratio = |work: &str| cpu(ours, work).zip(cpu(FAST, work)).map(|(ours, theirs)| ours / theirs);
    let both = ratio("publish").zip(ratio("consume"));
    Bar {
        aim: format!(
            "server's processor time for a message of 1 KiB, 1024 in flight: at most half of {FAST}'s"
        ),
        measured: both
            .map(|(publish, consume)| format!("publish {publish:.2}x, consume {consume:.2}x"))
            .unwrap_or_default(),
        met: both.map(|(publish, consume)| publish <= 0.5 && consume <= 0.5),
    }
}

fn fan_out(lines: &[Line], ours: &str) -> Bar {
    let cpu = |work: &str| find(lines, ours, work, 128, 1024)?.cpu_s_per_million;
    bar(
        "64 subscriptions on a topic: under 2x of the processor time for a delivery of one".into(),
        cpu("64 subscriptions").zip(cpu("1 subscription")).map(|(many, one)| many / one),
        |ratio| ratio < 2.0,
        |ratio| format!("{ratio:.2}x"),
    )
}

fn idle_topics(lines: &[Line], ours: &str) -> Bar {
    let rss = |work: &str| find(lines, ours, work, 128, 1024)?.rss;
    bar(
        "10,000 idle topics: under 100 MB".into(),
        rss("10000 topics").zip(rss("1 topic")).map(|(many, one)| many - one),
        |megabytes| megabytes < 100.0,
        |megabytes| format!("{megabytes:.0} MB more than with one"),
    )
}

fn topics_rate(lines: &[Line], ours: &str) -> Bar {
    let rate = |work: &str| find(lines, ours, work, 128, 1024)?.rate.map(|rate| rate.median);
    bar(
        "10,000 idle topics: no measurable throughput (at least 90 % of the rate without)".into(),
        rate("10000 topics").zip(rate("1 topic")).map(|(many, one)| many / one),
        |part| part >= 0.9,
        |part| format!("{:.0} %", part * 100.0),
    )
}

fn backlog(lines: &[Line], ours: &str) -> Bar {
    let rate = |work: &str| find(lines, ours, work, 128, 1024)?.rate.map(|rate| rate.median);
    bar(
        "publish with a backlog of ten million: at least 80 % of the rate with none".into(),
        rate("publish, backlog").zip(rate("publish, no backlog")).map(|(with, without)| with / without),
        |part| part >= 0.8,
        |part| format!("{:.0} %", part * 100.0),
    )
}

fn memory(lines: &[Line], ours: &str) -> Bar {
    let of_ours = lines.iter().filter(|line| line.system == ours);
    let most = of_ours.filter_map(|line| line.rss.map(|rss| (rss, line))).max_by(|a, b| a.0.total_cmp(&b.0));
    let place = most.map(|(_, line)| format!("{}, {} B", line.work, line.size)).unwrap_or_default();
    bar(
        "memory in every work: under 400 MB".into(),
        most.map(|(rss, _)| rss),
        |rss| rss < 400.0,
        |rss| format!("{rss:.0} MB at most ({place})"),
    )
}

/// What is left of JetStream's rate where Crossdock is on it, at every number in flight.
fn beside_bare(lines: &[Line], bare: &str, engine: &str, work: &str) -> Bar {
    let rate = |system: &str, in_flight| find(lines, system, work, 128, in_flight)?.rate;
    let part = |in_flight| Some(rate(engine, in_flight)?.median / rate(bare, in_flight)?.median);
    let parts: Vec<(usize, f64)> =
        WINDOWS.iter().filter_map(|in_flight| Some((*in_flight, part(*in_flight)?))).collect();
    let words = parts.iter().map(|(in_flight, part)| format!("{in_flight}: {:.0} %", part * 100.0));
    let words: Vec<String> = words.collect();
    bar(
        format!("{engine}, {work}, 128 B: at least 85 % of {bare}'s rate at each number in flight"),
        parts.iter().map(|(_, part)| *part).min_by(f64::total_cmp),
        |least| least >= 0.85,
        |_| words.join(", "),
    )
}

/// What Crossdock adds to JetStream's time from end to end.
fn added(lines: &[Line], bare: &str, engine: &str) -> Bar {
    let p50 = |system: &str| find(lines, system, "latency", 128, 4000)?.p50;
    bar(
        format!("{engine}, end to end at 20,000 messages/s, 128 B: p50 less than 0.3 ms over {bare}'s"),
        p50(engine).zip(p50(bare)).map(|(ours, theirs)| ours - theirs),
        |ms| ms < 0.3,
        |ms| format!("{ms:+.2} ms"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::side::results::Spread;

    fn line(system: &str, work: &str, size: usize, in_flight: usize, rate: f64) -> Line {
        Line {
            system: system.into(),
            work: work.into(),
            size,
            in_flight,
            durability: String::new(),
            rate: Some(Spread { min: rate, median: rate, max: rate }),
            p50: None,
            p99: None,
            p999: None,
            cpu_s_per_million: None,
            rss: None,
        }
    }

    fn met(bars: &[Bar], start: &str) -> Option<bool> {
        bars.iter().find(|bar| bar.aim.starts_with(start)).unwrap().met
    }

    #[test]
    fn an_aim_is_met_missed_or_not_measured() {
        let mut lines = vec![
            line("Crossdock", "publish", 128, 1024, 500.0),
            line(FAST, "publish", 128, 1024, 100.0),
            line(REDIS, "publish", 128, 1024, 126.0),
        ];
        let bars = judge(&lines);
        assert_eq!(met(&bars, "publish: at least 5x JetStream, 128"), Some(true));
        assert_eq!(met(&bars, "publish: at least 4x Redis Streams, always, 128 B, 1024"), Some(false));
        assert_eq!(met(&bars, "publish: at least 6x RabbitMQ"), None);
        assert_eq!(met(&bars, "memory"), None);
        lines[0].rss = Some(399.0);
        assert_eq!(met(&judge(&lines), "memory"), Some(true));
    }

    #[test]
    fn an_engine_on_jetstream_is_held_against_jetstream_by_itself() {
        let (bare, engine) = ENGINES[0];
        let mut lines = vec![
            line(bare, "publish", 128, 1, 100.0),
            line(engine, "publish", 128, 1, 80.0),
            line(bare, "publish", 128, 64, 100.0),
            line(engine, "publish", 128, 64, 90.0),
            line(bare, "latency", 128, 4000, 20_000.0),
            line(engine, "latency", 128, 4000, 20_000.0),
        ];
        (lines[4].p50, lines[5].p50) = (Some(0.5), Some(0.75));
        let found = |bars: Vec<Bar>, part: &str| {
            bars.into_iter().find(|bar| bar.aim.starts_with(&format!("{engine}, {part}"))).unwrap()
        };
        let publish = found(judge(&lines), "publish");
        assert_eq!((publish.measured.as_str(), publish.met), ("1: 80 %, 64: 90 %", Some(false)));
        assert_eq!(found(judge(&lines), "consume").met, None);
        let latency = found(judge(&lines), "end to end");
        assert_eq!((latency.measured.as_str(), latency.met), ("+0.25 ms", Some(true)));
        lines[1].rate = lines[3].rate;
        assert_eq!(found(judge(&lines), "publish").met, Some(true));
    }
}
