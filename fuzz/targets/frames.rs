//! A peer's bytes: cutting them into frames, and reading the headers of the protocol.
//!
//! However the stream is cut into pieces, the same frames come out; what is read can be written again and is the
//! same; nothing is reserved beyond one frame of the largest size.
#![no_main]

use bytes::BytesMut;
use crossdock_wire::session::{ToClient, ToServer};
use crossdock_wire::{Frame, FrameCodec};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::{Decoder, Encoder};

const MAX_HEADER: usize = 1024;
const MAX_PAYLOAD: usize = 4096;

fn codec() -> FrameCodec {
    FrameCodec::new(MAX_HEADER, MAX_PAYLOAD)
}

/// The frames up to the first that is wrong, and whether there is one.
fn read(pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> (Vec<Frame>, bool) {
    let (mut frames, mut buffer) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece.as_ref());
        loop {
            match codec().decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        assert!(buffer.len() <= 8 + MAX_HEADER + MAX_PAYLOAD + piece.as_ref().len());
    }
    (frames, codec().decode_eof(&mut buffer).is_err())
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let (frames, wrong) = read(std::iter::once(stream));
    assert_eq!(read(stream.chunks(usize::from(*cut).max(1))), (frames.clone(), wrong));
    let mut written = BytesMut::new();
    for frame in &frames {
        codec().encode(frame.clone(), &mut written).expect("it was within the limits");
        if let Ok(header) = frame.header::<ToClient>() {
            let again = header.frame(frame.payload.clone()).expect("a header that was read");
            assert_eq!(again.header::<ToClient>().expect("a header that was written"), header);
        }
        if let Ok(header) = frame.header::<ToServer>() {
            let again = Frame::new(&header, frame.payload.clone()).expect("a header that was read");
            assert_eq!(again.header::<ToServer>().expect("a header that was written"), header);
        }
    }
    assert!(stream.starts_with(&written));
});
