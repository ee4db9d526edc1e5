//! Messages, in and out.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crossdock_topics::time::human;
use crossdock_topics::{Durability, Error, Expected, Record, Timestamp, TopicName};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Headers, schema};

/// A message as it lies in a topic, in the same shape as the gateway shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// The topic it lies in.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// Its offset there.
    pub offset: u64,
    /// When the broker stored it.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Its key.
    pub key: Option<String>,
    /// Its id.
    pub id: Option<String>,
    /// Its headers.
    #[serde(default)]
    pub headers: Headers,
    /// The media type of the payload.
    pub content_type: Option<String>,
    /// Ties a reply, or a chain of messages, to what caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The topic on which the sender would like an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// After this moment it is not delivered any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Subscriptions hand it out from this moment on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deliver_at: Option<Timestamp>,
    /// 1 to 9, larger is more urgent; absent for 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The payload, when its content type is JSON and it is.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schema::Any, required = false)]
    pub data: Option<Box<RawValue>>,
    /// The payload otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

impl Message {
    /// A stored message for whoever reads it.
    #[must_use]
    pub fn new(topic: TopicName, offset: u64, time: Timestamp, record: &Record) -> Self {
        let payload = record.payload();
        let data: Option<Box<RawValue>> = record
            .content_type()
            .filter(|kind| is_json(kind))
            .and_then(|_| serde_json::from_slice(&payload).ok());
        Self {
            topic,
            offset,
            time,
            key: record.key().map(str::to_owned),
            id: record.id().map(str::to_owned),
            headers: record.headers().collect(),
            content_type: record.content_type().map(str::to_owned),
            correlation_id: record.correlation_id().map(str::to_owned),
            reply_to: record.reply_to().map(str::to_owned),
            traceparent: record.traceparent().map(str::to_owned),
            expires_at: record.expires_at(),
            deliver_at: record.deliver_at(),
            priority: Some(record.priority()).filter(|priority| *priority > 0),
            data_base64: data.is_none().then(|| STANDARD.encode(&payload)),
            data,
        }
    }

    /// The payload's bytes.
    ///
    /// # Errors
    /// `InvalidArgument` when `data_base64` is not base64.
    pub fn payload(&self) -> Result<Bytes, Error> {
        payload(self.data.as_deref(), self.data_base64.as_deref())
    }
}

/// Messages of a topic, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessagePage {
    /// The messages.
    pub messages: Vec<Message>,
    /// The offset to go on reading from.
    pub next: u64,
}

/// A message to publish. Its payload is `data` or `data_base64`, or empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMessage {
    /// Messages with the same key belong together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Publishing the same id again within the topic's window stores nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
    /// Ties a reply, or a chain of messages, to what caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// After so long it is not delivered any more, such as `1h`.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1h")]
    pub expires_in: Option<Duration>,
    /// Subscriptions hand it out after so long, such as `30s`.
    #[serde(default, with = "human::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "30s")]
    pub deliver_in: Option<Duration>,
    /// 0 to 9, larger is more urgent; 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 9)]
    pub priority: Option<u8>,
    /// The media type of the payload; `application/json` if it is given as `data` and nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// A payload of JSON, stored as it is written here.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schema::Any, required = false)]
    pub data: Option<Box<RawValue>>,
    /// A payload of any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

impl NewMessage {
    /// A message of these bytes: as `data` when the content type is JSON and they are, else in base64.
    #[must_use]
    pub fn of(payload: &[u8], content_type: Option<String>) -> Self {
        let data = content_type.as_deref().filter(|kind| is_json(kind)).and_then(|_| exact_json(payload));
        let data_base64 = data.is_none().then(|| STANDARD.encode(payload));
        Self { content_type, data, data_base64, ..Self::default() }
    }

