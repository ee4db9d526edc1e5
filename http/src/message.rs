//! A message as JSON shows it.

use bytes::Bytes;
use crossdock_topics::{Delivery, DeliveryId, Record, Stored, Timestamp, TopicName};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

/// A stored message: `{delivery?, topic, offset, key, id, headers, content_type, time, attempt?, data}`, or
/// `data_base64` in place of `data` unless the payload is said to be JSON and is. `delivery` and `attempt` are
/// there when it was handed to a consumer. `correlation_id`, `reply_to`, `traceparent`, `expires_at`, `deliver_at` and
/// `priority` are there when the message has them. A header that repeats has a list of its values.
///
/// Writing it copies a JSON payload once, into the output.
#[derive(Debug)]
pub struct MessageJson<'a> {
    delivery: Option<(DeliveryId, u32)>,
    topic: &'a TopicName,
    offset: u64,
    time: Timestamp,
    record: &'a Record,
    payload: Bytes,
}

impl<'a> MessageJson<'a> {
    /// A message as it was handed to a consumer.
    #[must_use]
    pub fn delivered(delivery: &'a Delivery) -> Self {
        Self {
            delivery: Some((delivery.id, delivery.attempt)),
            topic: &delivery.topic,
            offset: delivery.offset,
            time: delivery.time,
            record: &delivery.record,
            payload: delivery.record.payload(),
        }
    }

    /// A message as it lies in its topic.
    #[must_use]
    pub fn stored(topic: &'a TopicName, stored: &'a Stored) -> Self {
        Self {
            delivery: None,
            topic,
            offset: stored.offset,
            time: stored.time,
            record: &stored.record,
            payload: stored.record.payload(),
        }
    }
}

impl Serialize for MessageJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let mut map = serializer.serialize_map(None)?;
        if let Some((delivery, _)) = self.delivery {
            map.serialize_entry("delivery", &delivery)?;
        }
        map.serialize_entry("topic", self.topic)?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("key", &record.key())?;
        map.serialize_entry("id", &record.id())?;
        map.serialize_entry("headers", &Headers(record))?;
        map.serialize_entry("content_type", &record.content_type())?;
        map.serialize_entry("time", &self.time)?;
        if let Some((_, attempt)) = self.delivery {
            map.serialize_entry("attempt", &attempt)?;
        }
        let optional = [
            ("correlation_id", record.correlation_id()),
            ("reply_to", record.reply_to()),
            ("traceparent", record.traceparent()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        for (name, moment) in [("expires_at", record.expires_at()), ("deliver_at", record.deliver_at())] {
            if let Some(moment) = moment {
                map.serialize_entry(name, &moment)?;
            }
        }
        if record.priority() > 0 {
            map.serialize_entry("priority", &record.priority())?;
        }
        match self.json() {
            Some(json) => map.serialize_entry("data", json)?,
            None => map.serialize_entry(
                "data_base64",
                &base64::display::Base64Display::new(
                    &self.payload,
                    &base64::engine::general_purpose::STANDARD,
                )
                .to_string(),
            )?,
        }
        map.end()
    }
}

impl MessageJson<'_> {
    /// The payload as JSON. It is checked here: not everybody who publishes is checked at the door.
    fn json(&self) -> Option<&RawValue> {
        let media = http::HeaderValue::from_str(self.record.content_type()?).ok()?;
        if !crate::is_json(&media) {
            return None;
        }
        serde_json::from_str(std::str::from_utf8(&self.payload).ok()?).ok()
    }
}

struct Headers<'a>(&'a Record);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all: Vec<(&str, &str)> = self.0.headers().collect();
        let mut map = serializer.serialize_map(None)?;
        for (index, (name, value)) in all.iter().enumerate() {
            if all[..index].iter().any(|(earlier, _)| earlier == name) {
                continue;
            }
            let mut values = all[index..].iter().filter(|(later, _)| later == name).map(|(_, value)| *value);
            if values.clone().nth(1).is_some() {
                map.serialize_entry(name, &values.by_ref().collect::<Vec<_>>())?;
            } else {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use crossdock_topics::Message;

    use super::*;

    fn shown(message: &Message) -> serde_json::Value {
        let stored = Stored { offset: 7, time: Timestamp(0), record: Record::of(message).unwrap() };
        serde_json::to_value(MessageJson::stored(&"orders".parse().unwrap(), &stored)).unwrap()
    }

    #[test]
    fn json_is_shown_as_it_is_and_other_bytes_in_base64() {
        let message =
            Message::json(" {\"a\":1.50}\n").with_key("k").with_header("x", "1").with_header("x", "2");
        assert_eq!(
            shown(&message),
            serde_json::json!({
                "topic": "orders", "offset": 7, "key": "k", "id": null, "headers": {"x": ["1", "2"]},
                "content_type": "application/json", "time": "1970-01-01T00:00:00.000Z", "data": {"a": 1.5},
            })
        );
        assert_eq!(shown(&Message::new("\u{0}ab"))["data_base64"], "AGFi");
    }

    #[test]
    fn what_only_says_it_is_json_does_not_break_the_answer() {
        let shown = shown(&Message::json("{\"a\": "));
        assert_eq!((shown.get("data"), &shown["data_base64"]), (None, &"eyJhIjog".into()));
        let bad = Message { payload: Bytes::from_static(b"\"\xff\""), ..Message::json("") };
        assert!(self::shown(&bad).get("data").is_none());
    }
}
