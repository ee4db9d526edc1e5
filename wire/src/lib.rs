//! Frames and their headers, as data: encode, check, decode. No I/O.
//!
//! [`Frame`] is what travels: a small msgpack header and the raw payload after it, cut and checked by
//! [`FrameCodec`]. What the headers say is [`session`]: the one protocol between a broker and everything that
//! uses it from another process.

pub mod frame;
pub mod session;

pub use frame::{Frame, FrameCodec, FrameError};
