//! Torture for a broker on the user's own disk, or a load on one that is there, and the judgement of what it did.

mod broker;
mod running;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use crossdock_broker::{Remote, RemoteOptions};
use crossdock_topics::time::human;
use crossdock_topics::{Error, SharedBroker};
use crossdock_verify::{Connect, Damages, Faults, Launch, Options, Progress, Report};
use serde::Serialize;

use super::Caller;
use crate::failure::Result;
use crate::output::{Show, say};

pub(super) use broker::Arguments as Broker;

/// Torture a broker, and check that it keeps its word
#[derive(Debug, Args)]
#[command(after_help = "\
Starts a broker in a process of its own on a new folder, lets publishers and
consumers work on it over TCP, and then holds what they saw against what is
there: no acknowledged message is lost, none is seen before it is durable, the
order of keys is kept, no acknowledged settlement comes undone, outputs and
acknowledgement are there together or not at all. The folder is removed, unless
something was wrong; then the exit code is 1.

With --broker nothing is started or killed: the load works on a broker that is
there, in topics of its own, which are removed at the end. Kill your servers
meanwhile, cut their network, take their disks: nothing may be lost. It says how
long things took, and for how long nothing was answered.

Examples:
  crossdock verify --crash
  crossdock verify --for 10m --crash --disk-full --corrupt --directory /data/verify
  crossdock verify --broker nats://a,b,c --for 10m
  crossdock verify --broker crossdock://s1:7402 --broker crossdock://s2:7402")]
pub(super) struct Arguments {
    /// What all choices are made from [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = length)]
    length: Duration,
    /// Kill the broker with SIGKILL again and again, and stop it for a while now and then
    #[arg(long)]
    crash: bool,
    /// Let the disk refuse to make files larger now and then
    #[arg(long)]
    disk_full: bool,
    /// Change bytes of copies of the data, and see what a broker makes of them
    #[arg(long)]
    corrupt: bool,
    /// The folder for the data, on the disk in question [default: crossdock-verify-SEED]
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
    /// Work on a broker that is there; several ways to the same one can be named
    #[arg(long, value_name = "URL", conflicts_with_all = ["crash", "disk_full", "corrupt"])]
    broker: Vec<String>,
    /// A file with credentials for the broker
    #[arg(long, value_name = "FILE", requires = "broker")]
    credentials: Option<PathBuf>,
    /// Send credentials where others can read them
    #[arg(long, requires = "broker")]
    insecure: bool,
}

fn length(text: &str) -> Result<Duration, String> {
    let length = human::parse(text)?;
    let sane = Duration::from_secs(5)..=Duration::from_secs(7 * 86_400);
    if sane.contains(&length) { Ok(length) } else { Err("it can be 5s to 7d".into()) }
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let seed = self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        if !self.broker.is_empty() {
            return running::run(&self, seed, caller).await;
        }
        let folder = self.directory.clone().unwrap_or_else(|| format!("crossdock-verify-{seed}").into());
        let program = std::env::current_exe()
            .map_err(|cause| Error::internal(format!("cannot find this program: {cause}")))?;
        let connect: Connect = Arc::new(|address| {
            Box::pin(async move {
                let options = RemoteOptions::new(&format!("crossdock://{address}"))?;
                Ok(Remote::connect(options).await? as SharedBroker)
            })
        });
        let options = Options {
            folder: folder.clone(),
            seed,
            length: self.length,
            faults: Faults { crash: self.crash, disk_full: self.disk_full, corrupt: self.corrupt },
            launch: Launch { program, arguments: vec!["verify-broker".into()] },
            connect,
        };
        let again = self.again(seed);
        say(&format!("the data goes to {}; to make the same choices again: {again}", folder.display()));
        let report = crossdock_verify::run(&options, |progress| tell(&progress))
            .await
            .map_err(|error| hinted(error, &folder, &again))?;
        caller.output.one(&Verdict(&report))?;
        if report.violations.is_empty() {
            return Ok(());
        }
        let first: Vec<_> =
            report.violations.iter().take(3).map(|violation| violation.what.as_str()).collect();
        let broken =
            format!("promises were broken: {}. Such as: {}", report.broken().join(", "), first.join("; "));
        Err(hinted(Error::internal(broken), &folder, &again).into())
    }

    /// The command that makes the same choices. What happens between two of them is up to the machine.
    fn again(&self, seed: u64) -> String {
        let flags =
            [(self.crash, " --crash"), (self.disk_full, " --disk-full"), (self.corrupt, " --corrupt")];
        let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect();
        format!("crossdock verify --seed {seed} --for {}s{flags}", self.length.as_secs())
    }
}

