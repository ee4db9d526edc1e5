//! What Crossdock can do on this machine, beside what its disk and other brokers can: `make bench`.
//!
//! Every measurement is made in several rounds, all measurements of a kind side by side in each, so that a
//! machine that gets slower for a while does so for all. Written down are the medians, with the lowest and the highest.
//!
//! * `crossdock-bench`: the platform as a whole (in process, over HTTP, services, start, memory).
//! * `crossdock-bench peers`: Crossdock's broker side by side with others.

mod embedded;
mod file;
mod load;
mod machine;
mod peers;
mod platform;
mod report;
mod samples;
mod side;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use report::Report;

/// The error of a measurement: told to whoever ran it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measure Crossdock on this machine
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// One short round of everything: to see that it works, not what it can do
    #[arg(long)]
    quick: bool,
    /// How many rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how many seconds each measurement runs
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Only measurements whose name contains this: publish, consume, http, rest, ready, memory
    #[arg(long)]
    only: Option<String>,
    /// On which disk: a folder that exists
    #[arg(long, default_value = ".")]
    disk: PathBuf,
    /// Where to write results.json and results.md
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Generate load over HTTP: run by the measurements, in a process of its own
    Load(load::Arguments),
    /// Measure side by side with other brokers, each a process on this machine
    Peers(Peers),
    /// Draw the charts of a side by side run that was written before, and write its figures to the page
    Charts {
        /// What the run wrote
        #[arg(long, default_value = "bench/results.json")]
        results: PathBuf,
        /// The page; the charts go to the folder `charts` beside it
        #[arg(long, default_value = "docs/PERFORMANCE.md")]
        page: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Peers {
    /// A short run with few cells: to see that it works, not what they can do
    #[arg(long)]
    quick: bool,
    /// How many rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For how many seconds each figure is measured
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only works whose name contains one of these: publish-consume, latency, subscriptions, storm, topics, backlog
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only systems whose name contains one of these
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Only payloads of these sizes, in bytes
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Keep what the results hold of other measurements; what is measured again is replaced
    #[arg(long)]
    add: bool,
    /// On which disk: a folder that exists; every system keeps its data there
    #[arg(long, default_value = ".")]
    disk: PathBuf,
    /// The folder that `scripts/peers` filled
    #[arg(long, env = "CROSSDOCK_BENCH_PEERS", default_value = "peers")]
    peers: PathBuf,
    /// Begin nothing new after so many minutes
    #[arg(long, default_value_t = 90)]
    minutes: u64,
    /// Where to write the results
    #[arg(long, default_value = "bench/results.json")]
    results: PathBuf,
}

/// How long and how often to measure, and where.
#[derive(Clone, Debug)]
struct Plan {
    time: Duration,
    only: Option<String>,
    disk: PathBuf,
    quick: bool,
}

impl Plan {
    /// Whether a measurement of this name is asked for.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match &arguments.part {
        // The generator leaves as much of the machine as possible to what is measured.
        Some(Part::Load(_)) => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    };
    let run = |runtime: tokio::runtime::Runtime| match arguments.part {
        Some(Part::Load(ref load)) => runtime.block_on(load::run(load)),
        Some(Part::Peers(ref peers)) => runtime.block_on(side_by_side(peers)),
        Some(Part::Charts { ref results, ref page }) => side::draw(results, page),
        None => runtime.block_on(measure(&arguments)),
    };
    match runtime.map_err(Failure::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<(), Failure> {
    let (rounds, seconds) =
        if arguments.quick { (1, 0.5) } else { (arguments.rounds.max(1), arguments.seconds) };
    let plan = Plan {
        time: Duration::try_from_secs_f64(seconds)?,
        only: arguments.only.clone(),
        disk: arguments.disk.clone(),
        quick: arguments.quick,
    };
    let mut report = Report::new(machine::describe(&plan.disk), rounds, seconds);
    let mut failures = Vec::new();
    let mut note = |part: &str, done: Result<(), Failure>| {
        if let Err(failure) = done {
            eprintln!("bench: {part}: {failure}");
            failures.push(part.to_owned());
        }
    };
    for round in 1..=rounds {
        eprintln!("bench: round {round} of {rounds}");
        note("publish", embedded::publish(&plan, &mut report).await);
        note("consume", embedded::consume(&plan, &mut report).await);
        note("http", platform::over_http(&plan, &mut report).await);
        note("rest", platform::services(&plan, &mut report).await);
        note("ready", platform::ready(&plan, &mut report).await);
    }
    // Once, because it takes long and says the same each time.
    note("memory", platform::many_messages(&plan, &mut report).await);
    report.write(&arguments.results)?;
    if failures.is_empty() { Ok(()) } else { Err(format!("without {}", failures.join(", ")).into()) }
}

async fn side_by_side(peers: &Peers) -> Result<(), Failure> {
    let (rounds, seconds) = if peers.quick { (1, 0.7) } else { (peers.rounds.max(1), peers.seconds) };
    let options = side::Options {
        rounds,
        time: Duration::try_from_secs_f64(seconds)?,
        quick: peers.quick,
        only: peers.only.clone(),
        systems: peers.systems.clone(),
        sizes: peers.sizes.clone(),
        disk: peers.disk.clone(),
        peers: peers.peers.clone(),
        budget: Duration::from_secs(peers.minutes * 60),
    };
    // A task among the clients' own, as programs have them: on the runtime's first thread each message would wake
    // another thread to be sent, and this one to be acknowledged, whosever client it is.
    let mut measuring = tokio::task::JoinSet::new();
    measuring.spawn(async move { side::run(&options).await });
    // Whoever ends this early ends the servers too: they are killed when what runs them is dropped.
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        results = measuring.join_next() => {
            side::write(results.ok_or("nothing was measured")???, &peers.results, peers.add)
        }
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminated.recv() => Err("terminated".into()),
    }
}
