//! Dead letters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossdock_topics::{DeadLetterFilter, Error, Redrive, Selection, Timestamp, TopicName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Headers, Message, schema};

/// A message that a subscription has given up on.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// The topic it lies in.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// Its offset there.
    pub offset: u64,
    /// Why it was given up.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Who failed, such as a service and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it was given up.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The message; absent when retention has dropped it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
}

impl From<crossdock_topics::DeadLetter> for DeadLetter {
    fn from(letter: crossdock_topics::DeadLetter) -> Self {
        let message = letter
            .message
            .map(|(time, record)| Message::new(letter.topic.clone(), letter.offset, time, &record));
        Self {
            topic: letter.topic,
            offset: letter.offset,
            reason: letter.reason,
            failures: letter.failures,
            deliveries: letter.deliveries,
            by: letter.by,
            at: letter.at,
            message,
        }
    }
}

/// Dead letters of a subscription, by topic and offset.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterPage {
    /// The dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// What to pass as `after` for the next page; absent when this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which dead letters are to be delivered again, and how: `all`, `messages` or `matching` says which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// Every one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// These: at most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageRef>,
    /// Those of which everything that is asked is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::DeadLetterFilter>)]
    pub matching: Option<DeadLetterFilter>,
    /// At most so many a second, from 0.001; all at once when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Only counts them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl RedriveRequest {
    /// What it stands for.
    ///
    /// # Errors
    /// `InvalidArgument` when it names nothing, more than one choice, or too much.
    pub fn into_redrive(self) -> Result<Redrive, Error> {
        let selection = selection(self.all, self.messages, self.matching)?;
        Ok(Redrive { selection, rate: self.rate, dry_run: self.dry_run })
    }
}

/// Which dead letters are to be forgotten: `all`, `messages` or `matching` says which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiscardRequest {
    /// Every one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// These: at most 10,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageRef>,
    /// Those of which everything that is asked is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::DeadLetterFilter>)]
    pub matching: Option<DeadLetterFilter>,
    /// Only counts them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl DiscardRequest {
    /// Which ones it stands for.
    ///
    /// # Errors
    /// `InvalidArgument` when it names nothing, more than one choice, or too much.
    pub fn into_selection(self) -> Result<Selection, Error> {
        selection(self.all, self.messages, self.matching)
    }
}

fn selection(
    all: bool,
    messages: Vec<MessageRef>,
    matching: Option<DeadLetterFilter>,
) -> Result<Selection, Error> {
    let choices = usize::from(all) + usize::from(!messages.is_empty()) + usize::from(matching.is_some());
    if choices > 1 {
        return Err(Error::invalid("of all, messages and matching more than one is given").hint("keep one"));
    }
    match matching {
        Some(filter) => Ok(Selection::Matching(Box::new(filter))),
        None if all => Ok(Selection::All),
        None if messages.is_empty() => Err(Error::invalid("no dead letter is named").hint(
            "send {\"all\": true}, {\"messages\": [{\"topic\": ..., \"offset\": ...}]}, or {\"matching\": {...}}",
        )),
        None if messages.len() > MessageRef::MAX => Err(Error::invalid(format!(
            "messages names {}, one request can name {}",
            messages.len(),
            MessageRef::MAX
        ))),
        None => Ok(Selection::These(messages.into_iter().map(|m| (m.topic, m.offset)).collect())),
    }
}

/// What a dead letter is to be when it is delivered again. What is absent stays as it is; there must be something.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterEdit {
    /// A payload of JSON.
    #[serde(default, deserialize_with = "super::message::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schema::Any, required = false)]
    pub data: Option<Box<RawValue>>,
    /// A payload of any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// The media type of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// All its headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
}

impl DeadLetterEdit {
    /// Another payload of the same media type.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        Self { data_base64: Some(STANDARD.encode(payload)), ..Self::default() }
    }

    /// The message that it makes of this one.
    ///
    /// # Errors
    /// `InvalidArgument` when it says nothing, or gives the payload twice or not as base64.
    pub fn apply(self, mut message: crossdock_topics::Message) -> Result<crossdock_topics::Message, Error> {
        match (&self.data, &self.data_base64, &self.content_type, &self.headers) {
            (None, None, None, None) => {
                return Err(Error::invalid("nothing is to be changed")
                    .hint("give data or data_base64, content_type, or headers"));
            }
            (Some(_), Some(_), ..) => {
                return Err(
                    Error::invalid("data and data_base64 are both given").hint("leave out one of them")
                );
            }
            (None, None, ..) => {}
            (data, base64, ..) => {
                message.payload = super::message::payload(data.as_deref(), base64.as_deref())?;
            }
        }
        if let Some(content_type) = self.content_type {
            message.content_type = Some(content_type.into());
        }
        if let Some(headers) = self.headers {
            message.headers = headers.0.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        }
        Ok(message)
    }
}

/// Names a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageRef {
    /// The topic it lies in.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// Its offset there.
    pub offset: u64,
}

impl MessageRef {
    /// The most messages that one request can name.
    pub const MAX: usize = 10_000;
}

/// How many were concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// How many.
    pub count: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Redrive, Error> {
        serde_json::from_str::<RedriveRequest>(text)
            .map_err(|cause| Error::invalid(cause.to_string()))?
            .into_redrive()
    }

    #[test]
    fn a_selection_says_one_thing() {
        assert_eq!(read(r#"{"all": true}"#).unwrap(), Selection::All.into());
        let one = Selection::These(vec![("a".parse().unwrap(), 3)]);
        assert_eq!(
            read(r#"{"messages": [{"topic": "a", "offset": 3}], "rate": 2, "dry_run": true}"#).unwrap(),
            Redrive { selection: one, rate: Some(2.0), dry_run: true }
        );
        let filter = DeadLetterFilter { by: Some("billing".into()), ..DeadLetterFilter::default() };
        assert_eq!(
            read(r#"{"matching": {"by": "billing"}}"#).unwrap(),
            Selection::Matching(Box::new(filter)).into()
        );
        for wrong in [
            "{}",
            r#"{"all": false}"#,
            r#"{"all": true, "messages": [{"topic": "a", "offset": 3}]}"#,
            r#"{"all": true, "matching": {}}"#,
            r#"{"messages": [{"topic": "a b", "offset": 3}]}"#,
            r#"{"every": true}"#,
            r#"{"matching": {"reasons": "x"}}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<DiscardRequest>(r#"{"all": true, "rate": 1}"#).is_err());
    }

    #[test]
    fn an_edit_changes_what_it_names_and_nothing_else() {
        let letter =
            || crossdock_topics::Message::json("{}").with_key("k").with_id("7").with_header("a", "1");
        let edit = |text: &str| serde_json::from_str::<DeadLetterEdit>(text).unwrap().apply(letter());
        let changed = edit(r#"{"data": {"n": 1}}"#).unwrap();
        assert_eq!(changed, crossdock_topics::Message { payload: r#"{"n": 1}"#.into(), ..letter() });
        let changed = edit(r#"{"headers": {"b": "2"}, "content_type": "text/plain"}"#).unwrap();
        assert_eq!((changed.header("a"), changed.header("b")), (None, Some("2")));
        assert_eq!((changed.payload.as_ref(), changed.id.as_deref()), (&b"{}"[..], Some("7")));
        for wrong in ["{}", r#"{"data": 1, "data_base64": "AA=="}"#, r#"{"data_base64": "!"}"#] {
            assert!(edit(wrong).is_err(), "{wrong}");
        }
    }
}
