//! All systems side by side: the same works, each system alone at a time, taking turns in each round.

mod bars;
mod charts;
mod feed;
mod meter;
mod page;
mod results;
mod table;
mod works;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::file::{Space, append};
use crate::machine::Machine;
use crate::peers::{Missing, Server, System};
use crate::{Failure, machine, peers};

use bars::Bar;
use results::{Line, Sample, Samples};
use works::Run;

pub(crate) use feed::{Feed, Sender};

/// What to measure, how long, and where.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) quick: bool,
    /// Works whose name contains one of these; all when there are none.
    pub(crate) only: Vec<String>,
    /// Systems whose name contains one of these; all when there are none.
    pub(crate) systems: Vec<String>,
    /// Payloads of these sizes; all when there are none.
    pub(crate) sizes: Vec<usize>,
    pub(crate) disk: PathBuf,
    /// Where `scripts/peers` put what it fetched.
    pub(crate) peers: PathBuf,
    /// Nothing new is begun after this.
    pub(crate) budget: Duration,
}

/// One thing every system does, on a server started for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Publish and consume, at a size.
    Cells(usize),
    Latency(usize),
    Subscriptions,
    Topics,
    Backlog,
    Storm,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Cells(_) => "publish-consume",
            Step::Latency(_) => "latency",
            Step::Subscriptions => "subscriptions",
            Step::Topics => "topics",
            Step::Backlog => "backlog",
            Step::Storm => "storm",
        }
    }

    /// The bytes of its payloads.
    fn size(self) -> usize {
        match self {
            Step::Cells(size) | Step::Latency(size) => size,
            _ => 128,
        }
    }

    /// Heavy ones are done in the first round only.
    fn once(self) -> bool {
        matches!(self, Step::Topics | Step::Backlog)
    }

    /// How long it may take for one system before it is given up.
    fn within(self) -> Duration {
        Duration::from_secs(if self == Step::Backlog { 300 } else { 150 })
    }
}

/// What `results.json` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) quick: bool,
    /// Whether it was measured in several runs; rounds and seconds are the last one's then.
    #[serde(default)]
    pub(crate) in_pieces: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds_each: f64,
    pub(crate) systems: Vec<Described>,
    /// Systems that were not there, and measurements that failed, with the reason.
    pub(crate) missing: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) results: Vec<Line>,
    pub(crate) bars: Vec<Bar>,
}

/// A system as it was set.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) system: String,
    pub(crate) durability: String,
    pub(crate) settings: String,
}

const WINDOWS: [usize; 4] = [1, 64, 1024, 4000];
const PLAIN_FILE: &str = "plain file";

/// Measures everything that is asked for.
pub(crate) async fn run(options: &Options) -> Result<Results, Failure> {
    let wants = |name: &str, of: &[String]| {
        let name = name.to_lowercase();
        of.is_empty() || of.iter().any(|part| name.contains(&part.to_lowercase()))
    };
    let sized = |step: Step| options.sizes.is_empty() || options.sizes.contains(&step.size());
    let (systems, absent) = peers::all(&options.peers);
    let systems: Vec<_> =
        systems.into_iter().filter(|system| wants(system.about().name, &options.systems)).collect();
    let steps: Vec<Step> = steps(options.quick)
        .into_iter()
        .filter(|step| wants(step.name(), &options.only))
        .filter(|step| sized(*step))
        .collect();
    let mut missing: Vec<String> =
        absent.into_iter().map(|Missing { name, reason }| format!("{name}: {reason}")).collect();
    let (mut samples, mut notes) = (Samples::default(), Vec::new());
    let begin = Instant::now();
    for round in 1..=options.rounds {
        yardstick(options, &mut samples)?;
        let due: Vec<Step> = steps.iter().copied().filter(|step| round == 1 || !step.once()).collect();
        // A server for each thing; for all of them where time is short.
        for steps in due.chunks(if options.quick { due.len() } else { 1 }) {
            for system in &systems {
                let left = options.budget.saturating_sub(begin.elapsed());
                let mut turn =
                    Turn { options, round, system: &**system, samples: &mut samples, notes: &mut notes };
                missing.extend(turn.take(steps, left).await);
            }
        }
    }
    let durability = |name: &str| {
        let system = systems.iter().find(|system| system.about().name == name);
        system.map_or("fdatasync after each write", |system| system.about().durability).to_owned()
    };
    let lines = samples.lines(durability);
    let described = systems.iter().map(|system| system.about()).map(|about| Described {
        system: about.name.to_owned(),
        durability: about.durability.to_owned(),
        settings: about.settings.clone(),
    });
    Ok(Results {
        machine: machine::describe(&options.disk),
        quick: options.quick,
        in_pieces: false,
        rounds: options.rounds,
        seconds_each: options.time.as_secs_f64(),
        systems: described.collect(),
        missing,
        notes,
        bars: bars::judge(&lines),
        results: lines,
    })
}

