//! Verification of a broker that belongs to somebody: a load and its judgement, and nothing is done to the broker but that.
//! Whoever runs it may kill servers meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Durability, Error, ErrorCode, Expect, Result, SharedBroker, Topic};
use serde::Serialize;
use tokio::time::Instant;

use crate::judge::{Rule, Together, Violation, judge, tally};
use crate::load::{Load, Work, gone, patiently};
use crate::pace::{Answers, What};
use crate::report::Counts;
use crate::run::leave;

/// How long a round is.
const ROUND: Duration = Duration::from_secs(20);

/// What is verified, and for how long.
pub struct Observing {
    /// The ways to one broker. The load is spread over them.
    pub brokers: Vec<SharedBroker>,
    /// What all choices come from; part of the names of the topics and subscriptions that are made.
    pub seed: u64,
    /// How long it takes, but for the end of the last round.
    pub length: Duration,
    /// Where what was seen is written when a promise was broken.
    pub folder: PathBuf,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Observed {
    /// What all choices came from.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// How many times a load was run, drained and judged.
    pub rounds: u64,
    /// What was done.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages that are gone and should not be.
    pub losses: u64,
    /// Every promise that was broken.
    pub violations: Vec<Violation>,
    /// How long batches took to be acknowledged.
    pub publishing: Pace,
    /// How long settlements took.
    pub settling: Pace,
}

/// How soon something was answered.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pace {
    /// Half took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// The longest time that any of those who asked was not answered.
    pub longest_outage_ms: f64,
}

impl Observed {
    /// What was broken, how often, in words.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        tally(&self.violations).into_iter().map(|(rule, count)| format!("{count} {rule}")).collect()
    }
}

impl From<&Answers> for Pace {
    fn from(answers: &Answers) -> Self {
        Self {
            p50_ms: answers.took.quantile_ms(0.5),
            p99_ms: answers.took.quantile_ms(0.99),
            longest_outage_ms: answers.outage.as_secs_f64() * 1000.0,
        }
    }
}

/// Verifies a broker until the time is over, or `stop` resolves, and removes what it made. Ends early with the first round
/// in which a promise was broken; that round's topics are left then, and what was seen is written down.
///
/// # Errors
/// When it could not be done, such as when the broker does not answer for minutes.
pub async fn observe(
    options: &Observing,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(&Observed),
) -> Result<Observed> {
    let began = Instant::now();
    let deadline = began + options.length;
    let durability = durability(options).await?;
    let mut report = Observed { seed: options.seed, ..Observed::default() };
    let (mut publishing, mut consuming) = (Answers::default(), Answers::default());
    let (mut is_stopped, mut stop) = (false, std::pin::pin!(stop));
    while Instant::now() < deadline && !is_stopped && report.violations.is_empty() {
        let prefix = prefix(options, report.rounds);
        let work = || Work {
            brokers: options.brokers.clone(),
            seed: options.seed,
            round: report.rounds,
            prefix: prefix.clone(),
            durability,
            together: Together::OutputsFirst,
        };
        let mut load = patiently(async || Load::start(work()).await).await?;
        tokio::select! {
            () = tokio::time::sleep_until(deadline.min(Instant::now() + ROUND)) => {}
            () = &mut stop => is_stopped = true,
        }
        load.stop_publishing().await;
        let stuck = load.drain().await.err();
        let (shared, found) = load.finish().await?;
        shared.pace.add_to(What::Publishing, &mut publishing);
        shared.pace.add_to(What::Consuming, &mut consuming);
        let mut violations: Vec<Violation> =
            stuck.into_iter().map(|what| Violation { rule: Rule::Stuck, what }).collect();
        let shared = Arc::into_inner(shared);
        let shared = shared.ok_or_else(|| Error::internal("a part of the load goes on after its end"))?;
        let (events, wrong) = shared.history.take();
        violations.extend(wrong.into_iter().map(|what| Violation { rule: Rule::WrongBytes, what }));
        violations.extend(judge(&events, &found, Together::OutputsFirst));
        if violations.is_empty() {
            patiently(async || shared.clear().await).await?;
        } else {
            std::fs::create_dir_all(&options.folder)
                .and_then(|()| leave(&options.folder, &events, &violations))
                .map_err(|cause| {
                    Error::internal(format!("cannot write to {}: {cause}", options.folder.display()))
                })?;
        }
        report.counts.add(&events);
        report.rounds += 1;
        report.losses += violations.iter().filter(|violation| violation.rule.is_loss()).count() as u64;
        report.violations.extend(violations);
        report.seconds = began.elapsed().as_secs_f64();
        (report.publishing, report.settling) = (Pace::from(&publishing), Pace::from(&consuming));
        tell(&report);
    }
    Ok(report)
}

/// What the names of a round begin with.
fn prefix(options: &Observing, round: u64) -> String {
    format!("verify-{}.{round}", options.seed)
}

/// `fsync`, or `os` where the broker gives no more.
async fn durability(options: &Observing) -> Result<Durability> {
    let Some(broker) = options.brokers.first() else { return Err(Error::invalid("no broker was named")) };
    for durability in [Durability::Fsync, Durability::Os] {
        let topic = Topic { durability, ..Topic::new(format!("{}.probe", prefix(options, 0)).parse()?) };
        let made = patiently(async || broker.put_topic(topic.clone(), Expect::Any).await).await;
        match made {
            Ok(_) => {
                patiently(async || gone(broker.delete_topic(&topic.name).await)).await?;
                return Ok(durability);
            }
            Err(error) if error.code == ErrorCode::InvalidArgument && durability == Durability::Fsync => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Durability::Os)
}
