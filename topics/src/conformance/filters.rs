//! Filters: messages that are none of a subscription's business count as settled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::steps::{
    A_WHILE, ack, batch, close, eventually, info, nothing, publish, publish_batch, publish_many, refused,
    soon, standing, subscription, subscription_with, take, take_one, text, texts, topic, topic_with,
};
use super::{Harness, PATIENCE};
use crate::{ErrorCode, Expect, Fetch, Filter, Message, Order, Retention, SharedBroker, SubscriptionName};

fn jq(program: &str) -> Option<Filter> {
    Some(Filter { jq: Some(program.into()), ..Filter::default() })
}

fn headers(pairs: &[(&str, &str)]) -> Option<Filter> {
    let headers: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Some(Filter { headers, jq: None })
}

async fn filtered(broker: &SharedBroker, filter: Option<Filter>) -> SubscriptionName {
    subscription_with(broker, "sub", &["orders"], |s| s.filter.clone_from(&filter)).await
}

fn number(n: u64) -> Message {
    Message::json(format!("{{\"n\":{n}}}"))
}

pub(super) async fn by_headers(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = filtered(&broker, headers(&[("country", "DE"), ("kind", "")])).await;
    let all = subscription(&broker, "all", &["orders"]).await;
    let message = |name: &str, headers: &[(&str, &str)]| Message {
        headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
        ..Message::new(name.to_owned())
    };
    let sent = [
        message("none", &[]),
        message("both", &[("country", "DE"), ("kind", ""), ("more", "x")]),
        message("other", &[("country", "FR"), ("kind", "")]),
        message("half", &[("country", "DE")]),
        message("repeated", &[("kind", "x"), ("kind", ""), ("country", "DE")]),
    ];
    publish_batch(&broker, &orders, batch(sent)).await.unwrap();
    let taken = take(&broker, &sub, 2).await;
    assert_eq!(texts(&taken), ["both", "repeated"]);
    ack(&broker, &sub, &taken).await;
    nothing(&broker, &sub).await;
    assert_eq!(standing(&broker, &sub).await, [0; 4]);
    assert_eq!(take(&broker, &all, 5).await.len(), 5, "nobody else's business");
}

pub(super) async fn by_a_program_over_the_payload(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = filtered(&broker, jq(".total > 100 and (.lines | any(.sku == \"a\"))")).await;
    let sent = [
        r#"{"total": 120, "lines": [{"sku": "a"}]}"#,
        r#"{"total": 80, "lines": [{"sku": "a"}]}"#,
        r#"{"total": 500, "lines": [{"sku": "b"}]}"#,
        "not json",
        r#"{"total": 200, "lines": 7}"#,
        r#"{"total": 101, "lines": [{"sku": "b"}, {"sku": "a"}]}"#,
    ];
    publish(&broker, &orders, sent).await;
    let expected = [sent[0], sent[3], sent[4], sent[5]];
    assert_eq!(texts(&take(&broker, &sub, 4).await), expected, "what cannot be evaluated is delivered");
    nothing(&broker, &sub).await;
    // Whoever waits is woken by what passes.
    let waiting = tokio::spawn({
        let (broker, sub) = (broker.clone(), sub.clone());
        async move { broker.fetch(&sub, Fetch::new(None, 10, PATIENCE)).await.unwrap() }
    });
    publish(&broker, &orders, [sent[1]]).await;
    publish(&broker, &orders, [sent[0]]).await;
    assert_eq!(texts(&soon("what passes", waiting).await.unwrap()), [sent[0]]);
}

pub(super) async fn a_program_that_is_none_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    topic(&broker, "orders").await;
    let sub = filtered(&broker, None).await;
    let definition = broker.subscription(&sub).await.unwrap().subscription;
    for program in [".total >", "nonsense(.)", ".a | $x", "(.a"] {
        let bad = crate::Subscription { filter: jq(program), ..definition.clone() };
        let error = refused(broker.put_subscription(bad, Expect::Any).await, ErrorCode::InvalidArgument);
        assert!(error.message.contains("line 1"), "{program}: where? {error}");
    }
    let empty = crate::Subscription { filter: Some(Filter::default()), ..definition.clone() };
    refused(broker.put_subscription(empty, Expect::Any).await, ErrorCode::InvalidArgument);
    assert_eq!(broker.subscription(&sub).await.unwrap().subscription, definition);
}

