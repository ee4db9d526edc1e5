//! A run: what the disk can do, then rounds until the time is over.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crossdock_topics::{Error, Result};
use tokio::time::Instant;

use crate::faults::Plan;
use crate::history::Event;
use crate::judge::Violation;
use crate::round::{self, Ground};
use crate::{Options, Report, disk, rate};

/// What is told while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// The disk and the rate are known.
    Measured(&'a Report),
    /// A round was judged.
    Round(&'a Report),
}

/// Verifies a broker. Ends early with the first round in which a promise was broken; the folder is left then, with the
/// history beside the data.
///
/// # Errors
/// When it could not be done: the folder is in use or cannot be written, the broker does not start (again) or does not
/// answer for long. The folder is left then too.
pub async fn run(options: &Options, tell: impl Fn(Progress<'_>)) -> Result<Report> {
    let began = Instant::now();
    let deadline = began + options.length;
    let in_folder = |cause: std::io::Error| {
        Error::invalid(format!("cannot use {} for the data: {cause}", options.folder.display()))
    };
    fs::create_dir_all(&options.folder).map_err(in_folder)?;
    if fs::read_dir(&options.folder).map_err(in_folder)?.next().is_some() {
        return Err(Error::invalid(format!("{} is not empty", options.folder.display()))
            .hint("name a folder that is, or remove what an earlier run left there"));
    }
    let mut report = Report { seed: options.seed, ..Report::default() };
    let data = options.folder.join("data");
    let mut ground = Ground { options, data: &data, child: None, port: 0 };
    measure(&mut ground, &mut report, in_folder).await?;
    tell(Progress::Measured(&report));

    let mut plan = Plan::new(options.faults, options.seed);
    while Instant::now() < deadline && report.violations.is_empty() {
        let end = deadline.min(Instant::now() + round::LENGTH);
        let events = round::run(&mut ground, report.rounds, &mut plan, end, &mut report).await?;
        report.seconds = began.elapsed().as_secs_f64();
        if !report.violations.is_empty() {
            leave(&options.folder, &events, &report.violations).map_err(in_folder)?;
        }
        tell(Progress::Round(&report));
    }
    ground.kill().await;
    if report.violations.is_empty() {
        fs::remove_dir_all(&options.folder).map_err(in_folder)?;
    }
    Ok(report)
}

/// Measures the disk by itself and with a broker on it, for a fifth of the time together.
async fn measure(
    ground: &mut Ground<'_>,
    report: &mut Report,
    in_folder: impl Fn(std::io::Error) -> Error,
) -> Result<()> {
    let fifth = (ground.options.length / 5).min(Duration::from_secs(12));
    let folder = ground.options.folder.clone();
    let probe = fifth.div_f64(4.0);
    let times = tokio::task::spawn_blocking(move || disk::measure(&folder, probe)).await;
    let times = times.map_err(|cause| Error::internal(cause.to_string()))?.map_err(&in_folder)?;
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    report.fsync_p50_ms = milliseconds(times.percentile(50));
    report.fsync_p99_ms = milliseconds(times.percentile(99));

    ground.start(None).await?;
    let broker = ground.connect().await?;
    let bound = (5 * times.percentile(99)).max(Duration::from_millis(25));
    let rate = rate::measure(&broker, bound, fifth - probe).await?;
    broker.close().await;
    report.safe_rate = rate.per_second;
    report.safe_rate_p99_ms = milliseconds(rate.p99);
    report.safe_rate_bound_ms = milliseconds(bound);
    Ok(())
}

/// Writes what was seen and what was wrong beside the data.
pub(crate) fn leave(folder: &Path, events: &[Event], violations: &[Violation]) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(folder.join("history.txt"))?);
    for event in events {
        writeln!(file, "{event:?}")?;
    }
    file.flush()?;
    let mut file = std::io::BufWriter::new(fs::File::create(folder.join("violations.txt"))?);
    for violation in violations {
        writeln!(file, "{}: {}", violation.rule, violation.what)?;
    }
    file.flush()
}
