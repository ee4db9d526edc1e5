//! The journal of a subscription: what is kept of it, as messages of one subject of a stream.
//!
//! Each pass of its owner appends one message with the changes of what is kept, and expects that its own message
//! before that is the last one. So a former owner, however late it wakes up, can write nothing more once another one
//! has written: [`Journal::open`] does so first, and reads back what is there then. Now and then a picture of
//! everything is appended, and what came before it is removed.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{ErrorCode as Code, stream};
use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use crossdock_topics::{Backoff, Error, ErrorCode, Result};
use futures::StreamExt;
use tokio::time::Instant;

use super::entry::{Changes, Kept, Kind, Replay};
use crate::jetstream::connection::{Connection, STUCK};

/// How long one try to write may take before the next.
const TRY: Duration = Duration::from_secs(2);
/// How long to wait before the next try.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(20), factor: 2.0, max: Duration::from_millis(500) };
/// How long a message may take to come when the journal is read.
const SILENCE: Duration = Duration::from_secs(5);
/// A picture is made when so many bytes have been appended since the last one, or as many as it has if that is more.
const PICTURE: usize = 1024 * 1024;
/// A part of a picture has about so many bytes.
const PART: usize = 256 * 1024;
/// Names a message: it is looked for when no answer has come.
const NAME: &str = "Crossdock-Pass";

/// The stream of all journals.
#[derive(Clone)]
pub(in crate::jetstream) struct Journals {
    connection: Connection,
    stream: stream::Stream,
}

impl Journals {
    /// Finds the stream, or makes it.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(in crate::jetstream) async fn open(connection: &Connection) -> Result<Self> {
        let prefix = connection.prefix();
        let config = stream::Config {
            name: format!("{prefix}-subscriptions"),
            description: Some("What is kept of the subscriptions of a Crossdock cluster".into()),
            subjects: vec![format!("{prefix}.s.*")],
            discard: stream::DiscardPolicy::New,
            storage: stream::StorageType::File,
            num_replicas: connection.replicas(),
            allow_direct: true,
            ..Default::default()
        };
        let stream = connection.stream(config).await?;
        Ok(Self { connection: connection.clone(), stream })
    }

    /// How many servers keep them, as it was found.
    pub(super) fn replicas(&self) -> usize {
        self.stream.cached_info().config.num_replicas
    }

    fn subject(&self, subscription: u32) -> String {
        format!("{}.s.{subscription}", self.connection.prefix())
    }

    /// Removes all that is kept of a subscription.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(in crate::jetstream) async fn remove(&self, subscription: u32) -> Result<()> {
        let purged = self.stream.purge().filter(self.subject(subscription)).await;
        purged.map(drop).map_err(|error| unavailable(&error))
    }

    /// Goes on reading a journal that another engine writes.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` when it is damaged. It must be read from its beginning then.
    pub(super) async fn follow(&self, subscription: u32, reading: &mut Reading) -> Result<()> {
        let subject = self.subject(subscription);
        let last = self.last(&subject).await?;
        if last < reading.last {
            // It was removed, or what was there was put back from a copy.
            *reading = Reading::default();
        }
        self.read_on(&mut reading.replay, &subject, reading.last, last).await?;
        reading.last = last;
        Ok(())
    }

    /// What is kept of a subscription, whoever writes its journal.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` when it is damaged.
    pub(super) async fn kept(&self, subscription: u32) -> Result<Kept> {
        let subject = self.subject(subscription);
        self.read(&subject, self.last(&subject).await?).await
    }

    async fn change_leader(&self) {
        self.connection.change_leader(&format!("{}-subscriptions", self.connection.prefix())).await;
    }

    /// The number of the last message of a journal; 0 when it has none.
    async fn last(&self, subject: &str) -> Result<u64> {
        let got = tokio::time::timeout(TRY, self.stream.get_last_raw_message_by_subject(subject)).await;
        match got {
            Ok(Ok(message)) => Ok(message.sequence),
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"no answer")),
        }
    }

    /// What the messages of a journal up to this one come to.
    async fn read(&self, subject: &str, last: u64) -> Result<Kept> {
        let mut replay = Replay::default();
        self.read_on(&mut replay, subject, 0, last).await?;
        Ok(replay.kept())
    }

    /// Takes in the messages of a journal behind one up to another one.
    async fn read_on(&self, replay: &mut Replay, subject: &str, after: u64, last: u64) -> Result<()> {
        if last <= after {
            return Ok(());
        }
        let config = pull::OrderedConfig {
            filter_subject: subject.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ..Default::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(|error| unavailable(&error))?;
        let mut messages = consumer.messages().await.map_err(|error| unavailable(&error))?;
        loop {
            let next = tokio::time::timeout(SILENCE, messages.next()).await;
            let message = next.ok().flatten().ok_or_else(|| unavailable(&"it does not come to its end"))?;
            let message = message.map_err(|error| unavailable(&error))?;
            let sequence = message.info().map_err(|error| unavailable(&error))?.stream_sequence;
            replay.read(&message.payload)?;
            if sequence >= last {
                return Ok(());
            }
        }
    }
}

