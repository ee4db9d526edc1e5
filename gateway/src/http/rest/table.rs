//! The channels as they are now, and which one a request is for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock_config as config;
use crossdock_config::RestChannel;
use crossdock_topics::{Entry, Error, Result, ServiceName, TopicName};
use http::{HeaderName, Method};

use super::signature::Signature;

/// A channel, ready for requests.
pub(super) struct Channel {
    pub(super) target: Target,
    pub(super) timeout: Duration,
    pub(super) max_body: usize,
    pub(super) authenticate: bool,
    pub(super) message_id_header: Option<HeaderName>,
    pub(super) key_header: Option<HeaderName>,
    pub(super) signature: Signature,
    /// The names of the path's parameters, each as the header that carries it (`:param.NAME`).
    pub(super) parameters: Vec<String>,
    name: String,
    path: config::PathTemplate,
    methods: Vec<config::Method>,
}

/// Where a request goes.
pub(super) enum Target {
    Service(ServiceName),
    Topic(TopicName),
}

/// What a table has for a request.
pub(super) enum Found {
    /// A channel, and the values of its path's parameters, still percent-encoded.
    Channel(Arc<Channel>, Vec<String>),
    /// Channels, but for other methods: these.
    OtherMethods(String),
    Nothing,
}

/// All channels, by path and method. A new one takes its place when the configuration changes; requests under
/// way finish with theirs.
#[derive(Default)]
pub(in crate::http) struct Table {
    paths: matchit::Router<Vec<Arc<Channel>>>,
    /// By key, with the revision each was made from.
    channels: BTreeMap<String, (u64, Arc<Channel>)>,
}

impl Table {
    /// The table for these entries. Channels that are as they were are taken over, so that secrets are read when
    /// their channel changes and at no other time.
    pub(in crate::http) async fn updated(&self, entries: &BTreeMap<String, Entry>) -> Self {
        let mut channels = BTreeMap::new();
        for entry in entries.values() {
            let channel = match self.channels.get(&entry.key) {
                Some((revision, channel)) if *revision == entry.revision => channel.clone(),
                _ => match compile(entry).await {
                    Ok(channel) => Arc::new(channel),
                    Err(error) => {
                        tracing::error!(key = entry.key, %error, "a REST channel cannot be used");
                        continue;
                    }
                },
            };
            channels.insert(entry.key.clone(), (entry.revision, channel));
        }
        let mut by_shape: BTreeMap<String, Vec<Arc<Channel>>> = BTreeMap::new();
        for (_, channel) in channels.values() {
            let at_path = by_shape.entry(pattern(&channel.path)).or_default();
            let taken =
                |other: &Arc<Channel>| other.methods.iter().any(|method| channel.methods.contains(method));
            if let Some(other) = at_path.iter().find(|other| taken(other)) {
                // The configuration refuses this; two servers may have been told at the same moment.
                tracing::error!(
                    channel = channel.name,
                    taken_by = other.name,
                    "the path and method are taken"
                );
                continue;
            }
            at_path.push(channel.clone());
        }
        let mut paths = matchit::Router::new();
        for (pattern, at_path) in by_shape {
            if let Err(error) = paths.insert(&pattern, at_path) {
                tracing::error!(pattern, %error, "the path of a REST channel collides with another's");
            }
        }
        Self { paths, channels }
    }

    /// The channel for a request. HEAD is GET to a service; a topic is never written to by it.
    pub(super) fn find(&self, method: &Method, path: &str) -> Found {
        let Ok(matched) = self.paths.at(path) else { return Found::Nothing };
        let wanted = if *method == Method::HEAD { "GET" } else { method.as_str() };
        let takes = |channel: &&Arc<Channel>| {
            channel.methods.iter().any(|method| method.as_str() == wanted)
                && (*method != Method::HEAD || matches!(channel.target, Target::Service(_)))
        };
        match matched.value.iter().find(takes) {
            Some(channel) => {
                let values = matched.params.iter().map(|(_, value)| value.to_owned()).collect();
                Found::Channel(channel.clone(), values)
            }
            None => {
                let all: Vec<_> =
                    matched.value.iter().flat_map(|channel| &channel.methods).map(|m| m.as_str()).collect();
                Found::OtherMethods(all.join(", "))
            }
        }
    }
}

/// The path as the router takes it. Parameters are numbered: two channels may share a path and name its
/// parameters differently.
fn pattern(path: &config::PathTemplate) -> String {
    let mut number = 0;
    let mut numbered = |segment: &str| {
        number += 1;
        segment.replace("{*}", &format!("{{*p{number}}}")).replace("{}", &format!("{{p{number}}}"))
    };
    path.shape().split('/').map(&mut numbered).collect::<Vec<_>>().join("/")
}

