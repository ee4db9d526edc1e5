use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = ByteString> {
    "\\PC{1,20}".prop_map(ByteString::from)
}

prop_compose! {
    fn message()(
        texts in proptest::array::uniform6(proptest::option::of(text())),
        expires_at in proptest::option::of(any::<i64>().prop_map(Timestamp)),
        deliver_at in proptest::option::of(any::<i64>().prop_map(Timestamp)),
        priority in 0u8..10,
        headers in proptest::collection::vec((text(), text()), 0..5),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) -> Message {
        let [key, id, correlation_id, reply_to, content_type, traceparent] = texts;
        Message { key, id, correlation_id, reply_to, content_type, traceparent, expires_at, deliver_at,
            priority, headers, payload: payload.into() }
    }
}

proptest! {
    #[test]
    fn what_is_packed_is_what_comes_out(messages in proptest::collection::vec(message(), 0..6)) {
        let mut batch = Batch::default();
        for message in &messages { batch.push(message).unwrap(); }
        let checked = Batch::from_packed(batch.as_bytes().to_vec()).unwrap();
        prop_assert_eq!(checked.len(), messages.len());
        prop_assert_eq!(checked.has_ids(), batch.has_ids());
        prop_assert_eq!(checked.largest_payload(), batch.largest_payload());
        let run = batch.clone().into_bytes();
        let mut at = 0;
        for (message, packed) in messages.iter().zip(batch.records()) {
            let (record, next) = Record::slice(&run, at).unwrap();
            at = next;
            prop_assert_eq!(&record.to_message(), message);
            prop_assert_eq!(packed.id(), message.id.as_ref().map(|t| t.as_bytes().as_ref()));
            prop_assert_eq!(packed.key(), message.key.as_ref().map(|t| t.as_bytes().as_ref()));
            prop_assert_eq!(packed.times(), (message.expires_at, message.deliver_at));
        }
        prop_assert_eq!(at, run.len());
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(batch) = Batch::from_packed(bytes.clone()) {
            let run = Bytes::from(bytes);
            let mut at = 0;
            for _ in 0..batch.len() {
                let (record, next) = Record::slice(&run, at).unwrap();
                at = next;
                let _ = record.to_message();
            }
        }
    }

    #[test]
    fn a_flipped_bit_never_panics(message in message(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = Batch::of(&message).unwrap().as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = Batch::from_packed(bytes);
    }

    #[test]
    fn one_record_is_checked_like_a_batch(message in message(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let packed = Record::of(&message).unwrap();
        let again = Record::from_packed(packed.as_bytes().clone()).unwrap();
        prop_assert_eq!(again.to_message(), message);
        let mut bytes = packed.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(record) = Record::from_packed(bytes.into()) {
            let _ = record.to_message();
        }
        prop_assert!(Record::from_packed(Bytes::from_static(&[0])).is_err());
    }
}

#[test]
fn limits_are_named() {
    let error = Batch::of(&Message::new("x").with_key("k".repeat(2000))).unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge);
    assert!(error.message.contains("key") && error.message.contains("1024"), "{error}");
    assert_eq!(Batch::of(&Message::new("x").with_id("")).unwrap_err().code, ErrorCode::InvalidArgument);
}

proptest! {
    #[test]
    fn batches_that_are_put_together_are_as_if_packed_together(
        first in proptest::collection::vec(message(), 0..4), second in proptest::collection::vec(message(), 0..4),
    ) {
        let pack = |messages: &[Message]| {
            let mut batch = Batch::default();
            for message in messages { batch.push(message).unwrap(); }
            batch
        };
        // What came from somebody else is added to as well.
        let mut together = Batch::from_packed(pack(&first).into_bytes()).unwrap();
        prop_assert!(together.append(&pack(&second)));
        let whole = pack(&[first, second].concat());
        prop_assert_eq!(together.as_bytes(), whole.as_bytes());
        prop_assert_eq!(together.len(), whole.len());
        prop_assert_eq!(together.largest_payload(), whole.largest_payload());
        prop_assert_eq!((together.has_ids(), together.has_reply_to()), (whole.has_ids(), whole.has_reply_to()));
    }
}
