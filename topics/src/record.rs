//! Messages as they travel and rest: packed, checked once, then only sliced.
//!
//! A [`Batch`] is a run of records, one after another. Whoever publishes packs it; the broker puts the same
//! bytes into its log, and whoever consumes gets slices of them. Nothing on the way decodes a payload.
//!
//! One record (all integers little-endian):
//!
//! ```text
//! u32  length of all that follows
//! u16  fields: which of the optional parts are there, one bit each, in the order below
//! bit 0  expires_at       i64, milliseconds since 1970
//! bit 1  deliver_at       i64, the same
//! bit 2  priority         u8
//! bit 3  key              u16 length, UTF-8
//! bit 4  id               the same
//! bit 5  correlation_id   the same
//! bit 6  reply_to         the same
//! bit 7  content_type     the same
//! bit 8  traceparent      the same
//! bit 9  headers          u16 count, then for each: u16 length, name, u16 length, value
//! payload: the rest
//! ```
//!
//! A bit that is not listed is refused, so that an older reader never misreads a newer record. Limits are
//! those of [`crate::message`]; a batch holds at most [`MAX_BATCH_MESSAGES`] records and [`MAX_BATCH_BYTES`].

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::message::{MAX_FIELD, MAX_HEADER_BYTES, MAX_HEADERS, MAX_PAYLOAD};
use crate::{Error, ErrorCode, Message, Timestamp};

/// The most records in a batch.
pub const MAX_BATCH_MESSAGES: usize = 65_536;
/// The most bytes in a batch: room for the largest message.
pub const MAX_BATCH_BYTES: usize = MAX_PAYLOAD + 128 * 1024;

const EXPIRES_AT: u16 = 1 << 0;
const DELIVER_AT: u16 = 1 << 1;
const PRIORITY: u16 = 1 << 2;
const KEY: u16 = 1 << 3;
const ID: u16 = 1 << 4;
const REPLY_TO: u16 = 1 << 6;
const TRACEPARENT: u16 = 1 << 8;
const HEADERS: u16 = 1 << 9;
const KNOWN: u16 = (1 << 10) - 1;

/// Packed messages on their way to a topic.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Packed,
    count: u32,
    largest: u32,
    fields: u16,
}

/// The bytes of a batch: its own, to which more can be added, or somebody else's, which are shared.
#[derive(Clone, Debug)]
enum Packed {
    Own(BytesMut),
    Shared(Bytes),
}

impl Default for Packed {
    fn default() -> Self {
        Self::Own(BytesMut::new())
    }
}

impl Packed {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The bytes to add to; what is shared is copied first.
    fn own(&mut self) -> &mut BytesMut {
        if let Self::Shared(bytes) = self {
            *self = Self::Own(BytesMut::from(&bytes[..]));
        }
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(_) => unreachable!("it was made its own"),
        }
    }
}

impl Batch {
    /// A batch of one message.
    ///
    /// # Errors
    /// Those of [`Message::check`].
    pub fn of(message: &Message) -> Result<Self, Error> {
        let mut batch = Self::with_capacity(encoded_len(message));
        batch.push(message)?;
        Ok(batch)
    }

