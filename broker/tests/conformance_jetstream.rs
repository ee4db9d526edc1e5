//! What the engine on NATS JetStream keeps of the contract, on one real nats-server and on a cluster of three. Each case has
//! a prefix of its own there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::Nats;
use crossdock_topics::SharedBroker;
use crossdock_topics::conformance::{Exception, Harness};
use tokio::sync::{Mutex, OnceCell};

/// One for all cases: it keeps what each thinks is its own apart by prefixes. It ends with this process.
static ONE: OnceCell<Nats> = OnceCell::const_new();
static THREE: OnceCell<Nats> = OnceCell::const_new();
static CASES: AtomicU32 = AtomicU32::new(0);

/// One case's share of the server, or of the cluster.
struct Prefix {
    name: String,
    cluster: bool,
    /// The brokers of this case, so that none is dropped before the case has ended.
    opened: Mutex<Vec<SharedBroker>>,
}

impl Prefix {
    fn new(cluster: bool) -> Self {
        let name = format!("case-{}", CASES.fetch_add(1, Ordering::Relaxed));
        Self { name, cluster, opened: Mutex::default() }
    }
}

#[async_trait]
impl Harness for Prefix {
    async fn open(&self) -> SharedBroker {
        let nats = if self.cluster {
            THREE.get_or_init(|| Nats::cluster(3)).await
        } else {
            ONE.get_or_init(Nats::single).await
        };
        let mut options = JetStreamOptions::new(&nats.url()).unwrap();
        options.prefix = self.name.clone();
        options.sync_always = !self.cluster;
        let broker: SharedBroker = JetStream::open(options).await.unwrap();
        self.opened.lock().await.push(broker.clone());
        broker
    }

    async fn reopen(&self) -> SharedBroker {
        self.open().await
    }

    /// A process that is killed leaves nothing behind but what NATS has; another one beside it sees the same.
    async fn reopen_killed(&self) -> Option<SharedBroker> {
        Some(self.open().await)
    }

    fn exceptions(&self) -> &'static [Exception] {
        EXCEPTIONS
    }
}

const fn not_yet(name: &'static str) -> Exception {
    Exception { name, reason: "not built yet" }
}

const EXCEPTIONS: &[Exception] = &[
    not_yet("order::all_readers_see_the_same_order"),
    not_yet("order::a_message_comes_back_as_it_was_sent"),
    not_yet("order::a_restart_changes_nothing"),
    not_yet("once::outputs_of_a_settlement_count_as_well"),
    not_yet("topics::a_subscribed_topic_is_not_deleted"),
    not_yet("purge::what_subscriptions_have_of_it_goes_too"),
    not_yet("purge::consumers_go_on_behind_it"),
    not_yet("purge::a_restart_does_not_bring_it_back"),
    not_yet("purge::a_name_is_used_again_under_load"),
    not_yet("compaction::readers_pass_over_the_gaps"),
    not_yet("compaction::a_gap_at_the_end_holds_nobody_up"),
    not_yet("compaction::what_a_subscription_needs_stays"),
    not_yet("compaction::a_topic_can_say_that_nobody_is_asked"),
    not_yet("compaction::much_of_it_under_load"),
    not_yet("retention::unread_messages_stay_and_it_says_for_whom"),
    not_yet("retention::a_deleted_subscription_holds_nothing"),
    not_yet("retention::a_topic_can_say_that_unread_ones_may_go"),
    not_yet("retention::dead_letters_stay_and_it_says_for_whom"),
    not_yet("retention::a_dead_letters_message_may_go_where_unread_ones_may"),
    not_yet("closing::whoever_waits_is_answered"),
    not_yet("closing::what_comes_after_is_refused"),
    not_yet("redriving"),
    not_yet("subscriptions"),
    not_yet("at_least_once"),
    not_yet("failures"),
    not_yet("due"),
    not_yet("competing"),
    not_yet("keys"),
    not_yet("priorities"),
    not_yet("filters"),
    not_yet("explain"),
    not_yet("sharing"),
    not_yet("pausing"),
    not_yet("seeking"),
    not_yet("settle"),
    not_yet("dead_letters"),
    not_yet("freight"),
    not_yet("store::definitions_are_read_here_and_written_elsewhere"),
];

mod one {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(false));
}

mod three {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(true));
}
