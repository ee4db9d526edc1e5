//! Deploying: a service's code is looked at in a process of its own, checked against what is there, and stored.

use std::time::{Duration, SystemTime};

use crossdock_config::{Handler, Manifest, ServiceRecord, ServiceSettings, ServiceVersion, keys};
use crossdock_topics::{
    Error, ErrorCode, Expect, Message, Request, Result, Revision, ServiceName, Shutdown, Subscription,
    SubscriptionName,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::launch::{Workshop, version};
use crate::logs::Logs;
use crate::process::Process;

/// The largest source of a service, in bytes.
const MAX_SOURCE: usize = 8 * 1024 * 1024;
/// Deployments that wait on one server; they are done one after another.
const QUEUE: usize = 16;
/// How often a record is written again when another deployment was faster.
const TRIES: usize = 10;

/// What is asked of `_workers.validate` and `_workers.deploy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    name: ServiceName,
    source: String,
    #[serde(default)]
    settings: ServiceSettings,
    #[serde(default)]
    by: String,
}

/// What they answer.
#[derive(Debug, Serialize)]
struct Done {
    version: String,
    manifest: Manifest,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
}

/// Answers the two requests until the shutdown begins.
///
/// # Errors
/// Those of [`crossdock_topics::Requests::serve`].
pub(crate) async fn serve(workshop: Workshop) -> Result<()> {
    let validations = workshop.broker.serve(&"_workers.validate".parse()?, QUEUE).await?;
    let deployments = workshop.broker.serve(&"_workers.deploy".parse()?, QUEUE).await?;
    let tasks = workshop.shutdown.tasks();
    tasks.spawn(answer(workshop.clone(), validations, false));
    tasks.spawn(answer(workshop.clone(), deployments, true));
    Ok(())
}

async fn answer(workshop: Workshop, mut requests: mpsc::Receiver<Request>, deploy: bool) {
    loop {
        let request = tokio::select! {
            request = requests.recv() => request,
            () = workshop.shutdown.started() => return,
        };
        let Some(Request { message, responder, .. }) = request else { return };
        if responder.is_abandoned() {
            continue;
        }
        let reply = match serde_json::from_slice::<Order>(&message.payload) {
            Err(cause) => Err(Error::invalid(format!("the order is not understood: {cause}"))),
            Ok(order) if deploy => workshop.deploy(order).await,
            Ok(order) => workshop.validate(&order).await,
        };
        responder.reply(reply.and_then(|done| {
            let body = serde_json::to_vec(&done).map_err(|cause| Error::internal(cause.to_string()))?;
            Ok(Message::json(body))
        }));
    }
}

impl Workshop {
    /// Imports the code in a process of its own and checks what it declares.
    async fn validate(&self, order: &Order) -> Result<Done> {
        let Order { name, source, settings, .. } = order;
        if name.as_str().starts_with('_') {
            return Err(Error::invalid(format!("{name:?} is kept for the system's own services"))
                .hint("choose a name that does not begin with '_'"));
        }
        if source.len() > MAX_SOURCE {
            let (code, length) = (ErrorCode::TooLarge, source.len());
            return Err(Error::new(
                code,
                format!("the source has {length} bytes, the limit is {MAX_SOURCE}"),
            ));
        }
        settings.check()?;
        crate::logs::topic(name)?;
        let spec = self.spec(name, source.clone().into_bytes(), settings, true).await?;
        let scratch = Shutdown::new(Duration::ZERO);
        let process = Process::start(&spec, &Logs::nowhere(&scratch)).await?;
        let manifest = process.manifest.clone();
        drop(process);
        scratch.drain().await;
        self.check(name, &manifest).await?;
        Ok(Done { version: spec.start.version, manifest, changed: None })
    }

