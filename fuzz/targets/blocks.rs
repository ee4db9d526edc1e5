//! A block of the log as it lies on the disk, be it damaged, or written by something that was wrong.
//!
//! The bytes are tried as they are, and once more with a checksum that fits: the reader then ends in an error or in
//! messages as well, and never in a panic.
#![no_main]

use bytes::Bytes;
use crossdock_broker::embedded::read_block;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = read_block(&Bytes::copy_from_slice(data));
    if data.len() <= 8 {
        return;
    }
    let mut value = data.to_vec();
    value[..4].copy_from_slice(&[1, 0, 0, 0]);
    value[4..8].copy_from_slice(&crc32c::crc32c(&data[8..]).to_le_bytes());
    if let Ok(messages) = read_block(&value.into()) {
        assert!(messages.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
    }
});
