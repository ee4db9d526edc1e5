//! Whether what a document says makes sense, together and with what the cluster has.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crossdock_topics::message::MAX_PAYLOAD;
use crossdock_topics::{Error, TopicName};

use crate::channel::{Hmac, RestChannel};
use crate::node::{Node, Value};
use crate::parse::{Entries, Entry, Faults};
use crate::{PathTemplate, Size, State};

/// Adds a fault for everything that does not make sense.
pub(crate) fn check<'n>(entries: &Entries<'n>, current: Option<&State>, faults: &mut Faults<'n>) {
    topics(entries, faults);
    subscriptions(entries, current, faults);
    services(entries, current, faults);
    permissions(entries, current, faults);
    rest_channels(entries, current, faults);
}

/// The field of an entry that an error's message speaks of, as far as it is written there.
fn spoken_of(node: &Node, message: &str) -> String {
    let Value::Map(fields) = &node.value else { return String::new() };
    let words: HashSet<&str> = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    match fields.iter().find(|(key, _)| key.text != "name" && words.contains(key.text.as_str())) {
        Some((key, value)) => match spoken_of(value, message) {
            inner if inner.is_empty() => key.text.clone(),
            inner => format!("{}.{inner}", key.text),
        },
        None => String::new(),
    }
}

/// What a kind's own check says, at the field that it speaks of.
fn own<'n, T>(entry: &Entry<'n, T>, checked: Result<(), Error>, faults: &mut Faults<'n>) {
    if let Err(error) = checked {
        faults.field(entry, &spoken_of(entry.node, &error.message), error.to_string());
    }
}

/// What begins with `_` is the system's own.
fn not_system<'n, T>(entry: &Entry<'n, T>, name: &str, faults: &mut Faults<'n>) {
    if name.starts_with('_') {
        faults.field(entry, "name", format!("names that begin with '_', as {name:?}, are the system's own"));
    }
}

fn known_topic(entries: &Entries<'_>, current: Option<&State>, name: &TopicName) -> bool {
    entries.defines("topics", name.as_str()) || current.is_none_or(|state| state.topics.contains_key(name))
}

fn topics<'n>(entries: &Entries<'n>, faults: &mut Faults<'n>) {
    for entry in &entries.topics {
        not_system(entry, entry.value.name.as_str(), faults);
        own(entry, entry.value.check(), faults);
    }
}

fn subscriptions<'n>(entries: &Entries<'n>, current: Option<&State>, faults: &mut Faults<'n>) {
    for entry in &entries.subscriptions {
        not_system(entry, entry.value.name.as_str(), faults);
        own(entry, entry.value.check(), faults);
        for (index, pattern) in entry.value.topics.iter().enumerate() {
            if let Some(topic) = pattern.literal().filter(|topic| !known_topic(entries, current, topic)) {
                faults.field(
                    entry,
                    &format!("topics[{index}]"),
                    format!("there is no topic {topic}; define it under topics, or correct the name"),
                );
            }
        }
    }
}

fn services<'n>(entries: &Entries<'n>, current: Option<&State>, faults: &mut Faults<'n>) {
    for entry in &entries.services {
        let service = &entry.value;
        not_system(entry, service.name.as_str(), faults);
        own(entry, service.settings().check(), faults);
        let known = current.is_none_or(|state| state.services.contains_key(&service.name));
        match (&service.source, &service.code) {
            (_, Some(code)) if code.trim().is_empty() => {
                faults.field(entry, "code", "the code is empty; a service has at least one handler");
            }
            (Some(_), None) if current.is_some() => faults.field(
                entry,
                "source",
                "the file is not on the server; apply with the command-line client, which reads it, or send what \
                 it holds as code",
            ),
            (None, None) if !known => faults.field(
                entry,
                "",
                format!("the service {} has no code; name its file as source", service.name),
            ),
            _ => {}
        }
    }
}

fn permissions<'n>(entries: &Entries<'n>, current: Option<&State>, faults: &mut Faults<'n>) {
    for entry in &entries.permissions {
        for (index, user) in entry.value.users.iter().enumerate() {
            let known = entries.defines("users", user.as_str())
                || current.is_none_or(|state| state.users.contains_key(user));
            if !known {
                faults.field(
                    entry,
                    &format!("users[{index}]"),
                    format!("there is no user {user}; define it under users, or correct the name"),
                );
            }
        }
    }
}