fn hinted(error: Error, folder: &std::path::Path, again: &str) -> Error {
    if error.hint.is_some() {
        return error;
    }
    error.hint(format!(
        "what was seen is in {}: the data, the broker's log, and after a judgement history.txt and violations.txt; \
         to make the same choices again: {again}",
        folder.display()
    ))
}

fn tell(progress: &Progress<'_>) {
    match progress {
        Progress::Measured(report) => say(&format!(
            "the disk makes 4 KiB durable in {:.2} ms (p50) and {:.2} ms (p99); {} messages of 1 KiB a second are safe",
            report.fsync_p50_ms, report.fsync_p99_ms, report.safe_rate
        )),
        Progress::Round(report) => say(&format!(
            "{:4.0} s: {} rounds, {} kills, {} acknowledged, {} delivered, {} lost, {} violations",
            report.seconds,
            report.rounds,
            report.kills,
            report.counts.acknowledged,
            report.counts.deliveries,
            report.losses,
            report.violations.len()
        )),
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Verdict<'a>(&'a Report);

impl Show for Verdict<'_> {
    const COLUMNS: &'static [&'static str] =
        &["seed", "lost", "violations", "kills", "acknowledged", "safe rate"];

    fn row(&self) -> Vec<String> {
        let Report { seed, losses, violations, kills, counts, safe_rate, .. } = self.0;
        vec![
            seed.to_string(),
            losses.to_string(),
            violations.len().to_string(),
            kills.to_string(),
            counts.acknowledged.to_string(),
            format!("{safe_rate}/s"),
        ]
    }

    fn name(&self) -> String {
        self.0.seed.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let report = self.0;
        let Damages { refused, reported, harmless } = report.damages;
        vec![
            ("lost", report.losses.to_string()),
            (
                "violations",
                if report.violations.is_empty() { "0".into() } else { report.broken().join(", ") },
            ),
            ("seed", report.seed.to_string()),
            ("took", format!("{:.0} s, {} rounds", report.seconds, report.rounds)),
            ("kills", format!("{}, and stopped {} times", report.kills, report.suspensions)),
            (
                "full disks",
                format!("{}, in {} of which writes were refused", report.full_disks, report.writes_refused),
            ),
            (
                "damaged copies",
                format!("{refused} refused, {reported} reported on reading, {harmless} without harm"),
            ),
            (
                "messages",
                format!("{} published, {} acknowledged", report.counts.published, report.counts.acknowledged),
            ),
            (
                "deliveries",
                format!(
                    "{}, {} settlements acknowledged",
                    report.counts.deliveries, report.counts.settlements
                ),
            ),
            ("not answered", format!("{} calls, as the broker went away", report.counts.unanswered)),
            ("fsync", format!("p50 {:.2} ms, p99 {:.2} ms", report.fsync_p50_ms, report.fsync_p99_ms)),
            (
                "safe rate",
                format!(
                    "{} messages of 1 KiB a second: p99 {:.1} ms, of {:.1} ms allowed",
                    report.safe_rate, report.safe_rate_p99_ms, report.safe_rate_bound_ms
                ),
            ),
        ]
    }
}