pub(super) async fn a_program_that_runs_on_holds_up_nobody(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let slow = "[.[] as $a | .[] as $b | .[] as $c | select($a + $b + $c > 1)] | length > 0";
    let sub = filtered(&broker, jq(slow)).await;
    let other = subscription(&broker, "other", &["orders"]).await;
    let row = format!("[{}0]", "0,".repeat(3000));
    publish(&broker, &orders, [row.as_str(), "[2]"]).await;
    assert_eq!(take(&broker, &other, 2).await.len(), 2);
    assert_eq!(take(&broker, &sub, 2).await.len(), 2, "one could not be evaluated, the other passes");
}

pub(super) async fn what_does_not_pass_is_settled_for_good(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let keep = Retention { max_messages: Some(1), ..Retention::default() };
    let orders = topic_with(&broker, "orders", |t| t.retention = keep.clone()).await;
    let sub = filtered(&broker, jq(".n == 19999")).await;
    for start in (0..20_000).step_by(1000) {
        publish_batch(&broker, &orders, batch((start..start + 1000).map(number))).await.unwrap();
    }
    let taken = take_one(&broker, &sub).await;
    assert_eq!(taken.offset, 19_999, "a long way to it");
    ack(&broker, &sub, &[taken]).await;
    eventually("retention goes by it", async || info(&broker, &orders).await.head >= 19_000).await;
    // The place goes on with it, also when nothing passes for long.
    publish_many(&broker, &orders, (0..5000).map(number)).await;
    nothing(&broker, &sub).await;
    close(broker).await;
    let broker = harness.reopen().await;
    eventually("the place has gone on", async || {
        assert!(broker.fetch(&sub, Fetch::new(None, 1, Duration::from_millis(20))).await.unwrap().is_empty());
        standing(&broker, &sub).await == [0; 4]
    })
    .await;
    assert_eq!(broker.subscription(&sub).await.unwrap().topics[0].next, 25_000);
}

pub(super) async fn a_changed_filter_counts_from_then_on(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = filtered(&broker, jq(".n == 0")).await;
    publish_batch(&broker, &orders, batch((0..10).map(number))).await.unwrap();
    let zero = take(&broker, &sub, 1).await;
    nothing(&broker, &sub).await;
    let mut definition = broker.subscription(&sub).await.unwrap().subscription;
    definition.filter = jq(".n == 1");
    broker.put_subscription(definition.clone(), Expect::Any).await.unwrap();
    publish_batch(&broker, &orders, batch((0..2).map(number))).await.unwrap();
    let one = take_one(&broker, &sub).await;
    assert_eq!((text(&one).as_str(), one.offset), ("{\"n\":1}", 11));
    broker.settle(&sub, crate::Settlement::one(zero[0].id, crate::Outcome::Release)).await.unwrap();
    assert_eq!(take_one(&broker, &sub).await.offset, 0, "what was looked at before stays");
    definition.filter = None;
    broker.put_subscription(definition, Expect::Any).await.unwrap();
    publish(&broker, &orders, ["anything"]).await;
    assert_eq!(text(&take_one(&broker, &sub).await), "anything");
}

pub(super) async fn with_keys_and_with_priorities(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sent = [("a", 1, 1), ("a", 0, 9), ("a", 2, 5), ("b", 0, 9), ("b", 3, 2)];
    let message = |(key, n, priority): &(&str, u64, u8)| Message {
        key: Some((*key).into()),
        priority: *priority,
        ..number(*n)
    };
    publish_batch(&broker, &orders, batch(sent.iter().map(message))).await.unwrap();
    let keyed = subscription_with(&broker, "keyed", &["orders"], |s| {
        (s.filter, s.order) = (jq(".n > 0"), Order::Key);
    })
    .await;
    let first = take(&broker, &keyed, 2).await;
    assert_eq!(first.iter().map(|d| d.offset).collect::<Vec<_>>(), [0, 4]);
    ack(&broker, &keyed, &first).await;
    assert_eq!(take_one(&broker, &keyed).await.offset, 2);
    let urgent = subscription_with(&broker, "urgent", &["orders"], |s| {
        (s.filter, s.priorities) = (jq(".n > 0"), true);
    })
    .await;
    let taken = take(&broker, &urgent, 3).await;
    assert_eq!(taken.iter().map(|d| d.offset).collect::<Vec<_>>(), [2, 4, 0]);
    assert!(broker.fetch(&urgent, Fetch::new(None, 1, A_WHILE)).await.unwrap().is_empty());
}