/// A journal as far as it has been read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) replay: Replay,
    last: u64,
}

/// One subscription's journal, as its owner has it.
pub(super) struct Journal {
    journals: Journals,
    subject: String,
    /// The number of the last message.
    last: u64,
    /// Bytes appended since the last picture.
    appended: usize,
}

impl Journal {
    /// Takes over a journal: whoever had it before can write nothing more to it. Gives it with what is kept.
    ///
    /// # Errors
    /// `Unavailable`; `Internal` when it is damaged.
    pub(super) async fn open(
        journals: &Journals,
        subscription: u32,
        deadline: Instant,
    ) -> Result<(Self, Kept)> {
        let subject = journals.subject(subscription);
        loop {
            let last = journals.last(&subject).await?;
            let mut journal =
                Self { journals: journals.clone(), subject: subject.clone(), last, appended: PICTURE };
            match journal.append(&Changes::new(Kind::Claim), deadline).await {
                Ok(()) => return Ok((journal, journals.read(&subject, last).await?)),
                // Another one takes it over at this moment, or its owner still writes.
                Err(error) if error.code == ErrorCode::Conflict && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY.first).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A number that is larger than those of all owners before.
    pub(super) fn number(&self) -> u64 {
        self.last
    }

    /// Appends changes, once, as a whole. Sent again until they are known to be stored, or not to be.
    ///
    /// # Errors
    /// `Conflict` when another one has taken the journal over; `Unavailable` when nothing is known at the deadline: it
    /// must be opened anew then.
    pub(super) async fn append(&mut self, changes: &Changes, deadline: Instant) -> Result<()> {
        let limit = self.journals.connection.client.max_payload() / 2;
        for message in changes.messages(limit) {
            self.send(message, deadline).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: Bytes, deadline: Instant) -> Result<()> {
        let name = format!("{:032x}", rand::random::<u128>());
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", self.last.to_string());
        headers.insert(NAME, name.as_str());
        self.appended += message.len();
        let client = &self.journals.connection.client;
        let (mut failures, mut busy) = (0, None);
        loop {
            let request = Request::new().payload(message.clone()).headers(headers.clone()).timeout(Some(TRY));
            let sent = client.send_request(self.subject.clone(), request);
            let why = match tokio::time::timeout_at(deadline, sent).await {
                Ok(Ok(answer)) => match answered(&answer.payload) {
                    Answer::Stored(sequence) => {
                        self.last = sequence;
                        return Ok(());
                    }
                    // What was sent before may be what is in the way.
                    Answer::Moved if failures > 0 => match self.find(&name).await {
                        Ok(Some(sequence)) => {
                            self.last = sequence;
                            return Ok(());
                        }
                        Ok(None) => return Err(taken_over()),
                        Err(error) => error.to_string(),
                    },
                    Answer::Moved => return Err(taken_over()),
                    Answer::Refused(error) => return Err(error),
                    Answer::Later(why) => why,
                    Answer::Busy(why) => {
                        if busy.get_or_insert_with(Instant::now).elapsed() >= STUCK {
                            self.journals.change_leader().await;
                            busy = None;
                        }
                        why
                    }
                },
                Ok(Err(error)) if error.kind() == RequestErrorKind::MaxPayloadExceeded => {
                    return Err(Error::new(ErrorCode::TooLarge, error.to_string())
                        .hint("raise max_payload of nats-server"));
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer came in time".to_owned(),
            };
            failures += 1;
            let again = Instant::now() + RETRY.wait(failures, self.last);
            if again >= deadline {
                return Err(unavailable(&why));
            }
            tokio::time::sleep_until(again).await;
        }
    }

    /// Whether the last message is this one.
    async fn find(&self, name: &str) -> Result<Option<u64>> {
        let got = self.journals.stream.get_last_raw_message_by_subject(&self.subject);
        match tokio::time::timeout(TRY, got).await {
            Ok(Ok(last)) => {
                let is_it = last.headers.get(NAME).is_some_and(|found| found.as_str() == name);
                Ok(is_it.then_some(last.sequence))
            }
            Ok(Err(error)) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(unavailable(&"no answer")),
        }
    }

    /// Whether a picture is worth its cost now.
    pub(super) fn wants_picture(&self, kept: &Kept) -> bool {
        self.appended >= PICTURE.max(kept.bytes())
    }

    /// Appends a picture of everything, and removes what came before it.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub(super) async fn picture(&mut self, kept: &Kept, deadline: Instant) -> Result<()> {
        let before = self.last;
        let mut first = None;
        for part in kept.picture(PART) {
            self.append(&part, deadline).await?;
            first.get_or_insert(self.last);
        }
        self.appended = 0;
        let purge = self.journals.stream.purge().filter(self.subject.clone());
        let first = first.unwrap_or(before);
        if let Err(error) = tokio::time::timeout(TRY, purge.sequence(first).into_future())
            .await
            .map_err(|_| unavailable(&"no answer"))
            .and_then(|purged| purged.map_err(|error| unavailable(&error)))
        {
            // The next picture has it removed.
            tracing::debug!(subject = self.subject, %error, "what came before a picture is still there");
        }
        Ok(())
    }
}

enum Answer {
    Stored(u64),
    Moved,
    Refused(Error),
    /// Another message is on its way to this journal.
    Busy(String),
    Later(String),
}

fn answered(payload: &[u8]) -> Answer {
    match serde_json::from_slice::<Response<PublishAck>>(payload) {
        Ok(Response::Ok(ack)) => Answer::Stored(ack.sequence),
        Ok(Response::Err { error }) => match error.error_code() {
            Code::STREAM_WRONG_LAST_SEQUENCE => Answer::Moved,
            // One that was sent before is still under way.
            Code::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Answer::Busy(error.to_string()),
            // The leader has just changed.
            Code::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY => Answer::Later(error.to_string()),
            _ if error.code() >= 500 => Answer::Later(error.to_string()),
            _ => Answer::Refused(Error::internal(format!("NATS refused to store it: {error}"))),
        },
        Err(error) => Answer::Later(format!("that was no answer: {error}")),
    }
}

fn taken_over() -> Error {
    Error::new(ErrorCode::Conflict, "another server has taken the subscription over")
}

fn unavailable(why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::Unavailable, format!("what is kept of subscriptions in NATS cannot be used: {why}"))
        .hint("look at `nats stream report`, and at the logs of nats-server")
}

#[cfg(test)]
mod tests {
    use crossdock_tests::Nats;

    use super::*;
    use crate::delivery::Keep;
    use crate::jetstream::JetStreamOptions;

    fn change(key: &str, value: &[u8]) -> Changes {
        let mut changes = Changes::new(Kind::Changes);
        changes.put(key.as_bytes(), value);
        changes
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    async fn journals(nats: &Nats) -> Journals {
        let connection = Connection::open(JetStreamOptions::new(&nats.url()).unwrap()).await.unwrap();
        Journals::open(&connection).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_takes_it_over_reads_all_and_the_one_before_writes_nothing_more() {
        let nats = Nats::single().await;
        let journals = journals(&nats).await;
        let (mut first, kept) = Journal::open(&journals, 7, soon()).await.unwrap();
        assert_eq!(kept, Kept::default());
        // Larger than a message may be.
        let large = vec![1; 3 << 20];
        first.append(&change("a", b"1"), soon()).await.unwrap();
        first.append(&change("b", &large), soon()).await.unwrap();
        let (mut second, kept) = Journal::open(&journals, 7, soon()).await.unwrap();
        assert_eq!(
            (kept.get(b"a").unwrap().as_ref(), kept.get(b"b").unwrap().len()),
            (&b"1"[..], large.len())
        );
        assert!(second.number() > first.number());
        let refused = first.append(&change("a", b"2"), soon()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        second.append(&change("a", b"3"), soon()).await.unwrap();
        // Another subscription's has nothing to do with it.
        Journal::open(&journals, 8, soon())
            .await
            .unwrap()
            .0
            .append(&change("a", b"8"), soon())
            .await
            .unwrap();
        let (_, kept) = Journal::open(&journals, 7, soon()).await.unwrap();
        assert_eq!(kept.get(b"a").unwrap(), &b"3"[..]);
    }

    #[tokio::test]
    async fn a_picture_takes_the_place_of_what_came_before_it() {
        let nats = Nats::single().await;
        let journals = journals(&nats).await;
        let (mut journal, mut kept) = Journal::open(&journals, 7, soon()).await.unwrap();
        for number in 0..20 {
            let changes = change(&format!("key {}", number % 10), &vec![number; PART / 4]);
            journal.append(&changes, soon()).await.unwrap();
            kept.apply(changes.body()).unwrap();
        }
        assert!(journal.wants_picture(&kept));
        journal.picture(&kept, soon()).await.unwrap();
        assert!(!journal.wants_picture(&kept));
        let info = journals.stream.get_info().await.unwrap();
        assert_eq!(info.state.messages as usize, kept.picture(PART).len());
        journal.append(&change("later", b"1"), soon()).await.unwrap();
        let (_, again) = Journal::open(&journals, 7, soon()).await.unwrap();
        kept.apply(change("later", b"1").body()).unwrap();
        assert_eq!(again, kept);
        journals.remove(7).await.unwrap();
        assert_eq!(Journal::open(&journals, 7, soon()).await.unwrap().1, Kept::default());
    }

    #[tokio::test]
    async fn a_write_that_nats_was_away_for_is_done_once() {
        let mut nats = Nats::single().await;
        let journals = journals(&nats).await;
        let (mut journal, _) = Journal::open(&journals, 7, soon()).await.unwrap();
        nats.kill(0).await;
        let append = change("a", b"1");
        let (written, ()) = tokio::join!(journal.append(&append, soon()), nats.restart(0));
        written.unwrap();
        journal.append(&change("b", b"2"), soon()).await.unwrap();
        let (_, kept) = Journal::open(&journals, 7, soon()).await.unwrap();
        assert_eq!(kept.scan(b"").count(), 2);
        // A claim, two changes, and another claim.
        assert_eq!(journals.stream.get_info().await.unwrap().state.messages, 4);
    }
}