async fn compile(entry: &Entry) -> Result<Channel> {
    let channel: RestChannel = serde_json::from_slice(&entry.value)
        .map_err(|error| Error::invalid(format!("the definition is not understood: {error}")))?;
    let header = |name: Option<&String>| {
        name.map(|name| {
            name.parse::<HeaderName>().map_err(|_| Error::invalid(format!("{name:?} cannot name a header")))
        })
        .transpose()
    };
    Ok(Channel {
        target: match channel.target()? {
            config::Target::Service(service) => Target::Service(service.clone()),
            config::Target::Topic(topic) => Target::Topic(topic.clone()),
        },
        timeout: channel.timeout.min(RestChannel::MAX_TIMEOUT),
        max_body: channel.max_body.bytes(),
        authenticate: channel.authenticate,
        message_id_header: header(channel.message_id_header.as_ref())?,
        key_header: header(channel.key_header.as_ref())?,
        signature: match channel.hmac_sha256.clone() {
            None => Signature::None,
            Some(hmac) => {
                let name = header(Some(&hmac.header))?;
                let name = name.ok_or_else(|| Error::invalid("hmac_sha256 names no header"))?;
                // Reading a file can block.
                let read = tokio::task::spawn_blocking(move || (hmac.secret.resolve(), hmac.prefix)).await;
                let (secret, prefix) =
                    read.map_err(|_| Error::internal("reading a secret was interrupted"))?;
                Signature::new(&channel.name, name, prefix, secret)
            }
        },
        parameters: channel.path.parameters().map(|name| format!(":param.{name}")).collect(),
        name: channel.name.to_string(),
        path: channel.path,
        methods: channel.methods,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn table(channels: &[&str]) -> Table {
        let entries = channels.iter().enumerate().map(|(index, json)| {
            let key = format!("rest_channels/c{index}");
            (key.clone(), Entry { key, value: json.as_bytes().to_vec().into(), revision: 1 })
        });
        Table::default().updated(&entries.collect()).await
    }

    fn name(table: &Table, method: &str, path: &str) -> String {
        match table.find(&method.parse().unwrap(), path) {
            Found::Channel(channel, values) => format!("{} {}", channel.name, values.join(",")),
            Found::OtherMethods(allow) => format!("405 {allow}"),
            Found::Nothing => "404".into(),
        }
    }

    #[tokio::test]
    async fn a_request_finds_its_channel_by_path_and_method() {
        let table = table(&[
            r#"{"name": "one", "path": "/orders/{id}", "methods": ["GET"], "service": "orders"}"#,
            r#"{"name": "new", "path": "/orders/{order}", "methods": ["PUT"], "topic": "orders"}"#,
            r#"{"name": "fixed", "path": "/orders/new", "service": "orders"}"#,
            r#"{"name": "rest", "path": "/files/{*rest}", "methods": ["GET"], "topic": "files"}"#,
            r#"{"name": "root", "path": "/", "service": "root"}"#,
        ])
        .await;
        assert_eq!(name(&table, "GET", "/orders/7"), "one 7");
        assert_eq!(name(&table, "HEAD", "/orders/7"), "one 7");
        assert_eq!(name(&table, "PUT", "/orders/a%2Fb"), "new a%2Fb");
        assert_eq!(name(&table, "DELETE", "/orders/7"), "405 GET, PUT");
        assert_eq!(name(&table, "POST", "/orders/new"), "fixed ");
        assert_eq!(name(&table, "GET", "/files/a/b"), "rest a/b");
        assert_eq!(name(&table, "HEAD", "/files/a/b"), "405 GET");
        assert_eq!(name(&table, "POST", "/"), "root ");
        assert_eq!(name(&table, "GET", "/nowhere"), "404");
    }

    #[tokio::test]
    async fn what_cannot_be_used_leaves_the_others_alone() {
        let table = table(&[
            "not json",
            r#"{"name": "first", "path": "/a/{x}", "service": "s"}"#,
            r#"{"name": "second", "path": "/a/{y}", "service": "s"}"#,
            r#"{"name": "nowhere", "path": "/b"}"#,
        ])
        .await;
        assert_eq!(name(&table, "POST", "/a/1"), "first 1");
        assert_eq!(name(&table, "POST", "/b"), "404");
    }

    #[tokio::test]
    async fn an_unchanged_channel_is_taken_over() {
        let first = table(&[r#"{"name": "a", "path": "/a", "service": "s"}"#]).await;
        let (key, (revision, channel)) = first.channels.first_key_value().unwrap();
        let mut entry = Entry { key: key.clone(), value: "gone".into(), revision: *revision };
        let second = first.updated(&[(key.clone(), entry.clone())].into()).await;
        assert!(Arc::ptr_eq(channel, &second.channels[key].1));
        entry.revision += 1;
        assert!(first.updated(&[(key.clone(), entry)].into()).await.channels.is_empty());
    }
}
