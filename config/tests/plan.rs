//! Documents against clusters: what is planned, and that what was applied or exported changes nothing.
#![allow(clippy::unwrap_used)] // in what makes the cases

use std::collections::HashMap;
use std::time::Duration;

use crossdock_config::service::version;
use crossdock_config::{
    Action, Document, EnvValue, Hmac, Kind, Manifest, Method, Name, Permission, RestChannel, SecretRef,
    ServiceRecord, ServiceSettings, ServiceSpec, ServiceVersion, Size, State, Step, UserRecord, UserSpec,
    parse, plan,
};
use crossdock_topics::{
    Backoff, Durability, Error, Filter, Order, Retention, Sharing, StartAt, Subscription, Timestamp, Topic,
    TopicPattern,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// In these tests the hash of a secret is the reference it came from.
fn same(reference: &SecretRef, hash: &str) -> Result<bool, Error> {
    Ok(reference.to_string() == hash)
}

fn steps(current: &State, desired: &Document) -> Vec<Step> {
    plan(current, desired, &mut same).unwrap()
}

/// What a cluster is once a document has been applied to it.
fn applied(mut state: State, document: &Document) -> State {
    for topic in &document.topics {
        state.topics.insert(topic.name.clone(), topic.clone());
    }
    for subscription in &document.subscriptions {
        let mut subscription = subscription.clone();
        if let Some(now) = state.subscriptions.get(&subscription.name) {
            subscription.start = now.start;
        }
        state.subscriptions.insert(subscription.name.clone(), subscription);
    }
    for service in &document.services {
        let code = service.code.clone().unwrap_or_default();
        let version = version(&code);
        state.code.insert(version.clone(), code);
        let deployed = ServiceVersion {
            version: version.clone(),
            deployed_at: Timestamp(0),
            by: "admin".into(),
            manifest: Manifest::default(),
        };
        let record = ServiceRecord {
            name: service.name.clone(),
            current: version,
            versions: vec![deployed],
            settings: service.settings(),
            paused: false,
        };
        state.services.insert(service.name.clone(), record);
    }
    for user in &document.users {
        let record = UserRecord {
            name: user.name.clone(),
            password: user.password.as_ref().map(ToString::to_string),
            api_key: user.api_key.as_ref().map(ToString::to_string),
        };
        state.users.insert(user.name.clone(), record);
    }
    for permission in &document.permissions {
        state.permissions.insert(permission.name.clone(), permission.clone());
    }
    for channel in &document.rest_channels {
        state.rest_channels.insert(channel.name.clone(), channel.clone());
    }
    state
}

fn read(yaml: &str, current: Option<&State>) -> Document {
    parse(yaml.as_bytes(), None, current).unwrap_or_else(|invalid| panic!("{invalid}\n{yaml}")).document
}

#[test]
fn the_steps_say_what_changes_and_no_secret() {
    let before = read(
        "
topics: [{name: orders}, {name: rest}]
subscriptions: [{name: s, topics: [orders]}]
services: [{name: route, code: 'a = 1', env: {KEY: hunter2, GONE: x}}]
users: [{name: alice, password: env:OLD}, {name: bob, password: env:BOB}, {name: carol}]
permissions: [{name: p, users: [alice], publish: [orders]}]
rest_channels: [{name: in, path: /in, topic: orders}]
",
        None,
    );
    let current = applied(State::default(), &before);
    let after = read(
        "
topics: [{name: orders, durability: os, retention: {max_age: null, max_bytes: 5}}, {name: new}, {name: rest}]
subscriptions: [{name: s, topics: [orders, new], start: end}]
services: [{name: route, code: 'a = 2', processes: 2, env: {KEY: hunter3}}]
users: [{name: alice, password: env:NEW}, {name: bob, password: env:BOB}, {name: carol, api_key: env:C}]
permissions: [{name: p, users: [alice], publish: [orders], admin: true}]
rest_channels: [{name: in, path: '/in/{id}', topic: orders, timeout: 2s}]
",
        Some(&current),
    );
    let shown: Vec<String> = steps(&current, &after)
        .iter()
        .map(|step| {
            format!(
                "{:?} {} {}: {}",
                step.action,
                step.kind,
                step.name,
                step.detail.as_deref().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Update topic orders: durability: fsync -> os, retention.max_age: 7days -> -, retention.max_bytes: - -> 5",
            "Create topic new: -",
            "Unchanged topic rest: -",
            "Update subscription s: topics: [\"orders\"] -> [\"orders\",\"new\"]",
            "Update service route: code: b5bc1ffd90912fb1 -> d6caeea652665784, processes: 1 -> 2, env.GONE, env.KEY",
            "Update user alice: password",
            "Unchanged user bob: -",
            "Update user carol: api_key",
            "Update permission p: admin: false -> true",
            "Update rest_channel in: path: /in -> /in/{id}, timeout: 10s -> 2s",
        ]
    );
}

#[test]
fn a_user_who_is_named_without_secrets_keeps_them() {
    let current =
        applied(State::default(), &read("users: [{name: alice, password: env:A, api_key: env:K}]", None));
    let step = &steps(&current, &read("users: [{name: alice}]", Some(&current)))[0];
    assert_eq!((step.action, step.kind), (Action::Unchanged, Kind::User));
}

#[test]
fn a_secret_that_cannot_be_had_ends_the_plan() {
    let current = applied(State::default(), &read("users: [{name: alice, password: env:A}]", None));
    let document = read("users: [{name: alice, password: env:A}]", None);
    let error = plan(&current, &document, &mut |_, _| Err(Error::invalid("not set"))).unwrap_err();
    assert_eq!(error.message, "not set");
}

#[test]
fn names_may_be_the_clusters_and_must_be_somewhere() {
    let current = applied(
        State::default(),
        &read(
            "{topics: [{name: t}], users: [{name: u}], rest_channels: [{name: c, path: '/c/{x}', topic: t}]}",
            None,
        ),
    );
    let yaml = "
subscriptions: [{name: s, topics: [t, absent, 'any.**']}]
services: [{name: v}, {name: w, source: ./w.py}]
permissions: [{name: p, users: [u, nobody]}]
rest_channels:
  - {name: d, path: /d, topic: absent}
  - {name: e, path: '/c/{y}', topic: t}
";
    let invalid = parse(yaml.as_bytes(), None, Some(&current)).unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "line 2, column 39: subscriptions[0].topics[1]: there is no topic absent; define it under topics, or correct \
         the name
line 3, column 12: services[0]: the service v has no code; name its file as source
line 3, column 41: services[1].source: the file is not on the server; apply with the command-line client, which \
         reads it, or send what it holds as code
line 4, column 36: permissions[0].users[1]: there is no user nobody; define it under users, or correct the name
line 6, column 32: rest_channels[0].topic: there is no topic absent; define it under topics, or correct the name
line 7, column 21: rest_channels[1].path: POST /c/{y} goes to the channel c already, which the cluster has"
    );
    let alone = parse(yaml.as_bytes(), None, None).unwrap();
    assert_eq!(alone.document.services.len(), 2, "without a cluster the names are taken to be there");
    let again = read("rest_channels: [{name: c, path: '/c/{y}', topic: t}]", Some(&current));
    assert_eq!(steps(&current, &again)[0].action, Action::Update, "a channel does not collide with itself");
}

#[test]
fn a_definition_of_a_topic_that_is_wrong_elsewhere_is_there_for_others() {
    let yaml = "topics: [{name: t, durability: safe}]\nsubscriptions: [{name: s, topics: [t]}]";
    let invalid = parse(yaml.as_bytes(), None, Some(&State::default())).unwrap_err();
    assert_eq!(invalid.faults().len(), 1, "{invalid}");
}

#[test]
fn the_store_leads_to_the_state() {
    let document =
        read("{topics: [{name: t, retention: {max_age: null}}], users: [{name: u, password: env:A}]}", None);
    let wanted = applied(State::default(), &document);
    let entry = |key: &str, value: Vec<u8>| crossdock_topics::Entry {
        key: key.into(),
        value: value.into(),
        revision: 1,
    };
    let mut state = State::default();
    for entry in [
        entry("topics/t", serde_json::to_vec(&document.topics[0]).unwrap()),
        entry("users/u", serde_json::to_vec(wanted.users.values().next().unwrap()).unwrap()),
        entry("members/a", b"whatever".to_vec()),
    ] {
        state.put(&entry).unwrap();
    }
    assert_eq!(state, wanted);
    let error = state.put(&entry("users/x", b"{\"name\": 5}".to_vec())).unwrap_err();
    assert!(error.message.contains("users/x") && error.hint.is_some(), "{error}");
}

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][a-zA-Z0-9-]{0,6}(\\.[a-z0-9]{1,3})?|true|null|1e3|0x1F|010|no"
}

