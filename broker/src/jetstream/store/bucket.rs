//! The bucket in NATS: what lies there as messages, and how one is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{ErrorCode as Code, stream};
use async_nats::{HeaderMap, Message, Request};
use bytes::Bytes;
use crossdock_topics::{Backoff, Error, ErrorCode, LeaseId, Result, Revision};
use tokio::time::{Instant, timeout_at};

use super::mirror::{Record, What};
use super::names::Key;
use crate::jetstream::connection::{Connection, STUCK, Struggle};

/// How long the mark of a deletion is kept, so that those who were away find it.
pub(super) const MARKS: Duration = Duration::from_secs(6 * 3600);
/// How long one try to write may take before the next.
pub(super) const TRY: Duration = Duration::from_secs(1);
/// Whoever keeps a lease alive tries so often within its time, and no more often than that.
const TRIES: u32 = 4;
const QUICK: Duration = Duration::from_millis(50);
/// How long to wait before the next try.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(20), factor: 2.0, max: Duration::from_millis(500) };
/// Writes sent again within it are stored once.
const WINDOW: Duration = Duration::from_secs(120);

/// What NATS says when the account, the server or the disk is full.
const NO_ROOM: [u64; 4] = [10_002, 10_023, 10_047, 10_077];

const OPERATION: &str = "KV-Operation";
const LEASE: &str = "Crossdock-Lease";
const OBJECT: &str = "Crossdock-Object";
const TTL: &str = "Crossdock-Lease-Time";

/// The bucket, as NATS has it.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) connection: Connection,
    pub(super) stream: stream::Stream,
    /// What its subjects begin with.
    subjects: String,
    /// Writes that are not possible.
    struggle: Arc<Struggle>,
    /// Whether NATS had no room for the last write.
    full: Arc<AtomicBool>,
}

/// What is to be written.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Put { value: Bytes, lease: Option<LeaseId>, object: Option<String> },
    Lease(Duration),
    Delete,
}

/// Why it was not.
pub(super) enum Trouble {
    /// The key's last message is another one than expected.
    Moved,
    /// What to tell who asked.
    Failed(Error),
}

impl Bucket {
    /// The name of its stream.
    pub(super) fn stream_name(prefix: &str) -> String {
        format!("KV_{prefix}-store")
    }

    /// Finds it, or makes it, with a revision before the first one.
    pub(super) async fn open(connection: &Connection, after: Revision) -> Result<Self> {
        let (prefix, name) = (connection.prefix(), Self::stream_name(connection.prefix()));
        let subjects = format!("$KV.{prefix}-store.");
        let config = stream::Config {
            name,
            description: Some("What the servers of a Crossdock cluster share".into()),
            subjects: vec![format!("{subjects}>")],
            max_messages_per_subject: 1,
            discard: stream::DiscardPolicy::New,
            storage: stream::StorageType::File,
            num_replicas: connection.replicas(),
            duplicate_window: WINDOW,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            allow_message_ttl: true,
            first_sequence: (after > 0).then_some(after + 1),
            ..Default::default()
        };
        let stream = connection.stream(config).await?;
        Ok(Self {
            connection: connection.clone(),
            stream,
            subjects,
            struggle: Arc::default(),
            full: Arc::default(),
        })
    }

