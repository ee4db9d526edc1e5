//! One service on this server: what its record asks for, and what runs.

use std::time::{Duration, SystemTime};

use crossdock_config::{Handler, ServiceRecord, ServiceState, ServiceStatus, keys};
use crossdock_topics::{Error, ErrorCode, Expect, Result, ServiceName};
use tokio::sync::watch;

use crate::deploy::{is_intact, subscription};
use crate::failures::missing;
use crate::launch::Workshop;
use crate::logs::Logs;
use crate::pool::{Plan, Pool, Standing};
use crate::status::Statuses;

/// How long a pool that is replaced is given to end what it holds, beyond its longest call.
const DRAIN: Duration = Duration::from_secs(30);
/// Changes of the number of processes are reported at most so often.
const REPORT: Duration = Duration::from_millis(200);

/// Keeps a service as its record says, until the shutdown begins.
pub(crate) struct Service {
    workshop: Workshop,
    name: ServiceName,
    statuses: Statuses,
    logs: Option<Logs>,
    running: Option<Running>,
    reported: Option<ServiceStatus>,
    /// How often the processes were started again of a pool that was given up.
    restarts: u32,
}

/// The pool that takes calls.
struct Running {
    record: ServiceRecord,
    pool: Pool,
    standing: watch::Receiver<Standing>,
}

impl Service {
    pub(crate) fn new(workshop: Workshop, name: ServiceName, statuses: Statuses) -> Self {
        Self { workshop, name, statuses, logs: None, running: None, reported: None, restarts: 0 }
    }