    /// An empty batch with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Packed::Own(BytesMut::with_capacity(bytes)), ..Self::default() }
    }

    /// Packs one more message.
    ///
    /// # Errors
    /// Those of [`Message::check`], and [`ErrorCode::TooLarge`] when the batch is full. The batch is then as
    /// it was.
    pub fn push(&mut self, message: &Message) -> Result<(), Error> {
        message.check()?;
        let length = encoded_len(message);
        if self.len() == MAX_BATCH_MESSAGES || self.as_bytes().len() + length > MAX_BATCH_BYTES {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("a batch holds at most {MAX_BATCH_MESSAGES} messages and {MAX_BATCH_BYTES} bytes"),
            )
            .hint("send it as several batches"));
        }
        let bytes = self.bytes.own();
        bytes.reserve(length);
        self.fields |= encode(message, length, bytes);
        self.count += 1;
        self.largest = self.largest.max(u32::try_from(message.payload.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Adds all messages of another batch; gives whether there was room for them.
    pub fn append(&mut self, other: &Self) -> bool {
        let (count, bytes) = (self.len() + other.len(), self.as_bytes().len() + other.as_bytes().len());
        if count > MAX_BATCH_MESSAGES || bytes > MAX_BATCH_BYTES {
            return false;
        }
        self.bytes.own().extend_from_slice(other.as_bytes());
        self.count += other.count;
        self.largest = self.largest.max(other.largest);
        self.fields |= other.fields;
        true
    }

    /// Takes packed bytes from somebody else, after checking every length, limit and text in them. Nothing is copied.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] with the place of the first thing that is wrong.
    pub fn from_packed(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("a batch of {} bytes, the limit is {MAX_BATCH_BYTES}", bytes.len()),
            ));
        }
        let mut batch = Self::default();
        let mut at = 0;
        while at < bytes.len() {
            let wrong = |what: &str| Error::invalid(format!("the batch is malformed at byte {at}: {what}"));
            let record = split(&bytes[at..]).ok_or_else(|| wrong("a record is cut off"))?;
            let (fields, payload) = validate(record).map_err(wrong)?;
            batch.fields |= fields;
            batch.largest = batch.largest.max(u32::try_from(payload).unwrap_or(u32::MAX));
            batch.count += 1;
            if batch.len() > MAX_BATCH_MESSAGES {
                return Err(wrong("too many records"));
            }
            at += 4 + record.len();
        }
        batch.bytes = Packed::Shared(bytes);
        Ok(batch)
    }

    /// How many messages it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it holds no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The packed records.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The packed records, to be shared.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.bytes {
            Packed::Own(bytes) => bytes.freeze(),
            Packed::Shared(bytes) => bytes,
        }
    }

    /// The size of the largest payload in it.
    #[must_use]
    pub fn largest_payload(&self) -> usize {
        self.largest as usize
    }

    /// Whether any message in it names where it would like an answer.
    #[must_use]
    pub fn has_reply_to(&self) -> bool {
        self.fields & REPLY_TO != 0
    }

    /// Whether any message in it has an id, and so takes part in deduplication.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        self.fields & ID != 0
    }

    /// The records, each as it is packed (with its length before it), in order.
    pub fn records(&self) -> impl Iterator<Item = PackedRecord<'_>> {
        packed(self.as_bytes())
    }
}

/// The packed records in `bytes`, which [`Batch`] made or checked. Ends at the first record that is cut off.
pub fn packed(bytes: &[u8]) -> impl Iterator<Item = PackedRecord<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let record = split(rest)?;
        let (this, after) = rest.split_at(4 + record.len());
        rest = after;
        Some(PackedRecord(this))
    })
}

/// One packed record, borrowed, with its length before it.
#[derive(Clone, Copy, Debug)]
pub struct PackedRecord<'a>(&'a [u8]);

impl<'a> PackedRecord<'a> {
    /// The bytes, with the length before them.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The message's id.
    #[must_use]
    pub fn id(self) -> Option<&'a [u8]> {
        text_at(&self.0[4..], ID).map(|range| &self.0[4..][range])
    }

    /// The message's key.
    #[must_use]
    pub fn key(self) -> Option<&'a [u8]> {
        text_at(&self.0[4..], KEY).map(|range| &self.0[4..][range])
    }

    /// Where the sender would like an answer.
    #[must_use]
    pub fn reply_to(self) -> Option<&'a [u8]> {
        text_at(&self.0[4..], REPLY_TO).map(|range| &self.0[4..][range])
    }

    /// When it expires, and when it may first be delivered.
    #[must_use]
    pub fn times(self) -> (Option<Timestamp>, Option<Timestamp>) {
        times(&self.0[4..])
    }
}

/// One message of a log, as a slice of the block it came in: cloning shares it, reading it copies nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    bytes: Bytes, // without the length
}

impl Record {
    /// The record that starts at `at` of a run of packed records that [`Batch`] made or checked, and where the
    /// next one starts; `None` when it is cut off.
    #[must_use]
    pub fn slice(run: &Bytes, at: usize) -> Option<(Self, usize)> {
        let length = split(run.get(at..)?)?.len();
        Some((Self { bytes: run.slice(at + 4..at + 4 + length) }, at + 4 + length))
    }

    /// Packs a message on its own.
    ///
    /// # Errors
    /// Those of [`Message::check`].
    pub fn of(message: &Message) -> Result<Self, Error> {
        Ok(Self { bytes: Batch::of(message)?.into_bytes().slice(4..) })
    }

    /// Takes one packed record (without the length before it) from somebody else, after checking every length,
    /// limit and text in it. Nothing is copied.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] saying what is wrong.
    pub fn from_packed(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() < 2 {
            return Err(Error::invalid("the message is malformed: it is cut off"));
        }
        match validate(&bytes) {
            Ok(_) => Ok(Self { bytes }),
            Err(wrong) => Err(Error::invalid(format!("the message is malformed: {wrong}"))),
        }
    }

