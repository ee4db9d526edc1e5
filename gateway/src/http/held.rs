//! Deliveries on their way to a caller.

use crossdock_topics::{Delivery, DeliveryId, Outcome, Settlement, SharedBroker, Shutdown, SubscriptionName};

use super::gateway::Gateway;

/// Deliveries that nobody has received yet. Dropping it gives them back at once, and no failure is counted.
pub(super) struct Held {
    broker: SharedBroker,
    shutdown: Shutdown,
    name: SubscriptionName,
    deliveries: Vec<DeliveryId>,
}

impl Held {
    pub(super) fn new(gateway: &Gateway, name: &SubscriptionName, deliveries: &[Delivery]) -> Self {
        Self {
            broker: gateway.broker.clone(),
            shutdown: gateway.shutdown.clone(),
            name: name.clone(),
            deliveries: deliveries.iter().map(|delivery| delivery.id).collect(),
        }
    }

    /// They are the caller's now.
    pub(super) fn keep(mut self) {
        self.deliveries.clear();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let deliveries = std::mem::take(&mut self.deliveries);
        // Outside of a runtime there is no server any more, and a broker that restarts counts nothing either.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if deliveries.is_empty() {
            return;
        }
        let (broker, name) = (self.broker.clone(), self.name.clone());
        let outcomes = deliveries.into_iter().map(|delivery| (delivery, Outcome::Release)).collect();
        let settlement = Settlement { outcomes, ..Settlement::default() };
        let give_back = async move {
            if let Err(error) = broker.settle(&name, settlement).await {
                tracing::warn!(subscription = %name, %error, "messages that nobody received stay away for their lease");
            }
        };
        self.shutdown.tasks().spawn_on(give_back, &runtime);
    }
}
