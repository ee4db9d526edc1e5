//! Subscriptions that earlier versions of a service have left behind.

use crossdock_config::ServiceRecord;
use crossdock_topics::{Result, SubscriptionName};

use crate::launch::Workshop;

impl Workshop {
    /// What [`ServiceRecord::left_behind`] names and is still there. Nothing deletes it by itself: its messages may be
    /// wanted yet.
    ///
    /// # Errors
    /// Those of the broker.
    pub(crate) async fn leftovers(&self, record: &ServiceRecord) -> Result<Vec<SubscriptionName>> {
        let mut there = Vec::new();
        for name in record.left_behind(&self.records().await?) {
            if self.broker.subscription(&name).await.is_ok() {
                there.push(name);
            }
        }
        Ok(there)
    }
}
