//! From what a cluster is to a document that says so.

use std::collections::BTreeMap;

use crossdock_topics::{Error, Filter, Result, Subscription};
use serde::{Serialize, Serializer};
use serde_saphyr::DoubleQuoted;

use crate::{Document, ServiceSpec, State, UserSpec};

impl State {
    /// The document that says what the cluster is now: applied to it, it changes nothing. Services come with
    /// the code that runs. Users come without their secrets, which stay as they are where the document is
    /// applied again. The system's own topics and subscriptions are left out.
    #[must_use]
    pub fn export(&self) -> Document {
        Document {
            topics: self.topics.values().filter(|topic| !topic.name.is_system()).cloned().collect(),
            subscriptions: self
                .subscriptions
                .values()
                .filter(|subscription| !subscription.name.as_str().starts_with('_'))
                .cloned()
                .collect(),
            services: self
                .services
                .values()
                .map(|service| {
                    let code = self.code.get(&service.current).cloned();
                    ServiceSpec::new(service.name.clone(), code, service.settings.clone())
                })
                .collect(),
            users: self
                .users
                .keys()
                .map(|name| UserSpec { name: name.clone(), password: None, api_key: None })
                .collect(),
            permissions: self.permissions.values().cloned().collect(),
            rest_channels: self.rest_channels.values().cloned().collect(),
        }
    }
}

impl Document {
    /// The document as YAML that [`crate::parse()`] reads back as it is, with or without variables.
    ///
    /// # Errors
    /// `Internal`, should it hold what YAML cannot.
    pub fn to_yaml(&self) -> Result<String> {
        // Texts with a `$` are double-quoted, and nothing else holds one: there its escape stands for it, and is
        // never the beginning of a variable.
        serde_saphyr::to_string(self)
            .map(|yaml| yaml.replace("${", "\\x24{"))
            .map_err(|cause| Error::internal(format!("the configuration cannot be written as YAML: {cause}")))
    }
}

/// Writes a text that may hold a `$`: it is quoted in YAML then, so that [`Document::to_yaml`] can escape it.
pub(crate) fn literally<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if text.contains('$') { DoubleQuoted(text).serialize(serializer) } else { serializer.serialize_str(text) }
}

/// Writes subscriptions, whose filters may hold a `$`.
pub(crate) fn subscriptions<S: Serializer>(all: &[Subscription], serializer: S) -> Result<S::Ok, S::Error> {
    struct Literal<'a>(&'a str);
    impl Serialize for Literal<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            literally(self.0, serializer)
        }
    }
    #[derive(Serialize)]
    struct Choice<'a> {
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<&'a str, Literal<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jq: Option<Literal<'a>>,
    }
    #[derive(Serialize)]
    struct Written<'a> {
        #[serde(flatten)]
        rest: Subscription,
        #[serde(skip_serializing_if = "Option::is_none")]
        filter: Option<Choice<'a>>,
    }
    fn choice(filter: &Filter) -> Choice<'_> {
        Choice {
            headers: filter.headers.iter().map(|(name, value)| (name.as_str(), Literal(value))).collect(),
            jq: filter.jq.as_deref().map(Literal),
        }
    }
    serializer.collect_seq(all.iter().map(|subscription| Written {
        rest: Subscription { filter: None, ..subscription.clone() },
        filter: subscription.filter.as_ref().map(choice),
    }))
}

/// The same for a text that may be absent.
#[allow(clippy::ref_option)] // the shape serde asks for
pub(crate) fn literally_if<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => literally(text, serializer),
        None => serializer.serialize_none(),
    }
}
