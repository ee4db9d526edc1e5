//! The other end of `_workers.deploy`: writes down what a worker would, and reports what the test says. Real
//! workers are tested with the whole platform.

use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::Embedded;
use crossdock_config::service::version;
use crossdock_config::{
    Handler, Manifest, Member, ServiceRecord, ServiceSettings, ServiceState, ServiceStatus, ServiceVersion,
    keys,
};
use crossdock_topics::{
    Clock, Error, ErrorCode, Expect, Message, Reply, Requests, ServiceName, Store, SystemClock,
};
use serde_json::{Value, json};

use crate::server::put;

/// Answers deployments until the test ends. A source is a subscription's name (which its one handler consumes),
/// or `broken`.
pub(crate) async fn serve(broker: &Arc<Embedded>) {
    let mut requests = broker.serve(&"_workers.deploy".parse().unwrap(), 10).await.unwrap();
    let broker = broker.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let reply = deploy(&*broker, &request.message).await;
            request.responder.reply(reply);
        }
    });
}

async fn deploy(store: &dyn Store, message: &Message) -> Reply {
    let order: Value = serde_json::from_slice(&message.payload).unwrap();
    let name: ServiceName = order["name"].as_str().unwrap().parse().unwrap();
    let source = order["source"].as_str().unwrap();
    if source == "broken" {
        return Err(Error::new(ErrorCode::ServiceFailed, "Traceback: NameError"));
    }
    let version = version(source);
    let consume = json!({"kind": "consume", "function": "f", "topics": ["orders"], "subscription": source});
    let manifest = Manifest { handlers: vec![serde_json::from_value::<Handler>(consume).unwrap()] };
    let settings: ServiceSettings = serde_json::from_value(order["settings"].clone()).unwrap();
    let deployed = ServiceVersion {
        version: version.clone(),
        deployed_at: SystemClock.now(),
        by: order["by"].as_str().unwrap().into(),
        manifest: manifest.clone(),
    };
    let old = record(store, &name).await;
    let changed = old.as_ref().is_none_or(|old| old.current != version || old.settings != settings);
    if changed {
        let mut versions = old.map(|old| old.versions).unwrap_or_default();
        versions.retain(|known| known.version != version);
        versions.insert(0, deployed);
        let record =
            ServiceRecord { name: name.clone(), current: version.clone(), versions, settings, paused: false };
        store.put(&keys::code(&version), source.to_owned().into(), Expect::Any, None).await.unwrap();
        put(store, &keys::service(&name), &record).await;
    }
    Ok(Message::json(json!({"version": version, "manifest": manifest, "changed": changed}).to_string()))
}

/// A service's record.
pub(crate) async fn record(store: &dyn Store, name: &ServiceName) -> Option<ServiceRecord> {
    let entry = store.get(&keys::service(name)).await.unwrap()?;
    Some(serde_json::from_slice(&entry.value).unwrap())
}

/// Reports, a little later, how a service's version stands on a server.
pub(crate) fn report(
    broker: &Arc<Embedded>,
    server: &str,
    service: &str,
    version: &str,
    state: ServiceState,
) {
    let status = ServiceStatus {
        service: service.parse().unwrap(),
        server: server.into(),
        version: version.into(),
        state,
        reason: (state == ServiceState::Failed).then(|| "it exits at once".into()),
        processes: 1,
        restarts: 0,
        since: SystemClock.now(),
    };
    let broker = broker.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        put(&*broker, &keys::status(&status.server, &status.service), &status).await;
    });
}

/// Another server of the cluster.
pub(crate) async fn join(broker: &Arc<Embedded>, server: &str) {
    let member = Member {
        name: server.into(),
        started: SystemClock.now(),
        version: "0".into(),
        gateway_url: String::new(),
    };
    put(&**broker, &keys::member(server), &member).await;
}