    /// Whether there is one.
    pub(super) async fn exists(connection: &Connection) -> Result<bool> {
        let error = match connection.context.get_stream(Self::stream_name(connection.prefix())).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.error_code() == Code::STREAM_NOT_FOUND => Ok(false),
            _ => Err(unavailable(&error)),
        }
    }

    /// Whether NATS had no room for what was to be written last.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The number of its last message, as its leader has it now.
    pub(super) async fn last(&self) -> Result<Revision> {
        let info = tokio::time::timeout(TRY, self.stream.get_info()).await;
        match info {
            // A server that has lost the others says what it knows, without a leader.
            Ok(Ok(info)) if info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none()) => {
                Err(Error::new(ErrorCode::Unavailable, "the store in NATS has no leader"))
            }
            Ok(Ok(info)) => Ok(info.state.last_sequence),
            Ok(Err(error)) => {
                Err(Error::new(ErrorCode::Unavailable, format!("the store in NATS does not answer: {error}")))
            }
            Err(_) => {
                Err(Error::new(ErrorCode::Unavailable, "the store in NATS does not answer: no leader?"))
            }
        }
        .map_err(|error: Error| error.hint(LOOK))
    }

    /// Whether there is a message behind a number, as the leader has it now.
    pub(super) async fn goes_on_behind(&self, sequence: Revision) -> Result<bool> {
        let got = self.stream.get_first_raw_message_by_subject(">", sequence + 1);
        match tokio::time::timeout(TRY, got).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(false),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"no leader?")),
        }
    }

    /// The number of a key's last message, as the leader has it now; 0 when there is none.
    pub(super) async fn last_of(&self, key: &Key) -> Result<Revision> {
        let subject = self.subjects.clone() + &key.encode();
        Ok(self.last_message(&subject).await?.map_or(0, |(sequence, _)| sequence))
    }

    /// The number of a subject's last message, and the id it was sent with.
    async fn last_message(&self, subject: &str) -> Result<Option<(Revision, String)>> {
        let got = self.stream.get_last_raw_message_by_subject(subject);
        match tokio::time::timeout(TRY, got).await {
            Ok(Ok(message)) => {
                let id = message.headers.get("Nats-Msg-Id").map(|id| id.as_str().to_owned());
                Ok(Some((message.sequence, id.unwrap_or_default())))
            }
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"no leader?")),
        }
    }

    /// Writes. Sent again where no answer came, and stored once however often it was sent.
    pub(super) async fn write(
        &self,
        key: &Key,
        write: Write,
        expected: Option<Revision>,
        deadline: Instant,
    ) -> Result<Revision, Trouble> {
        let mut headers = HeaderMap::new();
        let id: u128 = rand::random();
        let ours = format!("{id:032x}");
        headers.insert("Nats-Msg-Id", ours.as_str());
        if let Some(expected) = expected {
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
        }
        let (mut payload, mut patience) = (Bytes::new(), TRY);
        match write {
            Write::Put { value, lease, object } => {
                payload = value;
                if let Some(LeaseId(lease)) = lease {
                    headers.insert(LEASE, lease.to_string());
                }
                if let Some(object) = object {
                    headers.insert(OBJECT, object);
                }
            }
            Write::Lease(ttl) => {
                patience = (ttl / TRIES).clamp(QUICK, TRY);
                headers.insert(TTL, ttl.as_millis().to_string());
            }
            Write::Delete => {
                headers.insert(OPERATION, "DEL");
                headers.insert("Nats-TTL", format!("{}s", MARKS.as_secs()));
            }
        }
        let subject = self.subjects.clone() + &key.encode();
        // Whether something was sent that may have been stored, and since when the leader has been busy with the key.
        let (mut failures, mut in_doubt, mut busy) = (0, false, None);
        loop {
            let request =
                Request::new().payload(payload.clone()).headers(headers.clone()).timeout(Some(patience));
            let sent = self.connection.client.send_request(subject.clone(), request);
            let mut is_busy = false;
            let why = match timeout_at(deadline, sent).await {
                Ok(Ok(answer)) => match answered(&answer) {
                    Ok(sequence) => {
                        self.struggle.over();
                        self.full.store(false, Ordering::Relaxed);
                        return Ok(sequence);
                    }
                    Err(Answer::Moved) if !in_doubt => return Err(Trouble::Moved),
                    // It may be what was sent before that moved it, with the answer lost.
                    Err(Answer::Moved) => match self.last_message(&subject).await {
                        Ok(Some((sequence, last))) if last == ours => return Ok(sequence),
                        Ok(_) => return Err(Trouble::Failed(uncertain(key, "others write it too"))),
                        Err(error) => error.message.into_owned(),
                    },
                    Err(Answer::Busy) => {
                        is_busy = true;
                        if busy.get_or_insert_with(Instant::now).elapsed() >= STUCK {
                            let stream = Self::stream_name(self.connection.prefix());
                            self.connection.change_leader(&stream).await;
                            busy = None;
                        }
                        "others write it at this moment".to_owned()
                    }
                    Err(Answer::Full(why)) => {
                        self.full.store(true, Ordering::Relaxed);
                        return Err(Trouble::Failed(full(key, &why)));
                    }
                    Err(Answer::Refused(error)) => return Err(Trouble::Failed(error)),
                    Err(Answer::Later(why)) => why,
                },
                Ok(Err(error)) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                    let error = Error::new(ErrorCode::TooLarge, format!("NATS does not take {key}: {error}"));
                    return Err(Trouble::Failed(error.hint("raise max_payload of nats-server")));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer came in time".to_owned(),
            };
            failures += 1;
            if !is_busy {
                in_doubt = true;
                self.struggle.goes_on(&self.connection, "nothing can be written through it").await;
            }
            tracing::debug!(%key, why, failures, "a write is sent again");
            let again = Instant::now() + RETRY.wait(failures, id as u64);
            if again >= deadline {
                return Err(Trouble::Failed(uncertain(key, &why)));
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// What a message of the stream says.
    pub(super) fn read(&self, sequence: Revision, message: &Message) -> Option<Record> {
        let key = Key::decode(message.subject.strip_prefix(&self.subjects)?)?;
        let header = |name| Some(message.headers.as_ref()?.get(name)?.as_str());
        let what = match (header(OPERATION), header(TTL)) {
            (Some("DEL" | "PURGE"), _) => What::Deleted,
            (_, Some(millis)) => What::Lease(Duration::from_millis(millis.parse().ok()?)),
            _ => What::Put {
                value: message.payload.clone(),
                lease: header(LEASE).and_then(|lease| Some(LeaseId(lease.parse().ok()?))),
                object: header(OBJECT).map(str::to_owned),
            },
        };
        // NATS marks by itself what its own limits removed.
        let what = if header("Nats-Marker-Reason").is_some() { What::Deleted } else { what };
        Some(Record { key, sequence, what })
    }
}

fn unavailable(why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::Unavailable, format!("the store in NATS does not answer: {why}")).hint(LOOK)
}

fn uncertain(key: &Key, why: &str) -> Error {
    Error::new(
        ErrorCode::Unavailable,
        format!("the store in NATS did not take {key}: {why}; it may have been written or not"),
    )
    .hint("look at `nats stream report`, then read it, and write it again if it is not there")
}

fn full(key: &Key, why: &str) -> Error {
    Error::new(ErrorCode::Unavailable, format!("NATS has no room for {key}: {why}")).hint(FULL)
}

/// What to do when the bucket cannot be read.
pub(super) const LOOK: &str = "look at `nats stream report`, and at the logs of nats-server; then try again";
/// What to do when NATS has no room.
pub(super) const FULL: &str = "raise max_file of JetStream or of the account, add disks, or let topics keep less (retention goes on meanwhile)";

enum Answer {
    Moved,
    /// Nothing was stored, because another write of the key is on its way.
    Busy,
    /// There is no room.
    Full(String),
    Refused(Error),
    Later(String),
}

fn answered(answer: &Message) -> Result<Revision, Answer> {
    match serde_json::from_slice::<Response<PublishAck>>(&answer.payload) {
        Ok(Response::Ok(ack)) => Ok(ack.sequence),
        Ok(Response::Err { error }) => match error.error_code() {
            Code::STREAM_WRONG_LAST_SEQUENCE => Err(Answer::Moved),
            Code::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Err(Answer::Busy),
            // The first one of those sent twice is still under way, or the leader has just changed.
            Code::STREAM_DUPLICATE_MESSAGE_CONFLICT
            | Code::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY => Err(Answer::Later(error.to_string())),
            _ if NO_ROOM.contains(&error.error_code().0) => Err(Answer::Full(error.to_string())),
            _ if error.code() >= 500 => Err(Answer::Later(error.to_string())),
            _ => Err(Answer::Refused(Error::internal(format!("NATS refused to store it: {error}")))),
        },
        Err(error) => Err(Answer::Later(format!("that was no answer: {error}"))),
    }
}
