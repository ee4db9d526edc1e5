//! A tunnel between two engines through NATS: bytes both ways, as over a connection, without a port of their own.
//!
//! Whoever calls asks on the other's subject and names one of its own; the answer names the other's. From then on each
//! publishes on the other's, in numbered messages. Core NATS loses messages when a connection breaks, or when somebody
//! is too slow: so whoever finds a number missing takes the tunnel for broken, and nobody sends more than [`WINDOW`] bytes that the
//! other end has not taken. A silence is for those to notice who speak through it.
//!
//! | subject | what |
//! | --- | --- |
//! | `PREFIX.p.INSTANCE` | calls of that engine |
//! | `PREFIX.p.INSTANCE.NUMBER` | what comes to its end of a tunnel |
//!
//! ```text
//!  0  u8   0: bytes; 1: so many have been taken; 2: nothing more will come
//!  1  u64  of bytes: how many messages of them came before; of taken: how many bytes (big-endian)
//!  9  ...  the bytes
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Client, Message, Request, Subject, Subscriber};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use crossdock_topics::{Error, ErrorCode, Result};
use futures::{Sink, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;

/// So many bytes may be under way to the other end.
const WINDOW: u64 = 4 << 20;
/// The other end is told what was taken when it is so much more.
const TOLD: u64 = WINDOW / 8;
/// At most so many bytes in a message.
const CHUNK: usize = 128 * 1024;
/// What a message costs beside its bytes, so that no window holds more small ones than a subscription does.
const COST: u64 = 256;
/// How long calling may take.
const CALLING: Duration = Duration::from_secs(3);

const HEADER: usize = 9;
const BYTES: u8 = 0;
const TAKEN: u8 = 1;
const END: u8 = 2;

/// One end of a tunnel, for one task that reads and writes in turn.
pub(super) struct Tunnel {
    client: Client,
    other: Subject,
    incoming: Subscriber,
    unread: VecDeque<Bytes>,
    /// How much lies in `unread`.
    waiting: u64,
    /// The number of the message that comes next.
    next: u64,
    /// How much has been read, and how much of that the other end knows.
    read: u64,
    told: u64,
    /// How many messages have been sent, how much that was, and how much of it has been taken.
    number: u64,
    sent: u64,
    taken: u64,
    state: State,
    /// Whether the other end has been told that nothing more will come.
    has_ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more will come.
    Ended,
    /// Something is missing.
    Broken,
}

/// The subject on which an engine is called.
pub(super) fn subject(connection: &Connection, instance: &str) -> String {
    format!("{}.p.{instance}", connection.prefix())
}

impl Tunnel {
    /// Calls an engine, as another one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn call(connection: &Connection, instance: &str, caller: &str) -> Result<Self> {
        let failed = |why: String| {
            Error::new(ErrorCode::Unavailable, format!("server {instance} cannot be reached: {why}"))
        };
        let (own, incoming) = end(connection, caller).await?;
        let request = Request::new().payload(own.into()).timeout(Some(CALLING));
        let answer = connection.client.send_request(subject(connection, instance), request).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?;
        let (_, other) = end_of(connection, &answer.payload)
            .ok_or_else(|| failed("it gave an answer of another kind".to_owned()))?;
        Ok(Self::begin(connection, other, incoming))
    }

    /// Answers a call; gives who calls.
    ///
    /// # Errors
    /// `Unavailable`; `InvalidArgument` when it is no call.
    pub(super) async fn answer(
        connection: &Connection,
        call: &Message,
        instance: &str,
    ) -> Result<(String, Self)> {
        let strange = || Error::invalid("a message that is no call came where calls come");
        let (caller, other) = end_of(connection, &call.payload).ok_or_else(strange)?;
        let reply = call.reply.clone().ok_or_else(strange)?;
        let (own, incoming) = end(connection, instance).await?;
        let answered = connection.client.publish(reply, own.into()).await;
        answered.map_err(|error| Error::new(ErrorCode::Unavailable, error.to_string()))?;
        Ok((caller, Self::begin(connection, other, incoming)))
    }

    fn begin(connection: &Connection, other: Subject, incoming: Subscriber) -> Self {
        Self {
            client: connection.client.clone(),
            other,
            incoming,
            unread: VecDeque::new(),
            waiting: 0,
            next: 0,
            read: 0,
            told: 0,
            number: 0,
            sent: 0,
            taken: 0,
            state: State::Open,
            has_ended: false,
        }
    }

    /// Takes in what has come.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        while self.state == State::Open
            && let Poll::Ready(message) = self.incoming.poll_next_unpin(cx)
        {
            let header = message.as_ref().and_then(|message| message.payload.split_at_checked(HEADER));
            let (Some((header, _)), Some(message)) = (header, &message) else {
                self.state = State::Broken;
                return;
            };
            let number = (&header[1..]).get_u64();
            match header[0] {
                BYTES if number == self.next && self.waiting <= WINDOW => {
                    self.next += 1;
                    let bytes = message.payload.slice(HEADER..);
                    self.waiting += cost(&bytes);
                    self.unread.push_back(bytes);
                }
                TAKEN => self.taken = self.taken.max(number),
                END => self.state = State::Ended,
                _ => self.state = State::Broken,
            }
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        message: impl FnOnce(&mut Self) -> Bytes,
    ) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(ErrorKind::BrokenPipe);
        ready!(Pin::new(&mut self.client).poll_ready(cx)).map_err(gone)?;
        let payload = message(self);
        let message = OutboundMessage { subject: self.other.clone(), reply: None, payload, headers: None };
        Poll::Ready(Pin::new(&mut self.client).start_send(message).map_err(gone))
    }

    /// Lets the other end know what has been read.
    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read - self.told < TOLD {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx, |this| {
            this.told = this.read;
            message(TAKEN, this.read, 0).freeze()
        })
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.take_in(cx);
        let before = buf.filled().len();
        while buf.remaining() > 0
            && let Some(bytes) = this.unread.front_mut()
        {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes.split_to(count));
            this.read += count as u64;
            this.waiting -= count as u64;
            if bytes.is_empty() {
                this.unread.pop_front();
                this.read += COST;
                this.waiting -= COST;
            }
        }
        // Otherwise it is told with what is read next, or written.
        if let Poll::Ready(told) = this.poll_tell(cx) {
            told?;
        }
        match this.state {
            _ if buf.filled().len() > before => Poll::Ready(Ok(())),
            State::Open => Poll::Pending,
            State::Ended => Poll::Ready(Ok(())),
            State::Broken => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.take_in(cx);
        ready!(this.poll_tell(cx))?;
        if this.state != State::Open || this.has_ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if this.sent - this.taken >= WINDOW {
            // What has been taken comes in where this has just looked.
            return Poll::Pending;
        }
        let limit = CHUNK.min(this.client.max_payload().saturating_sub(HEADER)).max(1);
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>().min(limit);
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(this.poll_send(cx, |this| {
            let mut payload = message(BYTES, this.number, count);
            let mut left = count;
            for slice in slices {
                let part = slice.len().min(left);
                payload.put_slice(&slice[..part]);
                left -= part;
            }
            this.number += 1;
            this.sent += count as u64 + COST;
            payload.freeze()
        }))?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was given to the client goes out by itself; but what has been taken may have to be told.
        self.get_mut().poll_tell(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(Ok(()));
        }
        this.poll_send(cx, |this| {
            this.has_ended = true;
            message(END, 0, 0).freeze()
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if self.has_ended || self.state == State::Ended {
            return;
        }
        let subject = std::mem::replace(&mut self.other, Subject::from_static("-"));
        let payload = message(END, 0, 0).freeze();
        let end = OutboundMessage { subject, reply: None, payload, headers: None };
        // Whoever drops cannot wait. It is a word of courtesy: a silence is noticed too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut client = self.client.clone();
            runtime.spawn(async move { client.send(end).await });
        }
    }
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + COST
}

fn message(kind: u8, number: u64, bytes: usize) -> BytesMut {
    let mut message = BytesMut::with_capacity(HEADER + bytes);
    message.put_u8(kind);
    message.put_u64(number);
    message
}

/// An end of a tunnel that an engine is about to have.
async fn end(connection: &Connection, instance: &str) -> Result<(String, Subscriber)> {
    let own = format!("{}.{:016x}", subject(connection, instance), rand::random::<u64>());
    let incoming = connection.client.subscribe(own.clone()).await;
    let incoming = incoming.map_err(|error| Error::new(ErrorCode::Unavailable, error.to_string()))?;
    Ok((own, incoming))
}

/// The other's end as it was named, and which engine has it.
fn end_of(connection: &Connection, payload: &[u8]) -> Option<(String, Subject)> {
    let text = std::str::from_utf8(payload).ok()?;
    let (instance, number) = text.strip_prefix(&subject(connection, ""))?.split_once('.')?;
    let fine = |word: &str| word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    (fine(instance) && fine(number)).then(|| (instance.to_owned(), Subject::from(text)))
}

#[cfg(test)]
mod tests;