fn steps(quick: bool) -> Vec<Step> {
    let (sizes, paced): (&[usize], &[usize]) =
        if quick { (&[128, 1024], &[128]) } else { (&[128, 1024, 16_384], &[128, 1024]) };
    let cells = sizes.iter().map(|size| Step::Cells(*size));
    let latency = paced.iter().map(|size| Step::Latency(*size));
    let others = [Step::Subscriptions, Step::Storm, Step::Backlog, Step::Topics];
    cells.chain(latency).chain(others).collect()
}

/// A system's turn: it is started on a new folder, does some things, and is stopped.
struct Turn<'a> {
    options: &'a Options,
    round: usize,
    system: &'a dyn System,
    samples: &'a mut Samples,
    notes: &'a mut Vec<String>,
}

impl Turn<'_> {
    /// Does these things as long as there is time; gives what could not be done, and why.
    async fn take(&mut self, steps: &[Step], left: Duration) -> Vec<String> {
        let begin = Instant::now();
        let mut failures = Vec::new();
        let name = self.system.about().name;
        let round = format!("round {} of {}", self.round, self.options.rounds);
        let mut failed = |what: &str, failure: Failure| {
            eprintln!("bench: {round}: {name}: {what}: {failure}");
            failures.push(format!("{round}: {name}: {what}: {failure}"));
        };
        let started = async {
            enough_space(&self.options.disk)?;
            let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&self.options.disk)?;
            let server = self.system.start(folder.path()).await?;
            Ok((folder, server))
        };
        let (_folder, server) = match started.await {
            Ok(started) => started,
            Err(failure) => {
                failed("start", failure);
                return failures;
            }
        };
        for step in steps {
            let result = if begin.elapsed() > left {
                Err("no time was left".into())
            } else {
                eprintln!("bench: {round}: {name}: {}", step.name());
                match tokio::time::timeout(step.within(), self.measure(*step, &*server)).await {
                    Ok(done) => done,
                    Err(_) => Err(format!("given up after {:?}", step.within()).into()),
                }
            };
            if let Err(failure) = result {
                failed(step.name(), failure);
            }
        }
        if let Err(failure) = server.stop().await {
            failed("stop", failure);
        }
        failures
    }

    async fn measure(&mut self, step: Step, server: &dyn Server) -> Result<(), Failure> {
        let Options { time, quick, .. } = *self.options;
        let topic = match step {
            Step::Cells(size) | Step::Latency(size) => format!("{}-{size}", step.name()),
            _ => step.name().to_owned(),
        };
        let (system, samples, notes) = (self.system, &mut *self.samples, &mut *self.notes);
        let mut run = Run { system, server, samples, notes, topic, time, quick };
        match step {
            Step::Cells(size) => {
                let windows = if quick { &WINDOWS[1..3] } else { &WINDOWS[..] };
                run.publish_and_consume(size, windows).await
            }
            Step::Latency(size) => run.latency(size).await,
            Step::Subscriptions => {
                for count in [1, 8, 64] {
                    run.subscriptions(count).await?;
                }
                Ok(())
            }
            Step::Topics => run.topics().await,
            Step::Backlog => run.backlog().await,
            Step::Storm => run.storm().await,
        }
    }
}

/// The disk must bear the largest work: ten million messages in a system that writes them more than once.
fn enough_space(disk: &Path) -> Result<(), Failure> {
    const NEEDED: u64 = 12 << 30;
    let there = rustix::fs::statvfs(disk)?;
    let free = there.f_bavail * there.f_frsize;
    if free >= NEEDED {
        return Ok(());
    }
    let (free, needed) = (free >> 30, NEEDED >> 30);
    Err(format!("{} has {free} GiB free, {needed} GiB are needed", disk.display()).into())
}

