//! The processes of one version of a service, kept alive.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock_config::{Handler, Manifest, ServiceSettings};
use crossdock_topics::{Backoff, Broker, Error, Result, ServiceName, Shutdown, SubscriptionName};
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::consumer::Consumer;
use crate::conversation::{End, Setting, converse};
use crate::dispatch::Dispatch;
use crate::failures::Failures;
use crate::intake::Intake;
use crate::logs::Logs;
use crate::process::{Process, Spec};

/// After crashes of this weight within [`WITHIN`] and nothing done between them, a service is given up.
const TOO_MANY: u32 = 10;
/// A crash while a call runs weighs 1: the message it ran for counts a failure and goes to the dead letters in
/// the end, which must not stop the others. A process that does not even become ready weighs 2.
const UNREADY: u32 = 2;
const WITHIN: Duration = Duration::from_secs(60);
/// How long processes may take to end when they have nothing to do.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// How long to wait before a process is started again.
const RESTART: Backoff =
    Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(2) };

/// How a pool stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How many processes are ready.
    pub(crate) ready: u32,
    /// How often one had to be started again.
    pub(crate) restarts: u32,
    /// Why it was given up.
    pub(crate) given_up: Option<String>,
    /// Subscriptions that someone has deleted: nothing comes from them until they are back.
    pub(crate) missing: BTreeSet<SubscriptionName>,
}

/// What a pool is made of.
pub(crate) struct Plan {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) service: ServiceName,
    pub(crate) settings: ServiceSettings,
    pub(crate) spec: Spec,
    /// A name for the processes' beacons that no other pool has; the number of the process is added.
    pub(crate) beacon: PathBuf,
    pub(crate) logs: Logs,
}

/// A running pool. It takes messages and requests from [`Pool::open`] until [`Pool::stop`].
pub(crate) struct Pool {
    shared: Arc<Shared>,
    manifest: Manifest,
    in_order: bool,
    tasks: TaskTracker,
    standing: watch::Receiver<Standing>,
}

struct Shared {
    plan: Plan,
    dispatch: Arc<Dispatch>,
    crashes: Mutex<Crashes>,
    standing: watch::Sender<Standing>,
    /// Cancelled when nothing more is to be taken in,
    stop: CancellationToken,
    /// then when the processes are to end what they hold and go,
    drain: CancellationToken,
    /// and then when they are to be killed.
    kill: CancellationToken,
}