    /// The message it stands for when it is published `now`.
    ///
    /// # Errors
    /// `InvalidArgument` when the payload is given twice, is not base64, or is JSON under a content type that
    /// is not.
    pub fn into_message(self, now: Timestamp) -> Result<crossdock_topics::Message, Error> {
        if self.data.is_some() && self.data_base64.is_some() {
            return Err(Error::invalid("data and data_base64 are both given").hint("leave out one of them"));
        }
        if let (Some(_), Some(kind)) = (&self.data, &self.content_type)
            && !is_json(kind)
        {
            return Err(Error::invalid(format!("data is JSON, but content_type is {kind:?}"))
                .hint("send other content as data_base64"));
        }
        let payload = payload(self.data.as_deref(), self.data_base64.as_deref())?;
        let json = self.data.is_some().then(|| "application/json".to_owned());
        Ok(crossdock_topics::Message {
            key: self.key.map(Into::into),
            id: self.id.map(Into::into),
            content_type: self.content_type.or(json).map(Into::into),
            headers: self.headers.0.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
            correlation_id: self.correlation_id.map(Into::into),
            expires_at: self.expires_in.map(|wait| now.after(wait)),
            deliver_at: self.deliver_in.map(|wait| now.after(wait)),
            priority: self.priority.unwrap_or_default(),
            payload,
            ..crossdock_topics::Message::default()
        })
    }
}

/// Messages to publish, in one piece: all of them are stored, one after another, or none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRequest {
    /// The messages: 1 to 10,000.
    pub messages: Vec<NewMessage>,
    /// How safe they must be before the answer, if more than the topic asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Durability>)]
    pub durability: Option<Durability>,
    /// What must be true of the topic for them to be stored; otherwise the answer is `conflict` and says what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expectation>,
}

/// What a topic's log must end with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The newest message of this key is meant, on a topic that is compacted; that of the whole topic when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The offset of the newest message; `null` for none.
    #[serde(deserialize_with = "said")]
    pub last: Option<u64>,
}

impl From<Expectation> for Expected {
    fn from(expectation: Expectation) -> Self {
        match expectation.key {
            Some(key) => Self::LastOfKey(key, expectation.last),
            None => Self::Last(expectation.last),
        }
    }
}

/// What a publisher holds for its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// The topic they lie in.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// How safe they are.
    #[schema(value_type = schema::Durability)]
    pub durability: Durability,
    /// One for each message, in order.
    pub receipts: Vec<PublishReceipt>,
}

/// What a publisher holds for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishReceipt {
    /// Where it lies; for a duplicate, where the first one lies.
    pub offset: u64,
    /// Whether its id had been stored before, so that nothing was stored now.
    pub duplicate: bool,
}

pub(super) fn payload(data: Option<&RawValue>, data_base64: Option<&str>) -> Result<Bytes, Error> {
    match (data, data_base64) {
        (Some(data), _) => Ok(Bytes::copy_from_slice(data.get().as_bytes())),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|cause| Error::invalid(format!("data_base64 is not base64: {cause}"))),
        (None, None) => Ok(Bytes::new()),
    }
}

/// A field that is there, also when it says `null`: that is a payload like any other.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// A field that must be there, were it only to say `null`.
fn said<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Option::deserialize(deserializer)
}

fn is_json(content_type: &str) -> bool {
    HeaderValue::from_str(content_type).is_ok_and(|kind| crossdock_http::is_json(&kind))
}

