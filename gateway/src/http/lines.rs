//! A batch as newline-delimited JSON: each line is one message, its JSON is the data.

use bytes::Bytes;
use bytestring::ByteString;
use crossdock_http::{Problem, Result, check_json};
use crossdock_topics::{Batch, Error, Message};
use http::HeaderValue;

/// The largest body of a batch, in bytes.
pub(super) const MAX_LINES: usize = 16 * 1024 * 1024;

/// Whether a body of this media type is a batch.
pub(super) fn is_lines(media: &HeaderValue) -> bool {
    let essence = media.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/x-ndjson")
        || essence.eq_ignore_ascii_case(b"application/ndjson")
}

/// The batch of all lines but the blank ones. What `said` says holds for each message; its id gets the number of
/// the message after it (`ID/1`, `ID/2`), so that the same batch sent again is stored once.
///
/// # Errors
/// `InvalidArgument` with line and column when a line is not JSON, or there is none; those of [`Batch::push`].
pub(super) fn batch(said: Message, body: &Bytes) -> Result<Batch> {
    // What each record takes beside its payload is not known yet; the rest is grown into.
    let mut batch = Batch::with_capacity(body.len() + body.len() / 8);
    let id = said.id.clone();
    let mut message = Message { content_type: Some(ByteString::from_static("application/json")), ..said };
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        let at = |problem: Problem| {
            let column = problem.place().map_or(1, |(_, column)| column);
            problem.at(index + 1, column)
        };
        check_json(line).map_err(at)?;
        message.payload = body.slice_ref(line);
        message.id = id.as_ref().map(|id| format!("{id}/{}", batch.len() + 1).into());
        batch.push(&message).map_err(|error| at(error.into()))?;
    }
    if batch.is_empty() {
        return Err(Error::invalid("the batch holds no message").hint("send one JSON value a line").into());
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(batch: &Batch) -> Vec<Message> {
        let run = Bytes::copy_from_slice(batch.as_bytes());
        let mut at = 0;
        let mut messages = Vec::new();
        while let Some((record, next)) = crossdock_topics::Record::slice(&run, at) {
            messages.push(record.to_message());
            at = next;
        }
        messages
    }

    #[test]
    fn each_line_is_a_message_and_blank_ones_are_none() {
        let said = Message { id: Some("b".into()), key: Some("k".into()), ..Message::default() };
        let batch = batch(said, &Bytes::from_static(b"{\"a\":1}\r\n\n  \n[2]\n\"x\"")).unwrap();
        let messages = payloads(&batch);
        let seen: Vec<_> = messages.iter().map(|m| (m.id.as_deref().unwrap(), &*m.payload)).collect();
        assert_eq!(seen, [("b/1", &b"{\"a\":1}"[..]), ("b/2", b"[2]"), ("b/3", b"\"x\"")]);
        assert!(messages.iter().all(|m| m.key.as_deref() == Some("k")));
    }

    #[test]
    fn a_malformed_line_is_answered_with_its_place() {
        for (body, place) in
            [(&b"{}\n{\"a\": x}\n"[..], (2, 7)), (b"{}\n\n{} {}\n", (3, 4)), (b"{}\n\"\xff\"\n", (2, 2))]
        {
            let problem = batch(Message::default(), &Bytes::from_static(body)).unwrap_err();
            assert_eq!(problem.place(), Some(place));
        }
        assert!(batch(Message::default(), &Bytes::from_static(b"\n \n")).is_err());
    }
}
