//! Subscriptions that earlier versions of a service have left behind.

use std::collections::BTreeSet;

use crossdock_config::{Handler, Manifest, ServiceRecord};
use crossdock_topics::{Result, SubscriptionName};

use crate::launch::Workshop;

impl Workshop {
    /// The subscriptions that a version before consumed, that the one that runs does not, nor another service,
    /// and that are still there. Nothing deletes them by itself: their messages may be wanted yet.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn leftovers(&self, record: &ServiceRecord) -> Result<Vec<SubscriptionName>> {
        let mut left: BTreeSet<_> =
            record.versions.iter().flat_map(|version| consumed(&version.manifest)).cloned().collect();
        let mut drop_consumed = |record: &ServiceRecord| {
            for name in record.running().into_iter().flat_map(|version| consumed(&version.manifest)) {
                left.remove(name);
            }
        };
        drop_consumed(record);
        self.records().await?.iter().for_each(drop_consumed);
        let mut there = Vec::new();
        for name in left {
            if self.broker.subscription(&name).await.is_ok() {
                there.push(name);
            }
        }
        Ok(there)
    }
}

fn consumed(manifest: &Manifest) -> impl Iterator<Item = &SubscriptionName> {
    manifest.handlers.iter().filter_map(|handler| match handler {
        Handler::Consume { subscription, .. } => Some(subscription),
        Handler::Serve { .. } => None,
    })
}
