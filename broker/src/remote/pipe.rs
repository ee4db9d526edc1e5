//! A connection as both sides have it: frames in, frames out, and how long it has been silent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use crossdock_topics::{Error, ErrorCode};
use crossdock_wire::{Frame, FrameCodec, FrameError, session};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::codec::Decoder;
use tokio_util::io::poll_read_buf;

use super::pieces::Pieces;

/// Anything that carries bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// How much is read at once, and before the greeting.
const READ: usize = 128 * 1024;
const READ_GREETING: usize = 4 * 1024;
/// A frame that has begun must be there as a whole within this time.
const FRAME_TIME: Duration = Duration::from_secs(60);

/// One end of a connection.
pub(super) struct Pipe {
    io: Box<dyn Stream>,
    codec: FrameCodec,
    input: BytesMut,
    read: usize,
    /// Since when a frame is there in part.
    part_since: Option<Instant>,
    pub(super) output: Pieces,
    /// How many bytes have been written in all.
    pub(super) written: u64,
    last_read: Instant,
    last_written: Instant,
}

impl Pipe {
    /// A connection that is about to begin: only the frames of a greeting are taken.
    pub(super) fn new(io: Box<dyn Stream>) -> Self {
        let now = Instant::now();
        Self {
            io,
            codec: session::greeting(),
            input: BytesMut::new(),
            read: READ_GREETING,
            part_since: None,
            output: Pieces::default(),
            written: 0,
            last_read: now,
            last_written: now,
        }
    }

    /// From now on frames of a session are taken.
    pub(super) fn greeted(&mut self) {
        self.codec = session::codec();
        self.read = READ;
    }

    /// Nothing is read for now, which is not the peer's fault.
    pub(super) fn pause(&mut self) {
        self.last_read = Instant::now();
        self.part_since = self.part_since.map(|_| self.last_read);
    }

    /// The next frame; `None` when the peer has closed.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, FrameError>> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.input)? {
                self.part_since = None;
                return Poll::Ready(Ok(Some(frame)));
            }
            self.input.reserve(self.read);
            let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
            if read == 0 {
                return Poll::Ready(self.codec.decode_eof(&mut self.input));
            }
            self.last_read = Instant::now();
            self.part_since = self.part_since.or(Some(self.last_read));
        }
    }

    /// Adds a frame to what is written.
    pub(super) fn send(&mut self, header: &impl Serialize, payload: Pieces) -> Result<(), FrameError> {
        self.output.add_frame(header, payload)
    }

    /// Writes what waits; ready when nothing does.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let (slices, count) = self.output.slices();
            let io = Pin::new(&mut self.io);
            let written = match count {
                1 => ready!(io.poll_write(cx, &slices[0]))?,
                _ => ready!(io.poll_write_vectored(cx, &slices[..count]))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            self.written += written as u64;
            self.last_written = Instant::now();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Looks at the clock: what a peer is cut off for. `reading` is whether it is being listened to.
    ///
    /// # Errors
    /// `Timeout` saying what took too long.
    pub(super) fn check_life(&self, heartbeat: Duration, reading: bool) -> Result<(), Error> {
        let cut = |why: String| Err(Error::new(ErrorCode::Timeout, why));
        let now = Instant::now();
        let patience = heartbeat * 3;
        if !heartbeat.is_zero() && reading && now - self.last_read > patience {
            return cut(format!("nothing has come for {patience:?}, not even a ping"));
        }
        if !heartbeat.is_zero() && !self.output.is_empty() && now - self.last_written > patience {
            let waiting = self.output.len();
            return cut(format!("it has read nothing of the {waiting} bytes for it for {patience:?}"));
        }
        if reading && self.part_since.is_some_and(|since| now - since > FRAME_TIME) {
            return cut(format!("a frame was not complete within {FRAME_TIME:?}"));
        }
        Ok(())
    }

    /// Whether so much time has gone without a word of ours that a ping is due.
    pub(super) fn is_ping_due(&self, heartbeat: Duration) -> bool {
        !heartbeat.is_zero() && self.output.is_empty() && self.last_written.elapsed() >= heartbeat
    }

    /// Writes what waits, says goodbye to the stream, and waits for neither for longer than `patience`.
    pub(super) async fn finish(mut self, patience: Duration) {
        let finishing = async {
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut self.io).await
        };
        let _ = tokio::time::timeout(patience, finishing).await;
    }
}