impl Pool {
    /// Starts all processes and waits until they are ready. Nothing is taken in yet.
    ///
    /// # Errors
    /// Those of [`Process::start`], of the first process that cannot be started. The others are ended.
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let specs: Vec<_> = (0..plan.settings.processes).map(|number| plan.spec_of(number)).collect();
        let processes = try_join_all(specs.iter().map(|spec| Process::start(spec, &plan.logs))).await?;
        let first = processes.first().ok_or_else(|| Error::internal("a pool without processes"))?;
        let (manifest, in_order) = (first.manifest.clone(), first.in_order);
        let ready = u32::try_from(processes.len()).unwrap_or(u32::MAX);
        let (sender, standing) = watch::channel(Standing { ready, ..Standing::default() });
        let timeouts = manifest.handlers.iter().map(|h| h.timeout().unwrap_or(plan.settings.timeout));
        let shortest = timeouts.min().unwrap_or(plan.settings.timeout);
        let (drain, kill) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let dispatch = Arc::new(Dispatch::new(plan.service.clone()));
        let setting = Setting {
            broker: plan.broker.clone(),
            dispatch: dispatch.clone(),
            tasks: tasks.clone(),
            glance: (shortest / 8).clamp(Duration::from_millis(5), Duration::from_secs(1)),
            drain: drain.clone(),
            kill: kill.clone(),
        };
        let stop = CancellationToken::new();
        let crashes = Mutex::default();
        let shared = Arc::new(Shared { plan, dispatch, crashes, standing: sender, stop, drain, kill });
        for (process, spec) in processes.into_iter().zip(specs) {
            tasks.spawn(shared.clone().keep(setting.clone(), process, spec));
        }
        Ok(Self { shared, manifest, in_order, tasks, standing })
    }

    /// Begins to take messages and requests.
    ///
    /// # Errors
    /// Those of [`crossdock_topics::Requests::serve`].
    pub(crate) async fn open(&self) -> Result<()> {
        let plan = &self.shared.plan;
        let by = format!("{}@{}", plan.service, plan.spec.start.version);
        for (number, handler) in self.manifest.handlers.iter().enumerate() {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            let timeout = handler.timeout().unwrap_or(plan.settings.timeout);
            let stop = self.shared.stop.clone();
            let dispatch = self.shared.dispatch.clone();
            match handler {
                Handler::Serve { name, .. } => {
                    let name = name.as_ref().unwrap_or(&plan.service);
                    let intake = Intake::open(&*plan.broker, name, dispatch, number, timeout, stop).await?;
                    self.tasks.spawn(intake.run());
                }
                Handler::Consume { subscription, concurrency, .. } => {
                    let beside = (plan.settings.processes * concurrency) as usize;
                    let consumer = Consumer {
                        broker: plan.broker.clone(),
                        dispatch,
                        subscription: subscription.clone(),
                        handler: number,
                        timeout,
                        credit: (!self.in_order).then_some(beside),
                        failures: Failures {
                            logs: plan.logs.clone(),
                            version: plan.spec.start.version.clone(),
                        },
                        standing: self.shared.standing.clone(),
                        by: by.clone(),
                        stop,
                    };
                    self.tasks.spawn(consumer.run());
                }
            }
        }
        Ok(())
    }

    /// How it stands, and as it changes.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Takes nothing more, ends what it holds, and then its processes; what is not done within `grace` is given
    /// back.
    pub(crate) async fn stop(self, grace: Duration, shutdown: &Shutdown) {
        let Shared { plan, dispatch, stop, drain, kill, .. } = &*self.shared;
        stop.cancel();
        // When everything is to end, there is less time; some of it is kept to settle what is given back.
        let hurry = async {
            shutdown.started().await;
            tokio::time::sleep(shutdown.grace().mul_f64(0.6)).await;
        };
        tokio::select! {
            () = dispatch.idle() => {}
            () = tokio::time::sleep(grace) => {}
            () = hurry => {}
        }
        drain.cancel();
        dispatch.clear();
        self.tasks.close();
        // A process that has nothing to do ends at once; one that has cannot be waited for any longer.
        if tokio::time::timeout(LEAVE_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!(service = %plan.service, "processes that do not end are killed");
            kill.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Plan {
    /// How the process of this number is started.
    fn spec_of(&self, number: u32) -> Spec {
        let mut spec = self.spec.clone();
        let mut beacon = self.beacon.clone().into_os_string();
        beacon.push(format!(".{number}"));
        spec.start.beacon = Some(beacon.to_string_lossy().into_owned());
        spec
    }
}

impl Shared {
    /// Keeps one process alive until the pool stops, or is given up.
    async fn keep(self: Arc<Self>, setting: Setting, process: Process, spec: Spec) {
        let mut process = Some(process);
        let mut failures = 0;
        loop {
            let crash = match process.take() {
                Some(process) => {
                    let End { crash, done } = converse(setting.clone(), process, spec.beacon()).await;
                    self.standing.send_modify(|standing| standing.ready -= 1);
                    let Some(reason) = crash else { break };
                    if done > 0 {
                        failures = 0;
                        self.crashes.lock().forget();
                    }
                    (1, reason)
                }
                None => {
                    let started = tokio::select! {
                        started = Process::start(&spec, &self.plan.logs) => started,
                        () = self.stop.cancelled() => break,
                    };
                    match started {
                        Ok(started) => {
                            self.standing.send_modify(|standing| standing.ready += 1);
                            process = Some(started);
                            continue;
                        }
                        Err(error) => (UNREADY, error.to_string()),
                    }
                }
            };
            let (weight, reason) = crash;
            self.plan.logs.system(&spec.start.version, reason.clone());
            tracing::warn!(service = %self.plan.service, reason, "a service's process has ended");
            if self.crashes.lock().add(weight, Instant::now()) {
                self.give_up(&reason);
                break;
            }
            failures += 1;
            self.standing.send_modify(|standing| standing.restarts += 1);
            tokio::select! {
                () = tokio::time::sleep(RESTART.wait(failures, rand::random::<u64>())) => {}
                () = self.stop.cancelled() => break,
            }
        }
        if let Some(beacon) = spec.beacon() {
            let _ = std::fs::remove_file(beacon);
        }
        if self.standing.borrow().ready == 0 {
            self.dispatch.clear(); // nobody is left to do it
        }
    }

    fn give_up(&self, reason: &str) {
        let within = WITHIN.as_secs();
        let service = &self.plan.service;
        let why = format!(
            "paused: its processes crashed too often within {within} s; deploy a version that works, or start it \
             again with `crossdock service resume {service}`; the last crash: {reason}"
        );
        self.plan.logs.system(&self.plan.spec.start.version, why.clone());
        self.standing.send_modify(|standing| {
            standing.given_up.get_or_insert(why);
        });
        self.stop.cancel();
        self.drain.cancel();
    }
}

/// The crashes of a pool's processes since one of them last got something done.
#[derive(Debug, Default)]
struct Crashes(VecDeque<(Instant, u32)>);

impl Crashes {
    /// Gives whether there have been too many.
    fn add(&mut self, weight: u32, now: Instant) -> bool {
        self.0.push_back((now, weight));
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WITHIN) {
            self.0.pop_front();
        }
        self.0.iter().map(|(_, weight)| weight).sum::<u32>() >= TOO_MANY
    }

    fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_too_many_when_nothing_is_done_between_them() {
        let now = Instant::now();
        let mut crashes = Crashes::default();
        assert!((0..9).all(|_| !crashes.add(1, now)));
        assert!(crashes.add(1, now));
        crashes.forget();
        assert!((0..4).all(|_| !crashes.add(UNREADY, now)));
        assert!(crashes.add(UNREADY, now));
        assert!(!crashes.add(UNREADY, now + WITHIN * 2), "what lies far back does not count");
    }
}