    /// Follows the record: each change is carried out before the next is looked at, the newest only.
    pub(crate) async fn run(mut self, mut wanted: watch::Receiver<Option<ServiceRecord>>) {
        let shutdown = self.workshop.shutdown.clone();
        while !shutdown.has_started() {
            let record = wanted.borrow_and_update().clone();
            match record {
                Some(record) => self.follow(record).await,
                None => self.forget().await,
            }
            loop {
                tokio::select! {
                    changed = wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return self.stop(DRAIN).await,
                    },
                    () = Self::standing_changed(&mut self.running) => {
                        self.look().await;
                        tokio::time::sleep(REPORT).await;
                    }
                    () = shutdown.started() => break,
                }
            }
        }
        self.stop(DRAIN).await;
    }

    /// The service was removed. Should it come back, that is a new one.
    async fn forget(&mut self) {
        self.stop(DRAIN).await;
        self.statuses.withdraw(&self.workshop.options.server, &self.name);
        (self.logs, self.reported, self.restarts) = (None, None, 0);
    }

    async fn standing_changed(running: &mut Option<Running>) {
        match running {
            Some(running) => {
                if running.standing.changed().await.is_ok() {
                    return;
                }
                std::future::pending().await
            }
            None => std::future::pending().await,
        }
    }

    /// Makes what runs be what the record says.
    async fn follow(&mut self, record: ServiceRecord) {
        if record.paused {
            self.stop(DRAIN).await;
            self.report(&record.current, ServiceState::Paused, None);
            return;
        }
        let same = self.running.as_ref().is_some_and(|running| {
            running.record.current == record.current
                && running.record.settings == record.settings
                && running.standing.borrow().given_up.is_none()
        });
        if same {
            self.look().await;
            return;
        }
        self.report(&record.current, ServiceState::Starting, None);
        match self.start(&record).await {
            Ok(pool) => {
                self.restarts = 0;
                let old = self.running.take();
                let standing = pool.standing();
                self.running = Some(Running { record, pool, standing });
                self.look().await;
                self.tell_leftovers().await;
                if let Some(old) = old {
                    // Both take calls for a moment, so that none finds nobody. The old one ends what it holds.
                    let grace = DRAIN + old.record.settings.timeout;
                    let shutdown = self.workshop.shutdown.clone();
                    let stop = async move { old.pool.stop(grace, &shutdown).await };
                    self.workshop.shutdown.tasks().spawn(stop);
                }
            }
            Err(error) => {
                let instead = match &self.running {
                    Some(running) => format!("; version {} goes on", running.record.current),
                    None => String::new(),
                };
                tracing::warn!(service = %self.name, version = record.current, %error, "cannot start a service");
                if let Some(logs) = &self.logs {
                    logs.system(&record.current, format!("the version cannot be started: {error}{instead}"));
                }
                self.report(&record.current, ServiceState::Failed, Some(format!("{error}{instead}")));
            }
        }
    }

    async fn start(&mut self, record: &ServiceRecord) -> Result<Pool> {
        let workshop = self.workshop.clone();
        let broker = workshop.broker.clone();
        let logs = match &self.logs {
            Some(logs) => logs.clone(),
            None => {
                let server = &workshop.options.server;
                let logs = Logs::open(broker.clone(), &self.name, server, &workshop.shutdown).await?;
                self.logs.insert(logs).clone()
            }
        };
        let code = broker.get(&keys::code(&record.current)).await?;
        let source = code.ok_or_else(|| Error::not_found("code of version", &record.current))?.value;
        if !is_intact(&record.current, &source) {
            return Err(Error::internal(format!("the code of version {} is damaged", record.current))
                .hint("deploy it again"));
        }
        let spec = workshop.spec(&self.name, source.to_vec(), &record.settings, false).await?;
        let pool = Pool::start(Plan {
            broker,
            service: self.name.clone(),
            settings: record.settings.clone(),
            spec,
            beacon: workshop.folder.beacon(),
            logs,
        })
        .await?;
        let opened = match self.subscribe(record).await {
            Ok(()) => pool.open().await,
            error => error,
        };
        if let Err(error) = opened {
            pool.stop(Duration::ZERO, &workshop.shutdown).await;
            return Err(error);
        }
        Ok(pool)
    }

    /// Makes the subscriptions that the version needs and that someone has removed since it was deployed.
    async fn subscribe(&self, record: &ServiceRecord) -> Result<()> {
        let broker = &self.workshop.broker;
        let handlers = record.running().map(|version| version.manifest.handlers.as_slice());
        for handler in handlers.unwrap_or_default() {
            let Handler::Consume { subscription: name, .. } = handler else { continue };
            if broker.subscription(name).await.is_err_and(|e| e.code == ErrorCode::NotFound) {
                let made = broker.put_subscription(subscription(handler, None)?, Expect::Absent).await;
                made.map(drop).or_else(|e| if e.code == ErrorCode::Conflict { Ok(()) } else { Err(e) })?;
            }
        }
        Ok(())
    }

    /// Names in the log what earlier versions have left behind, since it holds back the retention of its topics.
    async fn tell_leftovers(&self) {
        let (Some(running), Some(logs)) = (&self.running, &self.logs) else { return };
        match self.workshop.leftovers(&running.record).await {
            Ok(leftovers) => {
                for name in leftovers {
                    let line = format!(
                        "subscription {name} of an earlier version is not consumed any more, and what it has not \
                         read is kept; if nobody else reads from it: crossdock sub rm {name}"
                    );
                    logs.system(&running.record.current, line);
                }
            }
            Err(error) => tracing::warn!(service = %self.name, %error, "cannot look for leftovers"),
        }
    }

    async fn stop(&mut self, grace: Duration) {
        if let Some(running) = self.running.take() {
            running.pool.stop(grace, &self.workshop.shutdown).await;
        }
    }

    /// Reports how what runs stands; a pool that was given up is ended.
    async fn look(&mut self) {
        let Some(running) = &mut self.running else { return };
        let standing = running.standing.borrow_and_update().clone();
        let version = running.record.current.clone();
        match standing.given_up {
            Some(reason) => {
                self.stop(Duration::ZERO).await;
                self.restarts = standing.restarts;
                self.report(&version, ServiceState::Paused, Some(reason));
            }
            None => {
                let missing: Vec<_> = standing.missing.iter().map(missing).collect();
                let reason = (!missing.is_empty()).then(|| missing.join("; "));
                let state = if standing.ready == 0 { ServiceState::Starting } else { ServiceState::Running };
                self.report(&version, state, reason);
            }
        }
    }

    fn report(&mut self, version: &str, state: ServiceState, reason: Option<String>) {
        let before = self.reported.as_ref().filter(|b| b.state == state && b.version == version);
        let since = before.map_or_else(|| SystemTime::now().into(), |before| before.since);
        let standing = self.running.as_ref().map(|r| r.standing.borrow().clone());
        let standing = standing.unwrap_or(Standing { restarts: self.restarts, ..Standing::default() });
        let status = ServiceStatus {
            service: self.name.clone(),
            server: self.workshop.options.server.clone(),
            version: version.to_owned(),
            state,
            reason,
            processes: standing.ready,
            restarts: standing.restarts,
            since,
        };
        self.reported = Some(status.clone());
        self.statuses.report(status);
    }
}
