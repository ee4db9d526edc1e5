//! What was measured: samples of each round, and their medians as written to `results.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::{extent, median};

/// One measurement of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// Messages each second.
    pub(crate) rate: Option<f64>,
    /// Milliseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
    /// The server's processor time, in seconds for a million messages.
    pub(crate) cpu_s_per_million: Option<f64>,
    /// The server's memory, in MB.
    pub(crate) rss: Option<f64>,
}

/// One line of `results.json`: a system at a work, with the medians of all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) system: String,
    pub(crate) work: String,
    /// Bytes of payload.
    pub(crate) size: usize,
    /// Messages in flight.
    pub(crate) in_flight: usize,
    pub(crate) durability: String,
    pub(crate) rate: Option<Spread>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
    pub(crate) cpu_s_per_million: Option<f64>,
    pub(crate) rss: Option<f64>,
}

/// What the rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

/// All samples of a run, in the order in which they were first taken.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    order: Vec<Place>,
    samples: BTreeMap<Place, Vec<Sample>>,
}

type Place = (String, String, usize, usize);

impl Samples {
    pub(crate) fn add(&mut self, system: &str, work: &str, size: usize, in_flight: usize, sample: Sample) {
        let place = (system.to_owned(), work.to_owned(), size, in_flight);
        let known = self.samples.entry(place.clone()).or_default();
        if known.is_empty() {
            self.order.push(place);
        }
        known.push(sample);
    }

    /// The medians; `durability` says what a system's acknowledgement is worth.
    pub(crate) fn lines(&self, durability: impl Fn(&str) -> String) -> Vec<Line> {
        let line = |place: &Place| {
            let samples = &self.samples[place];
            let all =
                |part: fn(&Sample) -> Option<f64>| -> Vec<f64> { samples.iter().filter_map(part).collect() };
            let rates = all(|sample| sample.rate);
            let (system, work, size, in_flight) = place.clone();
            Line {
                durability: durability(&system),
                system,
                work,
                size,
                in_flight,
                rate: extent(&rates).zip(median(&rates)).map(|((min, max), median)| Spread {
                    min,
                    median,
                    max,
                }),
                p50: median(&all(|sample| sample.p50)),
                p99: median(&all(|sample| sample.p99)),
                p999: median(&all(|sample| sample.p999)),
                cpu_s_per_million: median(&all(|sample| sample.cpu_s_per_million)),
                rss: median(&all(|sample| sample.rss)),
            }
        };
        self.order.iter().map(line).collect()
    }
}

/// Finds a line.
pub(crate) fn find<'a>(
    lines: &'a [Line],
    system: &str,
    work: &str,
    size: usize,
    in_flight: usize,
) -> Option<&'a Line> {
    lines.iter().find(|line| {
        line.system == system && line.work == work && line.size == size && line.in_flight == in_flight
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_the_median_of_its_rounds() {
        let mut samples = Samples::default();
        for rate in [30.0, 10.0, 20.0] {
            let sample = Sample { rate: Some(rate), p50: Some(rate / 10.0), ..Sample::default() };
            samples.add("a", "publish", 128, 64, sample);
        }
        samples.add("b", "publish", 128, 64, Sample::default());
        let lines = samples.lines(|system| format!("{system}'s word"));
        let line = find(&lines, "a", "publish", 128, 64).unwrap();
        assert_eq!(line.rate, Some(Spread { min: 10.0, median: 20.0, max: 30.0 }));
        assert_eq!((line.p50, line.p99, line.durability.as_str()), (Some(2.0), None, "a's word"));
        assert_eq!(find(&lines, "b", "publish", 128, 64).unwrap().rate, None);
    }
}
