//! Frames and their headers, as data: encode, check, decode. No I/O.
//!
//! [`Frame`] is what travels: a small msgpack header and the raw payload after it, cut and checked by
//! [`FrameCodec`]. What the headers say is a matter of each conversation; [`process`] is the one between a
//! worker and the processes that run a service's code.

pub mod frame;
pub mod process;

pub use frame::{Frame, FrameCodec, FrameError};