fn rest_channels<'n>(entries: &Entries<'n>, current: Option<&State>, faults: &mut Faults<'n>) {
    for entry in &entries.rest_channels {
        channel(entry, faults);
        if let Some(topic) = entry.value.topic.as_ref().filter(|topic| !known_topic(entries, current, topic))
        {
            faults.field(
                entry,
                "topic",
                format!("there is no topic {topic}; define it under topics, or correct the name"),
            );
        }
    }
    collisions(entries, current, faults);
}

fn channel<'n>(entry: &Entry<'n, RestChannel>, faults: &mut Faults<'n>) {
    let channel = &entry.value;
    if let Err(error) = channel.target() {
        let field = if channel.service.is_some() { "service" } else { "" };
        faults.field(entry, field, error.to_string());
    }
    if let Some(topic) = channel.topic.as_ref().filter(|topic| topic.is_system()) {
        faults.field(
            entry,
            "topic",
            format!("{topic} is the system's own; publish to a topic of another name"),
        );
    }
    if let Some(service) = channel.service.as_ref().filter(|service| service.as_str().starts_with('_')) {
        faults.field(entry, "service", format!("{service} is the system's own; name a service of yours"));
    }
    if channel.methods.is_empty() {
        faults.field(entry, "methods", "no method is left; name at least one, or leave methods out for POST");
    }
    if channel.timeout < Duration::from_millis(1) || channel.timeout > RestChannel::MAX_TIMEOUT {
        faults.field(entry, "timeout", "timeout can be 1ms to 10m");
    }
    if channel.max_body.bytes() == 0 || channel.max_body.bytes() > MAX_PAYLOAD {
        let most = Size(MAX_PAYLOAD as u64);
        faults.field(entry, "max_body", format!("max_body is {}, it can be 1B to {most}", channel.max_body));
    }
    let headers = [
        ("message_id_header", channel.message_id_header.as_deref()),
        ("key_header", channel.key_header.as_deref()),
        ("hmac_sha256.header", channel.hmac_sha256.as_ref().map(|Hmac { header, .. }| header.as_str())),
    ];
    for (field, header) in headers {
        // The characters of a token, RFC 9110 section 5.6.2.
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if let Some(header) = header.filter(|header| header.is_empty() || !header.chars().all(token)) {
            faults.field(entry, field, format!("{header:?} cannot be the name of a header"));
        }
    }
}

/// Two channels that would answer the same requests, in the document or with those that the cluster has and the
/// document does not redefine.
fn collisions<'n>(entries: &Entries<'n>, current: Option<&State>, faults: &mut Faults<'n>) {
    let mut router = matchit::Router::new();
    let mut paths: HashMap<String, Vec<(&RestChannel, String)>> = HashMap::new();
    let others = current.into_iter().flat_map(|state| state.rest_channels.values());
    for channel in others.filter(|channel| !entries.defines("rest_channels", channel.name.as_str())) {
        // It can be there already, for another method; it was checked when it was put into the store.
        let _ = router.insert(routed(&channel.path), &channel.path);
        paths.entry(channel.path.shape()).or_default().push((channel, "which the cluster has".into()));
    }
    for entry in &entries.rest_channels {
        let channel = &entry.value;
        let alike = paths.entry(channel.path.shape()).or_default();
        let taken = alike.iter().find_map(|(other, place)| {
            let method = other.methods.iter().find(|method| channel.methods.contains(method))?;
            (other.name != channel.name).then_some((method, &other.name, place))
        });
        if let Some((method, other, place)) = taken {
            let message = format!("{method} {} goes to the channel {other} already, {place}", channel.path);
            faults.field(entry, "path", message);
        } else if alike.is_empty()
            && let Err(matchit::InsertError::Conflict { with }) =
                router.insert(routed(&channel.path), &channel.path)
        {
            let with = router.at(&with).map_or(with.clone(), |other| other.value.to_string());
            let message = format!("which of {} and {with} a request is for cannot be told", channel.path);
            faults.field(entry, "path", message);
        }
        alike.push((channel, format!("in line {}", entry.node.place.line)));
    }
}

/// A path with its parameters numbered: what they are called does not matter to which requests it takes.
fn routed(path: &PathTemplate) -> String {
    let mut count = 0;
    let segments = path.as_str().split('/').map(|segment| {
        let kind = if segment.starts_with("{*") { "*" } else { "" };
        if !segment.starts_with('{') {
            return segment.to_owned();
        }
        count += 1;
        format!("{{{kind}p{count}}}")
    });
    segments.collect::<Vec<_>>().join("/")
}
