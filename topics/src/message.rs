//! A message as its publisher makes it.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{Error, ErrorCode, Timestamp};

/// The largest key, id, correlation id, reply-to, content type or trace context, in bytes.
pub const MAX_FIELD: usize = 1024;
/// The most headers a message can have.
pub const MAX_HEADERS: usize = 256;
/// The most bytes that all headers of a message take together.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The largest payload that any topic can allow. What a topic does allow is its `max_message_bytes`.
pub const MAX_PAYLOAD: usize = 64 * 1024 * 1024;

/// A message: bytes with what is said about them. Cloning is cheap, all parts are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Messages with the same key belong together (order, compaction, partitions).
    pub key: Option<ByteString>,
    /// Names this message for deduplication: publishing the same id again within the window stores nothing.
    pub id: Option<ByteString>,
    /// Ties a reply, or a chain of messages, to what caused it.
    pub correlation_id: Option<ByteString>,
    /// The topic on which the sender would like an answer.
    pub reply_to: Option<ByteString>,
    /// The media type of the payload. Absent means unknown bytes.
    pub content_type: Option<ByteString>,
    /// W3C trace context (`traceparent`).
    pub traceparent: Option<ByteString>,
    /// After this moment the message is not delivered any more. It is dropped when its turn comes.
    pub expires_at: Option<Timestamp>,
    /// Before this moment the message is not delivered.
    pub deliver_at: Option<Timestamp>,
    /// 0 to 9, larger is more urgent; 0 unless said. Only subscriptions that ask for priorities look at it.
    pub priority: u8,
    /// Anything else, in order. Names are lower case by convention, and may repeat.
    pub headers: Vec<(ByteString, ByteString)>,
    /// The bytes.
    pub payload: Bytes,
}

impl Message {
    /// A message of these bytes with nothing said about them.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// A message of this JSON text.
    pub fn json(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            content_type: Some(ByteString::from_static("application/json")),
            ..Self::default()
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<ByteString>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<ByteString>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<ByteString>, value: impl Into<ByteString>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Checks every limit of this module.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`] or [`ErrorCode::InvalidArgument`], naming the field and the limit.
    pub fn check(&self) -> Result<(), Error> {
        let fields = [
            ("key", &self.key),
            ("id", &self.id),
            ("correlation id", &self.correlation_id),
            ("reply-to", &self.reply_to),
            ("content type", &self.content_type),
            ("traceparent", &self.traceparent),
        ];
        for (name, value) in fields {
            let length = value.as_ref().map_or(0, |v| v.len());
            if length > MAX_FIELD {
                return Err(too_large(name, length, MAX_FIELD));
            }
        }
        if self.id.as_ref().is_some_and(|id| id.is_empty()) {
            return Err(Error::invalid("the message id is empty").hint("leave it out, or give it a value"));
        }
        if self.priority > 9 {
            return Err(Error::invalid(format!("priority {} is not one of 0 to 9", self.priority)));
        }
        if self.headers.len() > MAX_HEADERS {
            return Err(too_large("number of headers", self.headers.len(), MAX_HEADERS));
        }
        let header_bytes = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        if header_bytes > MAX_HEADER_BYTES {
            return Err(too_large("bytes of headers", header_bytes, MAX_HEADER_BYTES));
        }
        if self.payload.len() > MAX_PAYLOAD {
            return Err(too_large("payload", self.payload.len(), MAX_PAYLOAD));
        }
        Ok(())
    }
}

fn too_large(what: &str, is: usize, limit: usize) -> Error {
    Error::new(ErrorCode::TooLarge, format!("the message's {what} is {is}, the limit is {limit}"))
}