    /// The packed record, without the length before it.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn fields(&self) -> u16 {
        u16::from_le_bytes([self.bytes[0], self.bytes[1]])
    }

    fn text(&self, field: u16) -> Option<&str> {
        // Checked to be UTF-8 when the batch was made; a block's checksum guards it since.
        text_at(&self.bytes, field).and_then(|range| std::str::from_utf8(&self.bytes[range]).ok())
    }

    /// The message's key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.text(KEY)
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.text(ID)
    }

    /// The message's correlation id.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.text(1 << 5)
    }

    /// Where the sender would like an answer.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.text(REPLY_TO)
    }

    /// The media type of the payload.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.text(1 << 7)
    }

    /// The trace context.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.text(TRACEPARENT)
    }

    /// When it expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        times(&self.bytes).0
    }

    /// When it may first be delivered.
    #[must_use]
    pub fn deliver_at(&self) -> Option<Timestamp> {
        times(&self.bytes).1
    }

    /// 0 to 9, larger is more urgent.
    #[must_use]
    pub fn priority(&self) -> u8 {
        let fields = self.fields();
        if fields & PRIORITY == 0 {
            return 0;
        }
        let at = 2 + 8 * (fields & (EXPIRES_AT | DELIVER_AT)).count_ones() as usize;
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// The headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut at = texts_end(&self.bytes);
        let mut left = 0;
        if self.fields() & HEADERS != 0 {
            left = usize::from(u16_at(&self.bytes, at).unwrap_or(0));
            at += 2;
        }
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let mut next = || {
                let length = usize::from(u16_at(&self.bytes, at)?);
                let text = std::str::from_utf8(self.bytes.get(at + 2..at + 2 + length)?).ok()?;
                at += 2 + length;
                Some(text)
            };
            Some((next()?, next()?))
        })
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The payload, shared with the block it came in.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(payload_start(&self.bytes)..)
    }

    /// The size of the packed record in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + 4
    }

    /// The whole message, its texts shared with the block it came in.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let shared = |text: Option<&str>| text.map(|t| self.share(t));
        Message {
            key: shared(self.key()),
            id: shared(self.id()),
            correlation_id: shared(self.correlation_id()),
            reply_to: shared(self.reply_to()),
            content_type: shared(self.content_type()),
            traceparent: shared(self.traceparent()),
            expires_at: self.expires_at(),
            deliver_at: self.deliver_at(),
            priority: self.priority(),
            headers: self.headers().map(|(n, v)| (self.share(n), self.share(v))).collect(),
            payload: self.payload(),
        }
    }

    fn share(&self, text: &str) -> ByteString {
        ByteString::try_from(self.bytes.slice_ref(text.as_bytes())).unwrap_or_default()
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_message().fmt(f)
    }
}

/// A record with its place in a topic's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its offset.
    pub offset: u64,
    /// When the broker stored it.
    pub time: Timestamp,
    /// The message.
    pub record: Record,
}

fn texts(message: &Message) -> [(u16, Option<&ByteString>); 6] {
    [
        (KEY, message.key.as_ref()),
        (ID, message.id.as_ref()),
        (1 << 5, message.correlation_id.as_ref()),
        (REPLY_TO, message.reply_to.as_ref()),
        (1 << 7, message.content_type.as_ref()),
        (TRACEPARENT, message.traceparent.as_ref()),
    ]
}

/// How many bytes the message takes as a record, with the length before it.
#[must_use]
pub fn encoded_len(message: &Message) -> usize {
    let times = usize::from(message.expires_at.is_some()) + usize::from(message.deliver_at.is_some());
    let strings: usize = texts(message).iter().filter_map(|(_, text)| text.map(|t| 2 + t.len())).sum();
    let headers: usize = message.headers.iter().map(|(n, v)| 4 + n.len() + v.len()).sum();
    let count = if message.headers.is_empty() { 0 } else { 2 };
    4 + 2 + 8 * times + usize::from(message.priority > 0) + strings + count + headers + message.payload.len()
}

