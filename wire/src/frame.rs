//! The frame: how bytes on a stream are cut into headers and payloads.
//!
//! ```text
//! u32  length of all that follows (big-endian, as all lengths here)
//! u32  length of the header
//! header: one msgpack value
//! payload: the rest, raw
//! ```
//!
//! The header is an array whose first element says what kind of frame it is; later elements may be added at
//! its end, and a reader ignores those it does not know. Payloads are never encoded: what is received is a
//! slice of what was read, and can be handed on as it is. Both lengths are checked against the codec's limits
//! before anything is allocated for them, so that a peer can make a reader hold one frame of the largest size
//! and no more.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

/// The two lengths before a header.
const PREFIX: usize = 8;

/// What went wrong with a peer's bytes. The stream cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A frame is larger than this side accepts.
    #[error("a frame of {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What the peer announced, or what was to be sent.
        size: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The lengths contradict each other, or the header is not what it should be.
    #[error("a malformed frame: {0}")]
    Malformed(String),
    /// The stream failed, or ended within a frame.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A header with its payload. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One msgpack value.
    pub header: Bytes,
    /// The raw bytes that go with it.
    pub payload: Bytes,
}

impl Frame {
    /// A frame with this header.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when the header cannot be written as msgpack.
    pub fn new(header: &impl Serialize, payload: Bytes) -> Result<Self, FrameError> {
        let header = rmp_serde::to_vec(header).map_err(|e| FrameError::Malformed(e.to_string()))?;
        Ok(Self { header: header.into(), payload })
    }

    /// Reads the header.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is not a `T`, or more than one value.
    pub fn header<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        let mut rest = &self.header[..];
        let header = rmp_serde::from_read(&mut rest).map_err(|e| FrameError::Malformed(e.to_string()))?;
        if rest.is_empty() {
            Ok(header)
        } else {
            Err(FrameError::Malformed(format!("{} bytes follow the header", rest.len())))
        }
    }

    /// How many bytes it takes on the stream.
    #[must_use]
    pub fn size(&self) -> usize {
        PREFIX + self.header.len() + self.payload.len()
    }
}

/// Cuts a stream into frames and writes them, within limits.
#[derive(Clone, Copy, Debug)]
pub struct FrameCodec {
    max_header: usize,
    max_payload: usize,
}

impl FrameCodec {
    /// A codec that accepts headers and payloads of up to so many bytes each (at most 1 GiB).
    #[must_use]
    pub fn new(max_header: usize, max_payload: usize) -> Self {
        const GIB: usize = 1 << 30;
        Self { max_header: max_header.min(GIB), max_payload: max_payload.min(GIB) }
    }

    fn check(&self, header: usize, payload: usize) -> Result<(), FrameError> {
        for (size, limit) in [(header, self.max_header), (payload, self.max_payload)] {
            if size > limit {
                return Err(FrameError::TooLarge { size, limit });
            }
        }
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(mut prefix) = source.get(..PREFIX) else { return Ok(None) };
        let length = prefix.get_u32() as usize;
        let header = prefix.get_u32() as usize;
        let Some(payload) = length.checked_sub(4 + header) else {
            return Err(FrameError::Malformed(format!("a header of {header} bytes in a frame of {length}")));
        };
        self.check(header, payload)?;
        let size = 4 + length;
        if source.len() < size {
            source.reserve(size - source.len());
            return Ok(None);
        }
        let mut frame = source.split_to(size).freeze();
        frame.advance(PREFIX);
        let header = frame.split_to(header);
        Ok(Some(Frame { header, payload: frame }))
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(source)? {
            None if !source.is_empty() => {
                Err(FrameError::Malformed(format!("the stream ended {} bytes into a frame", source.len())))
            }
            frame => Ok(frame),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = FrameError;

    #[allow(clippy::cast_possible_truncation)] // both limits are at most 1 GiB
    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        self.check(frame.header.len(), frame.payload.len())?;
        out.reserve(frame.size());
        out.put_u32((frame.size() - 4) as u32);
        out.put_u32(frame.header.len() as u32);
        out.put_slice(&frame.header);
        out.put_slice(&frame.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn codec() -> FrameCodec {
        FrameCodec::new(64, 256)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            frames in vec((vec(any::<u8>(), 0..64), vec(any::<u8>(), 0..256)), 0..8),
            chunk in 1usize..300,
        ) {
            let frames: Vec<_> =
                frames.into_iter().map(|(h, p)| Frame { header: h.into(), payload: p.into() }).collect();
            let mut stream = BytesMut::new();
            for frame in &frames { codec().encode(frame.clone(), &mut stream).unwrap(); }
            prop_assert_eq!(stream.len(), frames.iter().map(Frame::size).sum::<usize>());
            let (mut read, mut buffer) = (Vec::new(), BytesMut::new());
            for piece in stream.chunks(chunk) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = codec().decode(&mut buffer).unwrap() { read.push(frame); }
            }
            prop_assert!(codec().decode_eof(&mut buffer).unwrap().is_none());
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn hostile_bytes_are_refused_and_never_make_it_allocate(bytes in vec(any::<u8>(), 0..600)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = codec().decode(&mut buffer) {
                let _ = frame.header::<(u8, String, Vec<u64>)>();
            }
            prop_assert!(buffer.capacity() <= 2048, "{}", buffer.capacity());
        }
    }

    #[test]
    fn sizes_are_checked_before_the_frame_has_arrived() {
        let announce = |length: u32, header: u32| {
            let mut buffer = BytesMut::new();
            buffer.put_u32(length);
            buffer.put_u32(header);
            codec().decode(&mut buffer)
        };
        assert!(matches!(announce(u32::MAX, 4), Err(FrameError::TooLarge { limit: 256, .. })));
        assert!(matches!(announce(u32::MAX, 65), Err(FrameError::TooLarge { size: 65, limit: 64 })));
        assert!(matches!(announce(3, 0), Err(FrameError::Malformed(_))));
        assert!(matches!(announce(7, 4), Err(FrameError::Malformed(_))));
        assert!(matches!(announce(4 + 64 + 256, 64), Ok(None)));
        let large = Frame { header: Bytes::new(), payload: Bytes::from(vec![0; 257]) };
        assert!(matches!(codec().encode(large, &mut BytesMut::new()), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_an_error() {
        let mut buffer = BytesMut::from(&[0, 0][..]);
        assert!(codec().decode_eof(&mut buffer).unwrap_err().to_string().contains("2 bytes"));
    }

    #[test]
    fn a_header_is_one_value_and_nothing_more() {
        let frame = Frame::new(&(1u8, "x"), Bytes::new()).unwrap();
        assert_eq!(frame.header::<(u8, String)>().unwrap(), (1, "x".to_owned()));
        assert!(frame.header::<(u8, u8)>().is_err());
        let mut longer = frame.header.to_vec();
        longer.push(0);
        assert!(Frame { header: longer.into(), ..frame }.header::<(u8, String)>().is_err());
    }
}
