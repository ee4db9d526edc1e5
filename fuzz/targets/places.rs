//! What of a subscription lies on the disk: its place, the messages that wait, the dead letters.
//!
//! Whatever the bytes, reading ends in an error or in something that is written back and read the same.
#![no_main]

use crossdock_broker::group::{Dead, Place, Waiting};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(place) = Place::decode(data) {
        assert!(place.open.end().is_none_or(|end| end <= place.next));
        assert_eq!(Place::decode(&place.encode()).as_ref(), Ok(&place));
    }
    if let Ok(waiting) = Waiting::decode(data) {
        let bytes = waiting.encode().expect("what was read");
        assert_eq!(Waiting::decode(&bytes).as_ref(), Ok(&waiting));
    }
    if let Ok(dead) = Dead::decode(data) {
        let bytes = dead.encode().expect("what was read");
        assert_eq!(Dead::decode(&bytes).as_ref(), Ok(&dead));
    }
});