#[allow(clippy::cast_possible_truncation)] // every length was checked against its limit
fn encode(message: &Message, length: usize, out: &mut BytesMut) -> u16 {
    out.put_u32_le((length - 4) as u32);
    let fields_at = out.len();
    out.put_u16_le(0);
    let mut fields = 0;
    for (bit, time) in [(EXPIRES_AT, message.expires_at), (DELIVER_AT, message.deliver_at)] {
        if let Some(time) = time {
            fields |= bit;
            out.put_i64_le(time.0);
        }
    }
    if message.priority > 0 {
        fields |= PRIORITY;
        out.put_u8(message.priority);
    }
    for (bit, text) in texts(message) {
        if let Some(text) = text {
            fields |= bit;
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
    }
    if !message.headers.is_empty() {
        fields |= HEADERS;
        out.put_u16_le(message.headers.len() as u16);
        for text in message.headers.iter().flat_map(|(n, v)| [n, v]) {
            out.put_u16_le(text.len() as u16);
            out.put_slice(text.as_bytes());
        }
    }
    out.put_slice(&message.payload);
    out[fields_at..fields_at + 2].copy_from_slice(&fields.to_le_bytes());
    fields
}

/// The first record of a run, without its length.
fn split(run: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(run.get(..4)?.try_into().ok()?) as usize;
    if length < 2 {
        return None;
    }
    run.get(4..4 + length)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn texts_start(fields: u16) -> usize {
    2 + 8 * (fields & (EXPIRES_AT | DELIVER_AT)).count_ones() as usize + usize::from(fields & PRIORITY != 0)
}

fn fields_of(record: &[u8]) -> u16 {
    u16::from_le_bytes([record[0], record[1]])
}

/// Where the text of `field` lies in a checked record.
fn text_at(record: &[u8], field: u16) -> Option<std::ops::Range<usize>> {
    let fields = fields_of(record);
    if fields & field == 0 {
        return None;
    }
    let mut at = texts_start(fields);
    let mut bit = KEY;
    while bit < field {
        if fields & bit != 0 {
            at += 2 + usize::from(u16_at(record, at)?);
        }
        bit <<= 1;
    }
    let length = usize::from(u16_at(record, at)?);
    (at + 2 + length <= record.len()).then_some(at + 2..at + 2 + length)
}

fn texts_end(record: &[u8]) -> usize {
    let fields = fields_of(record);
    let mut at = texts_start(fields);
    let mut bit = KEY;
    while bit <= TRACEPARENT {
        if fields & bit != 0 {
            at += 2 + usize::from(u16_at(record, at).unwrap_or(0));
        }
        bit <<= 1;
    }
    at
}

fn payload_start(record: &[u8]) -> usize {
    let mut at = texts_end(record);
    if fields_of(record) & HEADERS != 0 {
        let count = usize::from(u16_at(record, at).unwrap_or(0));
        at += 2;
        for _ in 0..count * 2 {
            at += 2 + usize::from(u16_at(record, at).unwrap_or(0));
        }
    }
    at.min(record.len())
}

fn times(record: &[u8]) -> (Option<Timestamp>, Option<Timestamp>) {
    let fields = fields_of(record);
    let mut at = 2;
    let mut next = |bit: u16| {
        if fields & bit == 0 {
            return None;
        }
        let millis = i64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?);
        at += 8;
        Some(Timestamp(millis))
    };
    (next(EXPIRES_AT), next(DELIVER_AT))
}

/// Checks a foreign record; gives its fields and the size of its payload.
fn validate(record: &[u8]) -> Result<(u16, usize), &'static str> {
    let fields = fields_of(record);
    if fields & !KNOWN != 0 {
        return Err("a record has a field this version does not know");
    }
    let mut at = texts_start(fields);
    if record.len() < at {
        return Err("a record is shorter than its fields");
    }
    if fields & PRIORITY != 0 && record[at - 1] > 9 {
        return Err("a priority is not one of 0 to 9");
    }
    let mut text = |limit: usize| {
        let length = usize::from(u16_at(record, at).ok_or("a text is cut off")?);
        let bytes = record.get(at + 2..at + 2 + length).ok_or("a text is cut off")?;
        at += 2 + length;
        if length > limit {
            return Err("a text is longer than its limit");
        }
        std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")
    };
    let mut bit = KEY;
    while bit <= TRACEPARENT {
        if fields & bit != 0 && text(MAX_FIELD)?.is_empty() && bit == ID {
            return Err("a message id is empty");
        }
        bit <<= 1;
    }
    if fields & HEADERS != 0 {
        let count = usize::from(u16_at(record, at).ok_or("the headers are cut off")?);
        at += 2;
        if count > MAX_HEADERS {
            return Err("too many headers");
        }
        let start = at;
        let mut text = || {
            let length = usize::from(u16_at(record, at).ok_or("a header is cut off")?);
            let bytes = record.get(at + 2..at + 2 + length).ok_or("a header is cut off")?;
            at += 2 + length;
            std::str::from_utf8(bytes).map_err(|_| "a header is not UTF-8")
        };
        for _ in 0..count * 2 {
            text()?;
        }
        if at - start > MAX_HEADER_BYTES + count * 4 {
            return Err("the headers are larger than their limit");
        }
    }
    let payload = record.len() - at;
    if payload > MAX_PAYLOAD {
        return Err("a payload is larger than its limit");
    }
    Ok((fields, payload))
}

#[cfg(test)]
mod tests;
