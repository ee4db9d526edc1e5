//! One round: a load on a broker to which things happen, then peace, then judgement.

use std::path::Path;
use std::time::Duration;

use crossdock_topics::{Durability, Error, Expect, Result, SharedBroker};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::child::Child;
use crate::faults::{Fault, Plan};
use crate::history::{Event, Found};
use crate::judge::{Rule, Together, Violation, judge};
use crate::load::{Load, Shared, Work};
use crate::{Options, Report, damage};

/// How many copies are damaged in a round.
const DAMAGES: usize = 3;

/// The broker, and what is known of its process.
pub(crate) struct Ground<'a> {
    pub(crate) options: &'a Options,
    pub(crate) data: &'a Path,
    pub(crate) child: Option<Child>,
    pub(crate) port: u16,
}

impl Ground<'_> {
    /// Starts the process, where it listened before.
    pub(crate) async fn start(&mut self, file_limit: Option<u64>) -> Result<()> {
        let child = Child::start(&self.options.launch, self.data, self.port, file_limit).await?;
        self.port = child.address.port();
        self.child = Some(child);
        Ok(())
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    pub(crate) async fn connect(&self) -> Result<SharedBroker> {
        let Some(child) = &self.child else { return Err(Error::internal("no broker was started")) };
        (self.options.connect)(child.address).await
    }

    /// Lets things happen to the broker until `end`. It is up and has room again afterwards.
    async fn suffer(
        &mut self,
        plan: &mut Plan,
        end: Instant,
        broker: &SharedBroker,
        report: &mut Report,
    ) -> Result<()> {
        while let Some((peace, fault)) = plan.next() {
            if Instant::now() + peace > end {
                break;
            }
            tokio::time::sleep(peace).await;
            match fault {
                Fault::Suspend(length) => {
                    report.suspensions += 1;
                    if let Some(child) = &self.child {
                        child.suspend(length).await;
                    }
                }
                Fault::Kill => {
                    report.kills += 1;
                    self.kill().await;
                    self.start(None).await?;
                }
                Fault::Full(length, bytes) => {
                    report.full_disks += 1;
                    report.kills += 2;
                    self.kill().await;
                    let refused = match self.start(Some(bytes)).await {
                        Ok(()) => {
                            tokio::time::sleep(length).await;
                            refuses(broker).await
                        }
                        // Recovery itself may need room.
                        Err(_) => true,
                    };
                    report.writes_refused += u64::from(refused);
                    self.kill().await;
                    self.start(None).await?;
                }
            }
        }
        tokio::time::sleep_until(end).await;
        Ok(())
    }
}

/// Whether the broker answers that it writes nothing.
async fn refuses(broker: &SharedBroker) -> bool {
    let put = broker.put("verify/probe", bytes::Bytes::from_static(b"x"), Expect::Any, None);
    matches!(tokio::time::timeout(Duration::from_secs(2), put).await, Ok(Err(_)))
}

/// Runs one round until about `end`.
///
/// # Errors
/// When it could not be run: the folder cannot be written, or the broker does not start, or does not answer for long.
pub(crate) async fn run(
    ground: &mut Ground<'_>,
    number: u64,
    plan: &mut Plan,
    end: Instant,
    report: &mut Report,
) -> Result<Vec<Event>> {
    let seed = ground.options.seed;
    let broker = ground.connect().await?;
    let work = Work {
        brokers: vec![broker.clone()],
        seed,
        round: number,
        prefix: format!("verify.{number}"),
        durability: Durability::Fsync,
        together: Together::InOneWrite,
    };
    let mut load = Load::start(work).await?;
    ground.suffer(plan, end, &broker, report).await?;
    load.stop_publishing().await;
    let stuck = load.drain().await.err();
    let (shared, found) = load.finish().await?;
    let mut violations: Vec<Violation> =
        stuck.into_iter().map(|what| Violation { rule: Rule::Stuck, what }).collect();
    if ground.options.faults.corrupt && violations.is_empty() {
        violations.extend(damages(ground, number, &shared, &found, report).await?);
    }
    let shared = if violations.is_empty() {
        let fresh = shared.on(ground.connect().await?);
        fresh.clear().await?;
        shared
    } else {
        shared
    };
    broker.close().await;
    let Some(shared) = std::sync::Arc::into_inner(shared) else {
        return Err(Error::internal("a part of the load goes on after its end"));
    };
    let (events, wrong) = shared.history.into_parts();
    violations.extend(wrong.into_iter().map(|what| Violation { rule: Rule::WrongBytes, what }));
    violations.extend(judge(&events, &found, Together::InOneWrite));
    report.counts.add(&events);
    report.rounds += 1;
    report.losses += violations.iter().filter(|violation| violation.rule.is_loss()).count() as u64;
    report.violations.extend(violations);
    Ok(events)
}

/// Damages copies of what the round left. The broker is down meanwhile.
async fn damages(
    ground: &mut Ground<'_>,
    number: u64,
    shared: &Shared,
    found: &Found,
    report: &mut Report,
) -> Result<Vec<Violation>> {
    let mut dice = StdRng::seed_from_u64(ground.options.seed ^ (number << 32) ^ 0xDA3A6E);
    let Options { launch, connect, .. } = ground.options;
    ground.kill().await;
    report.kills += 1;
    let mut violations = Vec::new();
    for number in 0..=DAMAGES {
        let dice = (number > 0).then_some(&mut dice);
        let tried =
            damage::trial(launch, connect, ground.data, shared, found, dice, &mut report.damages).await;
        violations.extend(tried.map_err(|cause| Error::internal(format!("cannot copy the data: {cause}")))?);
    }
    ground.start(None).await?;
    Ok(violations)
}

/// How long a round is.
pub(crate) const LENGTH: Duration = Duration::from_secs(10);
