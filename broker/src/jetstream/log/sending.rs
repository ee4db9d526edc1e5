//! Sending a group to NATS, and what NATS says to it.

use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::{HeaderMap, client};
use crossdock_topics::{Error, ErrorCode};
use tokio::sync::watch;

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
    ack: Result<PublishAckFuture, Answer>,
    up: watch::Receiver<Up>,
    times: u64,
}

/// Sends messages, as one piece if there are several. They are on their way, behind those that were sent before, when
/// this returns.
pub(super) async fn send(connection: &Connection, batch: &str, messages: Vec<Outgoing>) -> Sent {
    let up = connection.up();
    let times = up.borrow().times;
    let count = messages.len();
    let mut ack = Err(Answer::Refused(Error::internal("a group without a message")));
    for (n, mut message) in (1..).zip(messages) {
        if count > 1 {
            message.headers.insert(async_nats::header::NATS_BATCH_ID, batch);
            message.headers.insert(async_nats::header::NATS_BATCH_SEQUENCE, n.to_string());
        }
        if n < count {
            let sent =
                connection.client.publish_with_headers(message.subject, message.headers, message.payload);
            // Without its end NATS forgets what has come of it.
            match tokio::time::timeout(PATIENCE, sent).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) if error.kind() == client::PublishErrorKind::MaxPayloadExceeded => {
                    ack = Err(Answer::Refused(too_large(&error.to_string())));
                }
                Ok(Err(error)) => ack = Err(Answer::Busy(error.to_string())),
                Err(_) => ack = Err(Answer::Busy("the connection to NATS takes nothing".into())),
            }
            break;
        }
        if count > 1 {
            message.headers.insert(async_nats::header::NATS_BATCH_COMMIT, "1");
        }
        let sent =
            connection.context.publish_with_headers(message.subject, message.headers, message.payload).await;
        ack = sent.map_err(|error| told(&error));
    }
    Sent { ack, up, times }
}

impl Sent {
    /// Waits for what NATS says. A connection that is lost meanwhile will not bring it any more.
    pub(super) async fn answer(mut self) -> Answer {
        let ack = match self.ack {
            Ok(ack) => ack,
            Err(answer) => return answer,
        };
        let times = self.times;
        tokio::select! {
            biased;
            ack = ack.into_future() => match ack {
                Ok(ack) if ack.duplicate => Answer::Duplicate(ack.sequence),
                Ok(ack) => Answer::Stored(ack.sequence),
                Err(error) => told(&error),
            },
            _ = self.up.wait_for(|up| up.times != times) => Answer::Unknown("the connection was lost".into()),
            () = tokio::time::sleep(PATIENCE) => Answer::Unknown("NATS does not answer".into()),
        }
    }
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
    match send(connection, batch, vec![asked, fails]).await.answer().await {
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