/// The payload as JSON text, when nothing of it gets lost so: blanks around the value would.
fn exact_json(payload: &[u8]) -> Option<Box<RawValue>> {
    let value: Box<RawValue> = serde_json::from_slice(payload).ok()?;
    (value.get().len() == payload.len()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<crossdock_topics::Message, Error> {
        serde_json::from_str::<NewMessage>(text).unwrap().into_message(Timestamp(1_000))
    }

    #[test]
    fn json_is_stored_as_it_was_written() {
        let message = read(r#"{"key": "k", "data": {"n": 12345678901234567890.10, "b":1}}"#).unwrap();
        assert_eq!(&message.payload[..], br#"{"n": 12345678901234567890.10, "b":1}"#);
        assert_eq!(message.content_type.as_deref(), Some("application/json"));
    }

    #[test]
    fn times_count_from_when_it_is_published() {
        let message = read(
            r#"{"data": 1, "correlation_id": "c", "expires_in": "1h", "deliver_in": "500ms", "priority": 7}"#,
        )
        .unwrap();
        assert_eq!(message.expires_at, Some(Timestamp(3_601_000)));
        assert_eq!(message.deliver_at, Some(Timestamp(1_500)));
        assert_eq!((message.priority, message.correlation_id.as_deref()), (7, Some("c")));
        assert!(serde_json::from_str::<NewMessage>(r#"{"data": 1, "deliver_in": "soon"}"#).is_err());
        assert!(Record::of(&read(r#"{"data": 1, "priority": 10}"#).unwrap()).is_err());
    }

    #[test]
    fn a_payload_is_given_once_and_fits_its_content_type() {
        for wrong in [
            r#"{"data": 1, "data_base64": "AA=="}"#,
            r#"{"data_base64": "!"}"#,
            r#"{"data": "text", "content_type": "text/plain"}"#,
        ] {
            assert_eq!(
                read(wrong).unwrap_err().code,
                crossdock_topics::ErrorCode::InvalidArgument,
                "{wrong}"
            );
        }
        assert!(
            read(r#"{"data": 1, "content_type": "application/cloudevents+json; charset=utf-8"}"#).is_ok()
        );
        assert!(read("{}").unwrap().payload.is_empty());
    }

    #[test]
    fn any_payload_survives_the_way_out_and_in() {
        for (payload, kind) in [
            (&br#"{"a":1}"#[..], "application/json"),
            (b"{broken", "application/json"),
            (b"null", "application/json"),
            (b" 1 ", "application/json"),
            (b"\xff\x00", "image/png"),
        ] {
            let new = NewMessage::of(payload, Some(kind.to_owned()));
            let message = serde_json::from_str::<NewMessage>(&serde_json::to_string(&new).unwrap()).unwrap();
            let message = message.into_message(Timestamp(0)).unwrap();
            assert_eq!(message.payload, payload);
            let record = Record::of(&message).unwrap();
            let shown = Message::new("orders".parse().unwrap(), 1, Timestamp(0), &record);
            assert_eq!(shown.payload().unwrap().trim_ascii(), payload.trim_ascii());
        }
    }

    #[test]
    fn an_expectation_says_what_it_expects() {
        let read = |text: &str| serde_json::from_str::<Expectation>(text).map(Expected::from);
        assert_eq!(read(r#"{"last": 7}"#).unwrap(), Expected::Last(Some(7)));
        assert_eq!(read(r#"{"last": null}"#).unwrap(), Expected::Last(None));
        assert_eq!(read(r#"{"key": "a", "last": null}"#).unwrap(), Expected::LastOfKey("a".into(), None));
        for wrong in ["{}", r#"{"key": "a"}"#, r#"{"last": -1}"#, r#"{"last": "none"}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_message_looks_as_the_gateway_shows_it() {
        let mut message = crossdock_topics::Message::json(r#"{"a": 1}"#).with_key("k").with_header("x", "1");
        let plain = crossdock_topics::Message::new("\u{0}");
        message.correlation_id = Some("c".into());
        message.expires_at = Some(Timestamp(5));
        message.deliver_at = Some(Timestamp(4));
        message.priority = 3;
        let topic: TopicName = "orders".parse().unwrap();
        for message in [message, plain] {
            let record = Record::of(&message).unwrap();
            let stored = crossdock_topics::Stored { offset: 7, time: Timestamp(0), record };
            let ours = Message::new(topic.clone(), 7, Timestamp(0), &stored.record);
            let theirs = crossdock_http::MessageJson::stored(&topic, &stored);
            assert_eq!(serde_json::to_value(ours).unwrap(), serde_json::to_value(theirs).unwrap());
        }
    }
}
