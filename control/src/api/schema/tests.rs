use std::collections::BTreeSet;

use utoipa::PartialSchema;
use utoipa::openapi::{RefOr, Schema};

use super::access::*;
use super::apply::*;
use super::broker::*;
use super::explain::*;
use super::service::*;

fn described<T: PartialSchema>() -> BTreeSet<String> {
    match T::schema() {
        RefOr::T(Schema::Object(object)) => object.properties.keys().cloned().collect(),
        _ => panic!("not an object"),
    }
}

fn serialized(value: &impl serde::Serialize) -> BTreeSet<String> {
    match serde_json::to_value(value).unwrap() {
        serde_json::Value::Object(map) => map.keys().cloned().collect(),
        other => panic!("not an object: {other}"),
    }
}

#[test]
fn the_descriptions_name_the_fields_that_the_types_have() {
    let topic = crossdock_topics::Topic::new("a".parse().unwrap());
    let retention = crossdock_topics::Retention {
        max_bytes: Some(1),
        max_messages: Some(1),
        compact: true,
        ..crossdock_topics::Retention::default()
    };
    assert_eq!(described::<Topic>(), serialized(&topic));
    assert_eq!(described::<Retention>(), serialized(&retention));
    let info = crossdock_topics::TopicInfo {
        topic,
        revision: 1,
        head: 0,
        tail: 0,
        bytes: 0,
        last: Some(crossdock_topics::Timestamp(0)),
        held_by: Some(String::new()),
    };
    assert_eq!(described::<TopicInfo>(), serialized(&info));
    let mut subscription =
        crossdock_topics::Subscription::new("s".parse().unwrap(), vec!["a".parse().unwrap()]);
    subscription.order = crossdock_topics::Order::Key;
    subscription.priorities = true;
    subscription.sharing = crossdock_topics::Sharing::Failover;
    let filter = crossdock_topics::Filter {
        headers: [("a".to_owned(), "b".to_owned())].into(),
        jq: Some(".a".into()),
    };
    assert_eq!(described::<Filter>(), serialized(&filter));
    subscription.filter = Some(filter);
    assert_eq!(described::<Subscription>(), serialized(&subscription));
    assert_eq!(described::<Backoff>(), serialized(&subscription.backoff));
    let progress = crossdock_topics::TopicProgress {
        topic: "a".parse().unwrap(),
        next: 0,
        waiting: 0,
        in_flight: 0,
        set_aside: 0,
        behind_key: 0,
        parked_keys: 0,
        dead_letters: 0,
    };
    assert_eq!(described::<TopicProgress>(), serialized(&progress));
    let info = crossdock_topics::SubscriptionInfo {
        subscription,
        revision: 1,
        consumers: 0,
        paused: false,
        topics: vec![progress],
    };
    assert_eq!(described::<SubscriptionInfo>(), serialized(&info));
    let health = crossdock_topics::Health {
        ready: false,
        reason: Some("x".into()),
        engine: "x".into(),
        detail: Some("x".into()),
        warning: Some("x".into()),
    };
    assert_eq!(described::<BrokerHealth>(), serialized(&health));
}

#[test]
fn what_operators_ask_about_is_described_as_it_is() {
    use crossdock_topics::Timestamp;
    let parked = crossdock_topics::ParkedKey {
        topic: "a".parse().unwrap(),
        key: "k".into(),
        offset: 0,
        reason: String::new(),
        failures: 1,
        by: None,
        since: Timestamp(0),
        waiting: 0,
    };
    assert_eq!(described::<ParkedKey>(), serialized(&parked));
    let filter: crossdock_topics::DeadLetterFilter = serde_json::from_value(serde_json::json!({
        "topic": "a", "reason": "r", "by": "b", "since": "2026-11-22T17:00:00Z",
        "until": "2026-11-22T17:00:00Z", "key": "k", "headers": {"a": "b"},
    }))
    .unwrap();
    assert_eq!(described::<DeadLetterFilter>(), serialized(&filter));
    let stored = crossdock_topics::StoredFacts {
        time: Timestamp(0),
        bytes: 0,
        id: None,
        key: None,
        expires_at: None,
        deliver_at: None,
    };
    assert_eq!(described::<StoredFacts>(), serialized(&stored));
    let situation = crossdock_topics::Situation {
        subscription: "s".parse().unwrap(),
        state: crossdock_topics::MessageState::BehindKey,
        why: String::new(),
        deliveries: 0,
        failures: 0,
        reason: None,
        by: None,
        consumer: Some(crossdock_topics::ConsumerId(1)),
        until: None,
    };
    assert_eq!(described::<Situation>(), serialized(&situation));
    let explanation = crossdock_topics::Explanation {
        topic: "a".parse().unwrap(),
        offset: 0,
        stored: Some(stored),
        gone: None,
        subscriptions: vec![situation],
    };
    assert_eq!(described::<Explanation>(), serialized(&explanation));
}

