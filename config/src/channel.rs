//! REST channels: paths of the gateway that lead to a service or a topic.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crossdock_topics::time::human;
use crossdock_topics::{Error, ServiceName, TopicName};
use serde::{Deserialize, Serialize};

use crate::{Name, PathTemplate, SecretRef, Size};

/// A path of the gateway that leads to a service (whose reply is the response) or to a topic (202). Exactly
/// one of `service` and `topic` is there once [`RestChannel::check`] has passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestChannel {
    /// Its name.
    pub name: Name,
    /// The path it answers to.
    pub path: PathTemplate,
    /// The methods it answers to.
    #[serde(default = "RestChannel::default_methods")]
    pub methods: Vec<Method>,
    /// The service that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The topic that is published to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicName>,
    /// How long a caller waits for a service's reply, or for the topic's receipt. 1 ms to 10 min.
    #[serde(default = "RestChannel::default_timeout", with = "human")]
    pub timeout: Duration,
    /// The largest request body.
    #[serde(default = "RestChannel::default_max_body")]
    pub max_body: Size,
    /// Whether callers must say who they are; they then need the permission to invoke the service or to
    /// publish to the topic.
    #[serde(default = "RestChannel::default_authenticate")]
    pub authenticate: bool,
    /// The header whose value becomes the message's id, so that a repeated request is stored once.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::export::literally_if"
    )]
    pub message_id_header: Option<String>,
    /// The header whose value becomes the message's key.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "crate::export::literally_if"
    )]
    pub key_header: Option<String>,
    /// The signature each request must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac_sha256: Option<Hmac>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// To a service, whose reply is the response.
    Service(&'a ServiceName),
    /// To a topic; the response says that it is stored.
    Topic(&'a TopicName),
}

impl RestChannel {
    /// The longest wait for a reply.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);

    /// Where a request goes.
    ///
    /// # Errors
    /// `InvalidArgument` when both or neither of service and topic are named.
    pub fn target(&self) -> Result<Target<'_>, Error> {
        match (&self.service, &self.topic) {
            (Some(service), None) => Ok(Target::Service(service)),
            (None, Some(topic)) => Ok(Target::Topic(topic)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("channel {} names both a service and a topic", self.name))
                    .hint("keep one of service and topic"))
            }
            (None, None) => Err(Error::invalid(format!("channel {} leads nowhere", self.name))
                .hint("name the service that answers, or the topic that requests are stored in")),
        }
    }

    fn default_methods() -> Vec<Method> {
        vec![Method::Post]
    }

    fn default_timeout() -> Duration {
        Duration::from_secs(10)
    }

    fn default_max_body() -> Size {
        Size::mib(1)
    }

    fn default_authenticate() -> bool {
        true
    }
}

/// A signature over the request's body that proves who sent it, as GitHub and others do:
/// `HEADER: PREFIX` followed by the HMAC-SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hmac {
    /// The header that carries the signature.
    #[serde(serialize_with = "crate::export::literally")]
    pub header: String,
    /// What stands before the hexadecimal digits.
    #[serde(default, serialize_with = "crate::export::literally")]
    pub prefix: String,
    /// The secret both sides know.
    pub secret: SecretRef,
}

/// A request's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// GET; HEAD comes with it.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// The method as it stands in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
            Error::invalid(format!("{text:?} is not a method"))
                .hint("use GET, POST, PUT, PATCH, DELETE or OPTIONS, in capitals")
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Method {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
