//! Frames on their way out, put together without copying what is large.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crossdock_topics::Record;
use crossdock_wire::{FrameError, session};
use serde::Serialize;

/// What is smaller is copied beside the rest: that costs less than one more piece to write.
const SHARED: usize = 8 * 1024;
/// The most pieces in one write.
const PIECES: usize = 64;

/// Bytes to be written, in pieces: those that were gathered here, and large ones that are shared.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    full: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Pieces {
    /// One frame.
    pub(super) fn frame(header: &impl Serialize, payload: Self) -> Result<Self, FrameError> {
        let mut pieces = Self::default();
        pieces.add_frame(header, payload)?;
        Ok(pieces)
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds bytes, shared where they are large.
    pub(super) fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED {
            return self.put(&bytes);
        }
        self.seal();
        self.len += bytes.len();
        self.full.push_back(bytes);
    }

    /// Adds a record as it stands in a run.
    pub(super) fn record(&mut self, record: &Record) {
        let bytes = record.as_bytes();
        self.put(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.share(bytes.clone());
    }

    /// Adds all of another.
    pub(super) fn append(&mut self, other: Self) {
        if self.is_empty() {
            // The room that was made here is kept.
            if other.full.is_empty() && other.tail.len() < SHARED {
                return self.put(&other.tail);
            }
            *self = other;
            return;
        }
        for bytes in other.full {
            self.share(bytes);
        }
        if other.tail.len() < SHARED { self.put(&other.tail) } else { self.share(other.tail.freeze()) }
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits of a session; nothing is added then.
    pub(super) fn add_frame(&mut self, header: &impl Serialize, payload: Self) -> Result<(), FrameError> {
        let start = self.tail.len();
        self.tail.put_u64(0);
        let written = rmp_serde::encode::write(&mut (&mut self.tail).writer(), header);
        let size = self.tail.len() - start - 8;
        let refused = match written {
            Err(error) => Some(FrameError::Malformed(error.to_string())),
            Ok(()) if size > session::MAX_HEADER => {
                Some(FrameError::TooLarge { size, limit: session::MAX_HEADER })
            }
            Ok(()) if payload.len > session::MAX_PAYLOAD => {
                Some(FrameError::TooLarge { size: payload.len, limit: session::MAX_PAYLOAD })
            }
            Ok(()) => None,
        };
        if let Some(error) = refused {
            self.tail.truncate(start);
            return Err(error);
        }
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        self.tail[start..start + 4].copy_from_slice(&length(4 + size + payload.len));
        self.tail[start + 4..start + 8].copy_from_slice(&length(size));
        self.len += 8 + size;
        self.append(payload);
        Ok(())
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.full.push_back(self.tail.split().freeze());
        }
    }

    /// What to write next.
    pub(super) fn slices(&self) -> ([IoSlice<'_>; PIECES], usize) {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        for (slice, bytes) in slices.iter_mut().zip(self.full.iter().map(|bytes| &bytes[..]).chain(tail)) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        (slices, count)
    }

    /// Forgets what has been written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(first) = self.full.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.full.pop_front();
        }
        if written == self.tail.len() {
            self.tail.clear();
        } else {
            self.tail.advance(written);
        }
    }

    /// All of it in one.
    #[cfg(test)]
    pub(super) fn flat(&self) -> Vec<u8> {
        let (slices, count) = self.slices();
        assert!(count < PIECES, "too many for a test");
        slices.iter().flat_map(|slice| slice.iter().copied()).collect()
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.share(bytes);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use crossdock_wire::Frame;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio_util::codec::Decoder;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_in_comes_out_however_it_is_written(
            frames in vec((any::<u64>(), vec(0usize..20_000, 0..4)), 1..6), write in 1usize..9000,
        ) {
            let (mut out, mut expected) = (Pieces::default(), Vec::new());
            for (id, sizes) in frames {
                let mut payload = Pieces::default();
                for size in sizes {
                    payload.share(Bytes::from(vec![u8::try_from(size % 251).unwrap(); size]));
                }
                expected.push((id, payload.flat()));
                out.add_frame(&(9, id), payload).unwrap();
            }
            let mut stream = BytesMut::new();
            while !out.is_empty() {
                let (slices, count) = out.slices();
                let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                prop_assert!(!all.is_empty());
                let part = &all[..write.min(all.len())];
                stream.extend_from_slice(part);
                let length = part.len();
                out.advance(length);
            }
            for (id, payload) in expected {
                let frame: Frame = session::codec().decode(&mut stream).unwrap().unwrap();
                prop_assert_eq!(frame.header::<(u8, u64)>().unwrap(), (9, id));
                prop_assert_eq!(&frame.payload[..], &payload[..]);
            }
            prop_assert!(stream.is_empty());
        }
    }

    #[test]
    fn what_is_too_large_adds_nothing() {
        let mut out = Pieces::default();
        let large = Pieces::from(Bytes::from(vec![0; session::MAX_PAYLOAD + 1]));
        assert!(matches!(out.add_frame(&(9, 1), large), Err(FrameError::TooLarge { .. })));
        assert!(out.is_empty() && out.flat().is_empty());
    }
}