    /// Whether what the code declares fits what is there.
    async fn check(&self, service: &ServiceName, manifest: &Manifest) -> Result<()> {
        let services = self.records().await?;
        for handler in &manifest.handlers {
            match handler {
                Handler::Consume { function, topics, .. } => {
                    subscription(handler, None)?.check()?;
                    for topic in topics.iter().filter_map(crossdock_topics::TopicPattern::literal) {
                        if self.broker.topic(&topic).await.is_err_and(|e| e.code == ErrorCode::NotFound) {
                            return Err(Error::new(
                                ErrorCode::NotFound,
                                format!("{function} consumes the topic {topic}, which does not exist"),
                            )
                            .hint(format!("make it first: crossdock topic create {topic}")));
                        }
                    }
                }
                Handler::Serve { function, name, .. } => {
                    let name = name.as_ref().unwrap_or(service);
                    let taken = services.iter().find(|other| other.name != *service && answers(other, name));
                    if name.as_str().starts_with('_') {
                        return Err(Error::invalid(format!(
                            "{function} answers to {name}, which is the system's own"
                        )));
                    }
                    if let Some(other) = taken {
                        return Err(Error::new(
                            ErrorCode::AlreadyExists,
                            format!(
                                "{function} answers to {name}, but the service {} does so already",
                                other.name
                            ),
                        )
                        .hint(format!(
                            "give it another name, or remove the other: crossdock service rm {}",
                            other.name
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    async fn deploy(&self, order: Order) -> Result<Done> {
        let Done { version, manifest, .. } = self.validate(&order).await?;
        self.broker.put(&keys::code(&version), order.source.clone().into(), Expect::Any, None).await?;
        for handler in &manifest.handlers {
            if let Handler::Consume { subscription: name, .. } = handler {
                let there = self.broker.subscription(name).await.ok().map(|info| info.subscription);
                self.broker.put_subscription(subscription(handler, there)?, Expect::Any).await?;
            }
        }
        for _ in 0..TRIES {
            let there = self.record(&order.name).await?;
            let expect = there.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::At(*revision));
            let there = there.map(|(record, _)| record);
            let new = ServiceVersion {
                version: version.clone(),
                deployed_at: SystemTime::now().into(),
                by: order.by.clone(),
                manifest: manifest.clone(),
            };
            let (record, dropped) = deployed(&order, there.as_ref(), new);
            if there.as_ref() == Some(&record) {
                return Ok(Done { version, manifest, changed: Some(false) });
            }
            let value = serde_json::to_vec(&record).map_err(|cause| Error::internal(cause.to_string()))?;
            match self.broker.put(&keys::service(&order.name), value.into(), expect, None).await {
                Ok(_) => {
                    self.forget(dropped).await?;
                    return Ok(Done { version, manifest, changed: Some(true) });
                }
                Err(error) if error.code == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("the service {} is being changed by others", order.name))
            .hint("deploy again when they are done"))
    }

    /// Deletes the code of versions that no service has any more.
    async fn forget(&self, dropped: Vec<String>) -> Result<()> {
        if dropped.is_empty() {
            return Ok(());
        }
        let services = self.records().await?;
        for version in dropped {
            let kept = services.iter().flat_map(|record| &record.versions).any(|v| v.version == version);
            if !kept {
                self.broker.delete(&keys::code(&version), Expect::Any).await?;
            }
        }
        Ok(())
    }

    async fn record(&self, service: &ServiceName) -> Result<Option<(ServiceRecord, Revision)>> {
        let Some(entry) = self.broker.get(&keys::service(service)).await? else { return Ok(None) };
        let record = serde_json::from_slice(&entry.value)
            .map_err(|cause| Error::internal(format!("the record of {service} is damaged: {cause}")))?;
        Ok(Some((record, entry.revision)))
    }

    pub(crate) async fn records(&self) -> Result<Vec<ServiceRecord>> {
        let (entries, _) = self.broker.list(keys::SERVICES).await?;
        Ok(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect())
    }
}

/// Whether the version of a service that runs answers to this name.
fn answers(record: &ServiceRecord, wanted: &ServiceName) -> bool {
    let handlers = record.running().map(|version| version.manifest.handlers.as_slice());
    handlers.unwrap_or_default().iter().any(|handler| match handler {
        Handler::Serve { name, .. } => name.as_ref().unwrap_or(&record.name) == wanted,
        Handler::Consume { .. } => false,
    })
}

/// The subscription a handler consumes from: as it is there, but with what the handler says.
pub(crate) fn subscription(handler: &Handler, there: Option<Subscription>) -> Result<Subscription> {
    let Handler::Consume {
        topics,
        subscription,
        start,
        max_failures,
        backoff,
        order,
        priorities,
        sharing,
        filter,
        ..
    } = handler
    else {
        return Err(Error::internal("only a consume handler has a subscription"));
    };
    let name: SubscriptionName = subscription.clone();
    let there = there.unwrap_or_else(|| Subscription::new(name, topics.clone()));
    Ok(Subscription {
        topics: topics.clone(),
        start: *start,
        max_failures: max_failures.unwrap_or(there.max_failures),
        backoff: backoff.unwrap_or(there.backoff),
        order: order.unwrap_or(there.order),
        priorities: priorities.unwrap_or(there.priorities),
        sharing: sharing.unwrap_or(there.sharing),
        filter: filter.clone().or(there.filter),
        ..there
    })
}

/// The record after a deployment, and the versions it has dropped. Deploying what runs already, with the same
/// settings, changes nothing.
fn deployed(
    order: &Order,
    there: Option<&ServiceRecord>,
    new: ServiceVersion,
) -> (ServiceRecord, Vec<String>) {
    let current = new.version.clone();
    let mut versions = there.map(|record| record.versions.clone()).unwrap_or_default();
    if there.is_none_or(|record| record.current != current) {
        versions.retain(|known| known.version != current);
        versions.insert(0, new);
    }
    let dropped = versions.split_off(versions.len().min(ServiceRecord::MAX_VERSIONS));
    let record = ServiceRecord {
        name: order.name.clone(),
        current,
        versions,
        settings: order.settings.clone(),
        paused: there.is_some_and(|record| record.paused),
    };
    (record, dropped.into_iter().map(|version| version.version).collect())
}

/// Whether the source that the store holds is the one its key names.
pub(crate) fn is_intact(key: &str, source: &[u8]) -> bool {
    version(source) == key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        serde_json::from_value(serde_json::json!({"name": "s", "source": ""})).unwrap()
    }

    fn new(version: &str) -> ServiceVersion {
        ServiceVersion {
            version: version.into(),
            deployed_at: SystemTime::now().into(),
            by: "ann".into(),
            manifest: Manifest::default(),
        }
    }

    fn names(record: &ServiceRecord) -> Vec<&str> {
        record.versions.iter().map(|v| v.version.as_str()).collect()
    }

    #[test]
    fn the_newest_version_comes_first_and_ten_are_kept() {
        let mut record = None;
        for n in 0..12 {
            let (after, dropped) = deployed(&order(), record.as_ref(), new(&n.to_string()));
            assert_eq!(dropped, if n < 10 { vec![] } else { vec![(n - 10).to_string()] });
            record = Some(after);
        }
        let record = record.unwrap();
        assert_eq!(names(&record), ["11", "10", "9", "8", "7", "6", "5", "4", "3", "2"]);
        let (again, _) = deployed(&order(), Some(&record), new("5"));
        assert_eq!(names(&again)[..3], ["5", "11", "10"]);
        assert_eq!(again.versions.len(), 10);
    }

    #[test]
    fn deploying_what_runs_changes_nothing_but_settings_count() {
        let (record, _) = deployed(&order(), None, new("a"));
        assert_eq!(deployed(&order(), Some(&record), new("a")).0, record);
        let mut more = order();
        more.settings.processes = 2;
        assert_ne!(deployed(&more, Some(&record), new("a")).0, record);
        let rolled_back = ServiceRecord { current: "z".into(), ..record };
        assert_eq!(deployed(&order(), Some(&rolled_back), new("a")).0.current, "a");
    }

    #[test]
    fn a_subscription_keeps_what_the_handler_does_not_speak_of() {
        let handler: Handler = serde_json::from_value(serde_json::json!({
            "kind": "consume", "function": "f", "topics": ["a"], "subscription": "s.f", "max_failures": 3,
            "order": "key", "filter": {"jq": ".a"}
        }))
        .unwrap();
        let mut there = Subscription::new("s.f".parse().unwrap(), vec!["b".parse().unwrap()]);
        there.lease = Duration::from_secs(77);
        there.sharing = crossdock_topics::Sharing::Failover;
        let wanted = subscription(&handler, Some(there)).unwrap();
        assert_eq!((wanted.max_failures, wanted.lease), (3, Duration::from_secs(77)));
        assert_eq!(
            (wanted.order, wanted.sharing),
            (crossdock_topics::Order::Key, crossdock_topics::Sharing::Failover)
        );
        assert_eq!(wanted.filter.unwrap().jq.as_deref(), Some(".a"));
        assert_eq!(wanted.topics[0].to_string(), "a");
    }
}
