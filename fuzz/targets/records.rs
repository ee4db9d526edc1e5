//! Packed messages from a publisher, a consumer's settlement, or a service: checked once, then only sliced.
//!
//! What passes the check can be read without a panic, says the same packed again, and is the same as a batch and
//! as single records.
#![no_main]

use bytes::Bytes;
use crossdock_topics::{Batch, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = Record::from_packed(Bytes::copy_from_slice(data)) {
        let message = record.to_message();
        let again = Record::of(&message).expect("what was checked is within the limits");
        assert_eq!(again.to_message(), message);
    }
    let Ok(batch) = Batch::from_packed(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(batch.as_bytes(), data);
    let run = Bytes::copy_from_slice(data);
    let (mut at, mut count, mut largest) = (0, 0, 0);
    let mut copy = Batch::default();
    for packed in batch.records() {
        let (record, next) = Record::slice(&run, at).expect("as many records as the batch has");
        assert_eq!(next - at, packed.as_bytes().len());
        assert_eq!(record.size(), next - at);
        let message = record.to_message();
        assert_eq!(record.key(), message.key.as_deref());
        assert_eq!(record.id(), message.id.as_deref());
        assert_eq!(packed.key(), message.key.as_ref().map(|key| key.as_bytes().as_ref()));
        assert_eq!(packed.id(), message.id.as_ref().map(|id| id.as_bytes().as_ref()));
        assert_eq!(packed.times(), (message.expires_at, message.deliver_at));
        for (name, value) in record.headers() {
            assert!(record.header(name).is_some() && value.len() <= data.len());
        }
        assert!(Record::from_packed(record.as_bytes().clone()).is_ok_and(|alone| alone == record));
        copy.push(&message).expect("what was checked is within the limits");
        largest = largest.max(message.payload.len());
        (at, count) = (next, count + 1);
    }
    assert_eq!((at, count), (data.len(), batch.len()));
    assert_eq!((largest, batch.has_ids()), (batch.largest_payload(), copy.has_ids()));
    assert_eq!(copy.len(), batch.len());
});
