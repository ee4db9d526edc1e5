//! What of a subscription's definition governs its groups.

use crossdock_topics::{Backoff, Order, Subscription};

/// The rules of a group.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) max_failures: u32,
    pub(super) backoff: Backoff,
    pub(super) max_in_flight: usize,
    pub(super) max_aside: usize,
    pub(super) look_ahead: usize,
    pub(super) by_key: bool,
    pub(super) by_priority: bool,
}

impl From<&Subscription> for Rules {
    fn from(subscription: &Subscription) -> Self {
        Self {
            max_failures: subscription.max_failures,
            backoff: subscription.backoff,
            max_in_flight: subscription.max_in_flight as usize,
            max_aside: Subscription::MAX_SET_ASIDE,
            look_ahead: Subscription::LOOK_AHEAD,
            by_key: subscription.order == Order::Key,
            by_priority: subscription.priorities,
        }
    }
}
