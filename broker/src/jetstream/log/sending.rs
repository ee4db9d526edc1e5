//! Sending a group to NATS, and what NATS says to it.

use std::time::Duration;

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
    NATS_MESSAGE_ID,
};
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::{HeaderMap, client};
use crossdock_topics::{Error, ErrorCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::connection::{Connection, Up};
use super::group::Outgoing;

/// Codes of NATS for what can become of a message.
const WRONG_LAST: [u64; 2] = [10_071, 10_164];
const DUPLICATE_IN_BATCH: u64 = 10_201;
const TOO_LARGE: [u64; 2] = [10_054, 10_097];
const NO_STREAM: u64 = 10_059;
/// How long NATS may take to answer before the same is sent again.
const PATIENCE: Duration = Duration::from_secs(3);

/// What became of a group.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its last message has this number in the stream.
    Stored(u64),
    /// Its only message was stored before, under this number.
    Duplicate(u64),
    /// Some message of it was stored before; nothing of it was stored now.
    Duplicates,
    /// The stream is not as was expected, as NATS says; nothing of it was stored.
    WrongLast(String),
    /// NATS cannot at the moment; nothing of it was stored.
    Busy(String),
    /// There is no stream, or nobody who has it; nothing of it was stored.
    Gone,
    /// It cannot be stored, now or later.
    Refused(Error),
    /// It may be stored or not.
    Unknown(String),
}

/// A group on its way.
pub(super) struct Sent {
    ack: Result<Ack, Answer>,
    up: watch::Receiver<Up>,
    times: u64,
    deadline: Instant,
}

type Ack = <PublishAckFuture as IntoFuture>::IntoFuture;

/// How several messages belong together.
#[derive(Clone, Copy)]
pub(super) enum Piece<'a> {
    /// All of them are stored or none, under this name.
    Batch(&'a str),
    /// Each is stored if the one before it is; what is said of the last one is asked for only.
    Chain,
}

/// Sends messages. They are on their way, behind those that were sent before, when this returns.
pub(super) async fn send(connection: &Connection, piece: Piece<'_>, messages: Vec<Outgoing>) -> Sent {
    let up = connection.up();
    let times = up.borrow().times;
    let mut sent = 0;
    let sending = hand_over(connection, piece, messages, &mut sent);
    let stuck = || Err(Answer::Busy("the connection to NATS takes nothing".into()));
    let ack = tokio::time::timeout(PATIENCE, sending).await.unwrap_or_else(|_| stuck());
    let ack = match (ack, piece) {
        // Those before it are stored, or will be.
        (Err(why), Piece::Chain) if sent > 0 => {
            Err(Answer::Unknown(format!("its end was not sent: {why:?}")))
        }
        (ack, _) => ack.map(PublishAckFuture::into_future),
    };
    Sent { ack, up, times, deadline: Instant::now() + PATIENCE }
}

async fn hand_over(
    connection: &Connection,
    piece: Piece<'_>,
    messages: Vec<Outgoing>,
    sent: &mut usize,
) -> Result<PublishAckFuture, Answer> {
    let count = messages.len();
    for (n, Outgoing { subject, mut headers, payload }) in (1..).zip(messages) {
        if let Piece::Batch(name) = piece
            && count > 1
        {
            headers.insert(NATS_BATCH_ID, name);
            headers.insert(NATS_BATCH_SEQUENCE, n.to_string());
            // Without its end NATS forgets what has come of it.
            if n == count {
                headers.insert(NATS_BATCH_COMMIT, "1");
            }
        }
        if n == count {
            let asked = connection.context.publish_with_headers(subject, headers, payload).await;
            return asked.map_err(|error| told(&error));
        }
        match connection.client.publish_with_headers(subject, headers, payload).await {
            Ok(()) => *sent = n,
            Err(error) if error.kind() == client::PublishErrorKind::MaxPayloadExceeded => {
                return Err(Answer::Refused(too_large(&error.to_string())));
            }
            Err(error) => return Err(Answer::Busy(error.to_string())),
        }
    }
    Err(Answer::Refused(Error::internal("a group without a message")))
}

impl Sent {
    /// Waits for what NATS says, for as long as it may take.
    pub(super) async fn answer(&mut self) -> Answer {
        let deadline = self.deadline;
        tokio::time::timeout_at(deadline, self.told()).await.unwrap_or_else(|_| late())
    }

    /// Waits for what NATS says. A connection that is lost meanwhile will not bring it any more. Dropped before it
    /// resolves, it can be called again; once it has, it is not to be.
    pub(super) async fn told(&mut self) -> Answer {
        let ack = match &mut self.ack {
            Ok(ack) => ack,
            Err(answer) => {
                return std::mem::replace(answer, Answer::Unknown("it was answered before".into()));
            }
        };
        let times = self.times;
        tokio::select! {
            biased;
            ack = ack => match ack {
                Ok(ack) if ack.duplicate => Answer::Duplicate(ack.sequence),
                Ok(ack) => Answer::Stored(ack.sequence),
                Err(error) => told(&error),
            },
            _ = self.up.wait_for(|up| up.times != times) => Answer::Unknown("the connection was lost".into()),
        }
    }

    /// Whether it has taken as long as it may.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// What is known when it has.
pub(super) fn late() -> Answer {
    Answer::Unknown("NATS does not answer".into())
}

/// Asks whether a message of this id is stored, with a batch that cannot be stored: its second message expects another one
/// where there is none. (Other things that could be expected in vain are looked at so late that NATS 2.15 takes a stream of
/// several servers for broken.)
pub(super) async fn is_known(
    connection: &Connection,
    base: &str,
    batch: &str,
    id: &str,
) -> Result<bool, Answer> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id);
    let asked = Outgoing { subject: format!("{base}.nobody").into(), headers, payload: bytes::Bytes::new() };
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "1");
    let fails = Outgoing { subject: format!("{base}.nobody").into(), headers, payload: bytes::Bytes::new() };
    match send(connection, Piece::Batch(batch), vec![asked, fails]).await.answer().await {
        Answer::Duplicates => Ok(true),
        Answer::WrongLast(_) => Ok(false),
        Answer::Stored(_) | Answer::Duplicate(_) => {
            Err(Answer::Refused(Error::internal("what was asked only was stored")))
        }
        other => Err(other),
    }
}

fn told(error: &PublishError) -> Answer {
    let code = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>())
        .map(|error| error.error_code().0);
    match (error.kind(), code) {
        (PublishErrorKind::StreamNotFound, _) | (_, Some(NO_STREAM)) => Answer::Gone,
        (PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId, _) => {
            Answer::WrongLast(error.to_string())
        }
        (_, Some(code)) if WRONG_LAST.contains(&code) => Answer::WrongLast(error.to_string()),
        (_, Some(DUPLICATE_IN_BATCH)) => Answer::Duplicates,
        (PublishErrorKind::MaxPayloadExceeded, _) => Answer::Refused(too_large(&error.to_string())),
        (_, Some(code)) if TOO_LARGE.contains(&code) => Answer::Refused(too_large(&error.to_string())),
        (_, Some(_)) => Answer::Busy(error.to_string()),
        (PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe, _) => Answer::Unknown(error.to_string()),
        _ => Answer::Unknown(error.to_string()),
    }
}

fn too_large(why: &str) -> Error {
    Error::new(ErrorCode::TooLarge, format!("NATS does not take a message as large as this: {why}"))
        .hint("make it smaller, or raise max_payload of nats-server (at most 64MB)")
}