#[test]
fn the_descriptions_of_the_configuration_name_the_fields_that_the_types_have() {
    let settings: crossdock_config::ServiceSettings =
        serde_json::from_value(serde_json::json!({"env": {"A": "b"}})).unwrap();
    assert_eq!(described::<ServiceSettings>(), serialized(&settings));
    let status = crossdock_config::ServiceStatus {
        service: "s".parse().unwrap(),
        server: "a".into(),
        version: "v".into(),
        state: crossdock_config::ServiceState::Failed,
        reason: Some("x".into()),
        processes: 0,
        restarts: 0,
        since: crossdock_topics::Timestamp(0),
    };
    assert_eq!(described::<ServiceStatus>(), serialized(&status));
    let version = crossdock_config::ServiceVersion {
        version: "v".into(),
        deployed_at: crossdock_topics::Timestamp(0),
        by: "x".into(),
        manifest: crossdock_config::Manifest::default(),
    };
    assert_eq!(described::<ServiceVersion>(), serialized(&version));
    assert_eq!(described::<Manifest>(), serialized(&version.manifest));
    let member = crossdock_config::Member {
        name: "a".into(),
        started: crossdock_topics::Timestamp(0),
        version: "1".into(),
        gateway_url: String::new(),
    };
    assert_eq!(described::<Member>(), serialized(&member));
    let step = crossdock_config::Step {
        action: crossdock_config::Action::Create,
        kind: crossdock_config::Kind::Topic,
        name: "a".into(),
        detail: Some("x".into()),
    };
    assert_eq!(described::<Step>(), serialized(&step));
    let fault = crossdock_config::Fault {
        place: crossdock_config::Place::default(),
        path: String::new(),
        message: String::new(),
    };
    assert_eq!(described::<Fault>(), serialized(&fault));
}

#[test]
fn the_description_of_a_handler_reads_what_a_handler_writes() {
    for text in [
        r#"{"kind": "consume", "function": "f", "topics": ["a"], "subscription": "s", "start": "end",
            "max_failures": 3, "backoff": {"first": "1s"}, "order": "key", "priorities": false, "sharing": "shared",
            "filter": {"jq": ".a"}, "timeout": "1s", "concurrency": 2}"#,
        r#"{"kind": "serve", "function": "f", "name": "n", "timeout": "1s", "concurrency": 2}"#,
    ] {
        let handler: crossdock_config::Handler = serde_json::from_str(text).unwrap();
        let written = serialized(&handler);
        let RefOr::T(Schema::OneOf(kinds)) = Handler::schema() else { panic!("not one of several") };
        let found = kinds.items.iter().any(|kind| match kind {
            RefOr::T(Schema::Object(object)) => {
                object.properties.keys().cloned().collect::<BTreeSet<_>>() == written
            }
            _ => false,
        });
        assert!(found, "{written:?}");
    }
}

#[test]
fn permissions_and_channels_are_described_as_they_are() {
    let patterns = || serde_json::json!(["a.**"]);
    let permission: crossdock_config::Permission = serde_json::from_value(serde_json::json!({
        "name": "p", "users": [], "publish": patterns(), "consume": patterns(), "invoke": patterns(),
    }))
    .unwrap();
    assert_eq!(described::<Permission>(), serialized(&permission));
    let channel: crossdock_config::RestChannel = serde_json::from_value(serde_json::json!({
        "name": "c", "path": "/", "service": "s", "topic": "t", "message_id_header": "a", "key_header": "b",
        "hmac_sha256": {"header": "h", "secret": "env:S"},
    }))
    .unwrap();
    assert_eq!(described::<RestChannel>(), serialized(&channel));
    assert_eq!(described::<Hmac>(), serialized(&channel.hmac_sha256));
}