/// What the disk does by itself: one append and its sync, with nothing around it.
fn yardstick(options: &Options, samples: &mut Samples) -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(&options.disk)?;
    for size in [128, 1024, 16_384] {
        for (space, work) in
            [(Space::Growing, "append + fdatasync"), (Space::Recycled, "overwrite + fdatasync")]
        {
            let value = append(folder.path(), space, size, 1, options.time.min(Duration::from_secs(1)))?;
            let (p50, p99) = value.latency.unzip();
            let sample = Sample { rate: Some(value.value), p50, p99, ..Sample::default() };
            samples.add(PLAIN_FILE, work, size, 1, sample);
        }
    }
    Ok(())
}

/// Writes the results as JSON, and the table to standard output. With `add` what the file holds of other
/// measurements stays.
pub(crate) fn write(mut results: Results, path: &Path, add: bool) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if add && path.exists() {
        results.add(serde_json::from_slice(&std::fs::read(path)?)?);
    }
    std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    std::io::Write::write_all(&mut std::io::stdout(), table::text(&results).as_bytes())?;
    Ok(())
}

impl Results {
    /// Adds what an earlier run measured and this one did not; systems stay in the order they had. What is said of
    /// machine, rounds and time stays this run's.
    fn add(&mut self, earlier: Results) {
        self.in_pieces = true;
        let known =
            |line: &Line| results::find(&self.results, &line.system, &line.work, line.size, line.in_flight);
        let mut lines: Vec<Line> = earlier.results.into_iter().filter(|line| known(line).is_none()).collect();
        lines.append(&mut self.results);
        let mut systems = earlier.systems;
        for system in self.systems.drain(..) {
            match systems.iter_mut().find(|other| other.system == system.system) {
                Some(before) => *before = system,
                None => systems.push(system),
            }
        }
        self.systems = systems;
        for (all, before) in [(&mut self.missing, earlier.missing), (&mut self.notes, earlier.notes)] {
            let fresh: Vec<_> = before.into_iter().filter(|text| !all.contains(text)).collect();
            all.splice(0..0, fresh);
        }
        self.bars = bars::judge(&lines);
        self.results = lines;
    }
}

/// Draws the charts of a run that was written before into `charts` beside a page, and writes its figures to the
/// page.
pub(crate) fn draw(path: &Path, page: &Path) -> Result<(), Failure> {
    let results: Results = serde_json::from_slice(&std::fs::read(path)?)?;
    let folder = page.with_file_name("charts");
    std::fs::create_dir_all(&folder)?;
    let charts = charts::all(&results);
    for (name, svg) in &charts {
        std::fs::write(folder.join(name), svg)?;
    }
    let names: Vec<String> = charts.into_iter().map(|(name, _)| name).collect();
    std::fs::write(page, page::renew(&std::fs::read_to_string(page)?, &results, &names)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(systems: &[&str], rate: f64) -> Results {
        let mut samples = Samples::default();
        for system in systems {
            let sample = Sample { rate: Some(rate), ..Sample::default() };
            samples.add(system, "publish", 128, 64, sample);
        }
        let described = |system: &&str| Described {
            system: (*system).to_owned(),
            durability: String::new(),
            settings: String::new(),
        };
        Results {
            machine: machine::describe(Path::new(".")),
            quick: false,
            in_pieces: false,
            rounds: 1,
            seconds_each: 1.0,
            systems: systems.iter().map(described).collect(),
            missing: Vec::new(),
            notes: Vec::new(),
            results: samples.lines(|_| String::new()),
            bars: Vec::new(),
        }
    }

    #[test]
    fn what_was_measured_again_replaces_what_was_there_and_the_rest_stays() {
        let mut now = results(&["Crossdock"], 300.0);
        now.add(results(&["Crossdock", "JetStream"], 100.0));
        let rate = |system: &str| results::find(&now.results, system, "publish", 128, 64)?.rate;
        assert_eq!(rate("Crossdock").map(|rate| rate.median), Some(300.0));
        assert_eq!(rate("JetStream").map(|rate| rate.median), Some(100.0));
        assert_eq!((now.results.len(), now.systems.len()), (2, 2));
        let first = &now.bars[0];
        assert_eq!((first.met, first.measured.as_str()), (Some(true), "3.00x"));
        assert!(now.in_pieces);
        let mut later = results(&["JetStream"], 200.0);
        later.add(now);
        let order: Vec<&str> = later.systems.iter().map(|system| system.system.as_str()).collect();
        assert_eq!(order, ["Crossdock", "JetStream"], "as they were before");
    }
}