fn pattern() -> impl Strategy<Value = TopicPattern> {
    prop_oneof![word(), word().prop_map(|word| format!("{word}.**")), Just("*".to_owned())]
        .prop_map(|text| text.parse().unwrap())
}

/// Texts that YAML could take for something else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\n\t]{0,40}",
        "(def [a-z]{1,5}\\(\\):\n    return '[ -~]{0,90}'\n{0,3}){1,3}",
        "\\PC{0,20}",
        proptest::sample::select(vec![
            "null", "~", "yes", "1.10", "- a", "${HOME}", "$${A:-b}", "a: b # c", "\r\n", " x ", "",
            "!!str x",
        ])
        .prop_map(str::to_owned),
    ]
    .prop_filter("a value is no reference and holds no NUL", |text| {
        !text.starts_with("env:") && !text.starts_with("file:") && !text.contains('\0')
    })
}

fn secret() -> impl Strategy<Value = SecretRef> {
    prop_oneof!["env:[A-Z]{1,4}", "file:/[a-z ${}#:']{1,4}"].prop_map(|text: String| text.parse().unwrap())
}

fn duration() -> impl Strategy<Value = Duration> {
    (10_u64..7_000_000).prop_map(Duration::from_millis)
}

prop_compose! {
    fn topic(name: String)(
        durability in prop_oneof![Just(Durability::Memory), Just(Durability::Fsync), Just(Durability::Quorum(3))],
        max_age in option::of(duration()), max_bytes in option::of(any::<u64>()), drop_unread: bool, compact: bool,
        dedup_window in duration(), max_message_bytes in 1..1000_usize,
    ) -> Topic {
        Topic {
            name: name.parse().unwrap(), durability, dedup_window, max_message_bytes,
            retention: Retention { max_age, max_bytes, max_messages: None, drop_unread, compact },
        }
    }
}

