//! What may be done with a subscription, and by whom.

use std::sync::Arc;

use crossdock_access::{Action, Principal};
use crossdock_topics::{Result, Subscription, SubscriptionName};

use super::gateway::Gateway;

impl Gateway {
    /// A subscription's definition, for someone who may consume all of its topics.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied`.
    pub(super) async fn consumable(
        &self,
        principal: &Principal,
        name: &SubscriptionName,
    ) -> Result<Arc<Subscription>> {
        let known = self.subscriptions.load().get(name).cloned();
        let subscription = match known {
            Some(subscription) => subscription,
            // Made a moment ago, perhaps.
            None => Arc::new(self.broker.subscription(name).await?.subscription),
        };
        for topic in &subscription.topics {
            principal.check(Action::Consume, topic.as_str())?;
        }
        Ok(subscription)
    }
}
