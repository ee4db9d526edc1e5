//! The messages of the load: each can be made again from its name, so that every byte of one can be judged wherever it
//! turns up.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use crossdock_topics::{Message, Record};

/// Bytes before the body: publisher and number.
const NAME: usize = 8;

/// How many keys a publisher uses.
const KEYS: u64 = 40;

/// A message of the load, by name: who published it, and as which of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Freight {
    /// The publisher.
    pub publisher: u32,
    /// Counted from 0 by each publisher.
    pub number: u32,
}

impl Freight {
    /// The message. One of four has no key, one of fifty a large body; those of publishers with an even number have an
    /// id.
    #[must_use]
    pub fn message(self, seed: u64) -> Message {
        let mut message = Message::new(self.payload(seed));
        message.key = self.key().map(Into::into);
        message.id = self.has_id().then(|| self.to_string().into());
        message
    }

    /// Whether it has an id, so that it may be published again without knowing whether it was stored.
    #[must_use]
    pub fn has_id(self) -> bool {
        self.publisher.is_multiple_of(2)
    }

    /// Its key. No two publishers share one.
    #[must_use]
    pub fn key(self) -> Option<String> {
        let draw = mix(u64::from(self.number));
        (draw & 3 != 0).then(|| format!("{}/{}", self.publisher, (draw >> 8) % KEYS))
    }

    fn payload(self, seed: u64) -> Bytes {
        let mut draw = mix(seed ^ mix(u64::from(self.publisher) << 32 | u64::from(self.number)));
        let most = if draw.is_multiple_of(50) { 20_000 } else { 600 };
        let length = usize::try_from((draw >> 8) % most).unwrap_or(0);
        let mut payload = BytesMut::with_capacity(NAME + length + 8);
        payload.put_u32_le(self.publisher);
        payload.put_u32_le(self.number);
        while payload.len() < NAME + length {
            draw = mix(draw);
            payload.put_u64_le(draw);
        }
        payload.truncate(NAME + length);
        payload.freeze()
    }

    /// Which one a record is.
    ///
    /// # Errors
    /// What is wrong with it, when it is not byte for byte what was published.
    pub fn read(record: &Record, seed: u64) -> Result<Self, String> {
        let payload = record.payload();
        let name = payload.get(..NAME).ok_or_else(|| format!("{} bytes are no message", payload.len()))?;
        let number = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
        let freight = Self { publisher: number(0), number: number(4) };
        if record.to_message() == freight.message(seed) {
            Ok(freight)
        } else {
            Err(format!("what says that it is message {freight} is not what was published as that"))
        }
    }
}

impl fmt::Display for Freight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.publisher, self.number)
    }
}

/// What a consumer publishes with an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Output {
    /// The settlement it was published with.
    pub settlement: u64,
    /// The offset of the message that it came of.
    pub of: u64,
}

impl Output {
    /// The message.
    #[must_use]
    pub fn message(self) -> Message {
        let mut payload = BytesMut::with_capacity(24);
        payload.put_u64_le(self.settlement);
        payload.put_u64_le(self.of);
        payload.put_u64_le(self.mark());
        Message::new(payload.freeze())
    }

    /// Which one a record is.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(record: &Record) -> Result<Self, String> {
        let payload = record.payload();
        let number = |at: usize| Some(u64::from_le_bytes(payload.get(at..at + 8)?.try_into().ok()?));
        let read = || Some((Self { settlement: number(0)?, of: number(8)? }, number(16)?));
        match read() {
            Some((output, mark)) if mark == output.mark() && payload.len() == 24 => Ok(output),
            _ => Err(format!("{} bytes are no output: {payload:?}", payload.len())),
        }
    }

    fn mark(self) -> u64 {
        mix(self.settlement ^ mix(self.of))
    }
}

/// One round of SplitMix64.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_message_counts() {
        for number in 0..200 {
            let freight = Freight { publisher: number % 3, number };
            let message = freight.message(7);
            let record = Record::of(&message).unwrap();
            assert_eq!(Freight::read(&record, 7), Ok(freight));
            for at in (0..message.payload.len()).step_by(97) {
                let mut payload = message.payload.to_vec();
                payload[at] ^= 1;
                let wrong = Message { payload: payload.into(), ..message.clone() };
                assert!(Freight::read(&Record::of(&wrong).unwrap(), 7).is_err(), "byte {at} of {freight}");
            }
            let wrong = Message { key: Some("other".into()), ..message };
            assert!(Freight::read(&Record::of(&wrong).unwrap(), 7).is_err());
        }
    }

    #[test]
    fn an_output_says_what_it_came_of() {
        let output = Output { settlement: 3, of: 4 };
        let record = Record::of(&output.message()).unwrap();
        assert_eq!(Output::read(&record), Ok(output));
        let other = Record::of(&Message::new(Bytes::from_static(&[0; 24]))).unwrap();
        assert!(Output::read(&other).is_err());
    }
}