prop_compose! {
    fn subscription(name: String)(
        patterns in vec(word().prop_map(|word| format!("{word}.*").parse().unwrap()), 1..3),
        start in prop_oneof![Just(StartAt::End), any::<u64>().prop_map(StartAt::Offset),
            (0..4_000_000_000_000_i64).prop_map(|at| StartAt::Time(Timestamp(at)))],
        factor in 1.0..100.0, first in duration(), lease in duration(),
        order in prop_oneof![Just(Order::None), Just(Order::Key)],
        sharing in prop_oneof![Just(Sharing::Shared), Just(Sharing::Failover), Just(Sharing::Exclusive)],
        filter in option::of((btree_map("[a-z:-]{1,6}", text(), 1..3), option::of(text()))),
    ) -> Subscription {
        let filter = filter.map(|(headers, jq)| Filter { headers, jq });
        Subscription {
            start, lease, order, sharing, filter, backoff: Backoff { first, factor, max: first * 2 },
            ..Subscription::new(name.parse().unwrap(), patterns)
        }
    }
}

prop_compose! {
    fn service(name: String)(
        code in text().prop_filter("code is there", |code| !code.trim().is_empty()),
        processes in 1..64_u32, timeout in duration().prop_filter("at most 1h", |t| *t <= Duration::from_secs(3600)),
        memory in 64_u64..5000,
        env in btree_map("[A-Z_]{1,5}", prop_oneof![text().prop_map(EnvValue::Literal),
            secret().prop_map(EnvValue::Secret)], 0..4),
    ) -> ServiceSpec {
        let settings = ServiceSettings { processes, timeout, memory: Size::mib(memory), env };
        ServiceSpec::new(name.parse().unwrap(), Some(code), settings)
    }
}

prop_compose! {
    fn channel(name: String)(
        methods in proptest::sample::subsequence(Method::ALL.to_vec(), 1..4),
        hmac in option::of((text(), secret())), authenticate: bool,
    ) -> RestChannel {
        RestChannel {
            path: format!("/{name}/$$a/{{id}}").parse().unwrap(), name: name.parse().unwrap(),
            methods, service: Some("s".parse().unwrap()), topic: None, timeout: Duration::from_millis(1500),
            max_body: Size(1500), authenticate, message_id_header: Some("X-$$".into()), key_header: None,
            hmac_sha256: hmac.map(|(prefix, secret)| Hmac { header: "X-S".into(), prefix, secret }),
        }
    }
}

/// So many things of different names.
fn named<T: std::fmt::Debug, S: Strategy<Value = T>>(one: fn(String) -> S) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::btree_set(word(), 0..4)
        .prop_flat_map(move |names| names.into_iter().map(one).collect::<Vec<_>>())
}

prop_compose! {
    fn user(name: String)(password in option::of(secret()), api_key in option::of(secret())) -> UserSpec {
        UserSpec { name: name.parse().unwrap(), password, api_key }
    }
}

