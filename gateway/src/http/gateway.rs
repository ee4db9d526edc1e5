//! What all handlers share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::FromRef;
use crossdock_access::Access;
use crossdock_config::keys;
use crossdock_http::Limits;
use crossdock_topics::{Entry, Result, SharedBroker, Shutdown, Store, Subscription, SubscriptionName};

use super::intake::Intake;
use super::mirror::Mirror;
use super::rest::Table;
use super::room::Room;

/// How many bytes the answers to all who fetch may take together.
const PAGES_TOGETHER: usize = 256 * 1024 * 1024;

/// One gateway, cheap to clone.
#[derive(Clone)]
pub(super) struct Gateway(Arc<Shared>);

/// What is shared.
pub(super) struct Shared {
    pub(super) broker: SharedBroker,
    pub(super) access: Access,
    pub(super) limits: Limits,
    pub(super) shutdown: Shutdown,
    pub(super) intake: Intake,
    /// For messages on their way to those who fetch them.
    pub(super) pages: Room,
    /// The REST channels as they are now.
    pub(super) channels: ArcSwap<Table>,
    /// The definitions of subscriptions, so that asking for permission costs no round trip.
    pub(super) subscriptions: ArcSwap<HashMap<SubscriptionName, Arc<Subscription>>>,
}

impl std::ops::Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl FromRef<Gateway> for Access {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.access.clone()
    }
}

impl FromRef<Gateway> for Limits {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.limits
    }
}

impl Gateway {
    /// Reads what it needs of the store and follows it until shutdown.
    pub(super) async fn open(
        limits: Limits,
        broker: SharedBroker,
        access: Access,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let store: Arc<dyn Store> = broker.clone();
        let channels = Mirror::open(store.clone(), keys::REST_CHANNELS).await?;
        let subscriptions = Mirror::open(store, keys::SUBSCRIPTIONS).await?;
        let table = Table::default().updated(channels.entries()).await;
        let gateway = Self(Arc::new(Shared {
            broker,
            access,
            limits,
            shutdown: shutdown.clone(),
            intake: Intake::default(),
            pages: Room::of(PAGES_TOGETHER),
            channels: ArcSwap::from_pointee(table),
            subscriptions: ArcSwap::from_pointee(definitions(subscriptions.entries())),
        }));
        shutdown.tasks().spawn(gateway.clone().follow(channels, subscriptions));
        Ok(gateway)
    }

    async fn follow(self, mut channels: Mirror, mut subscriptions: Mirror) {
        loop {
            tokio::select! {
                () = self.shutdown.started() => return,
                () = channels.changed() => {
                    let table = self.channels.load().updated(channels.entries()).await;
                    self.channels.store(Arc::new(table));
                }
                () = subscriptions.changed() => {
                    self.subscriptions.store(Arc::new(definitions(subscriptions.entries())));
                }
            }
        }
    }
}

fn definitions(entries: &BTreeMap<String, Entry>) -> HashMap<SubscriptionName, Arc<Subscription>> {
    let read = |entry: &Entry| match serde_json::from_slice::<Subscription>(&entry.value) {
        Ok(subscription) => Some((subscription.name.clone(), Arc::new(subscription))),
        Err(error) => {
            // It is then asked for at the broker, request by request.
            tracing::debug!(key = entry.key, %error, "a subscription's definition is not understood");
            None
        }
    };
    entries.values().filter_map(read).collect()
}