prop_compose! {
    fn permission(name: String)(
        publish in vec(pattern(), 0..3), invoke in vec(pattern(), 0..3), admin: bool,
    ) -> Permission {
        Permission { name: name.parse().unwrap(), users: vec![], publish, consume: vec![], invoke, admin }
    }
}

prop_compose! {
    fn document()(
        topics in named(topic), subscriptions in named(subscription), services in named(service),
        users in named(user), permissions in named(permission), rest_channels in named(channel),
    ) -> Document {
        let everybody: Vec<Name> = users.iter().map(|user| user.name.clone()).collect();
        let permissions = permissions.into_iter().map(|p| Permission { users: everybody.clone(), ..p }).collect();
        Document { topics, subscriptions, services, users, permissions, rest_channels }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn what_was_applied_changes_nothing(before in document(), document in document()) {
        let current = applied(State::default(), &before);
        let now = applied(current, &document);
        for step in steps(&now, &document) {
            prop_assert_eq!(step.action, Action::Unchanged, "{:?}", step);
        }
    }

    #[test]
    fn the_steps_are_those_that_are_needed(before in document(), document in document()) {
        let current = applied(State::default(), &before);
        let steps = steps(&current, &document);
        let now = applied(current.clone(), &document);
        let created = |kind| steps.iter().filter(|s| s.kind == kind && s.action == Action::Create).count();
        prop_assert_eq!(created(Kind::Topic), now.topics.len() - current.topics.len());
        prop_assert_eq!(created(Kind::User), now.users.len() - current.users.len());
        for step in steps {
            let (before, after) = match step.kind {
                Kind::Topic => (format!("{:?}", current.topics.get(step.name.as_str())),
                    format!("{:?}", now.topics.get(step.name.as_str()))),
                Kind::Subscription => (format!("{:?}", current.subscriptions.get(step.name.as_str())),
                    format!("{:?}", now.subscriptions.get(step.name.as_str()))),
                Kind::Permission => (format!("{:?}", current.permissions.get(step.name.as_str())),
                    format!("{:?}", now.permissions.get(step.name.as_str()))),
                Kind::RestChannel => (format!("{:?}", current.rest_channels.get(step.name.as_str())),
                    format!("{:?}", now.rest_channels.get(step.name.as_str()))),
                Kind::Service | Kind::User => continue,
            };
            prop_assert_eq!(step.action == Action::Unchanged, before == after, "{:?}", step);
        }
    }

    #[test]
    fn a_document_survives_its_yaml(document in document()) {
        let yaml = document.to_yaml().unwrap();
        for variables in [None, Some(HashMap::new())] {
            match parse(yaml.as_bytes(), variables.as_ref(), None) {
                Ok(parsed) => prop_assert_eq!(&parsed.document, &document, "{}", yaml),
                Err(invalid) => prop_assert!(false, "{}\n{}", invalid, yaml),
            }
        }
    }

    #[test]
    fn an_export_changes_nothing_and_holds_no_secret(document in document()) {
        let current = applied(State::default(), &document);
        let yaml = current.export().to_yaml().unwrap();
        let read = match parse(yaml.as_bytes(), Some(&HashMap::new()), Some(&current)) {
            Ok(parsed) => parsed.document,
            Err(invalid) => return Err(TestCaseError::fail(format!("{invalid}\n{yaml}"))),
        };
        prop_assert_eq!(read.users.len(), document.users.len());
        prop_assert!(read.users.iter().all(|user| user.password.is_none() && user.api_key.is_none()));
        for step in steps(&current, &read) {
            prop_assert_eq!(step.action, Action::Unchanged, "{:?}\n{}", step, yaml);
        }
    }

    /// Whatever comes in, an answer comes out.
    #[test]
    fn no_bytes_are_too_much(bytes in vec(any::<u8>(), 0..200), text in "[-a-z:\\[\\]{}&*!|>'\"#%@,? \n\t]{0,200}") {
        let _ = parse(&bytes, None, None);
        let _ = parse(text.as_bytes(), Some(&HashMap::new()), Some(&State::default()));
        let _ = parse(format!("topics:\n  - {text}").as_bytes(), None, None);
    }
}

#[test]
fn what_the_system_made_is_not_exported() {
    let mut state = State::default();
    let log = Topic::new("_logs.route".parse().unwrap());
    state.topics.insert(log.name.clone(), log);
    assert_eq!(state.export(), Document::default());
    assert_eq!(state.export().to_yaml().unwrap().trim(), "{}");
}
