//! What becomes of a group that NATS has not simply stored: it is sent again until it is known to be stored, or refused.

use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use crossdock_topics::{Backoff, Error, ErrorCode, Expected, Message, Record, Source};
use futures::StreamExt;
use tokio::time::Instant;

use super::definitions::no_topic;
use super::group::{Group, Known, Outgoing, Waiting, read_source};
use super::message::{decode, encode, escape};
use super::publisher::{CAREFUL, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, Publisher, UnderWay};
use super::sending::{Answer, Piece, is_known, send};
use super::streams::{From, unavailable};
use super::topic::Queued;

/// So many ids are looked for at once; NATS takes 50 batches of a stream at a time.
const LOOKED_UP_AT_ONCE: usize = 16;
/// How long to wait before sending again what NATS could not take.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(5), factor: 2.0, max: Duration::from_millis(500) };

/// What an earlier attempt has left open.
#[derive(Clone, Copy, Default)]
struct Attempts {
    count: u32,
    /// One of them may have been stored.
    may_be_stored: bool,
    /// Nobody has looked since.
    is_open: bool,
}

/// What has come of looking again.
enum Look {
    /// All of the group is answered.
    Done,
    /// This is to be sent again.
    Again(Group),
    /// It could not be looked.
    Failed(Group, Error),
}

impl Publisher {
    /// Brings a group to its end that was not simply stored. Nothing else is under way. Gives whether NATS has
    /// said to a copy sent here that it is stored.
    pub(super) async fn settle(&mut self, mut group: Group, mut answer: Answer, deadline: Instant) -> bool {
        let mut attempts = Attempts::default();
        let mut known = Known::new();
        loop {
            tracing::debug!(
                topic = %self.log.name,
                engine = self.state.engine,
                group = self.state.groups,
                attempts = attempts.count,
                last = self.state.own_last,
                ?answer,
                "a group was not simply stored"
            );
            if matches!(answer, Answer::Duplicate(_) | Answer::Duplicates)
                && std::mem::take(&mut attempts.is_open)
            {
                // What NATS knows by its id may be what was sent here before.
                answer = Answer::WrongLast("it may be stored already".into());
            }
            let wait = match answer {
                Answer::Stored(sequence) => {
                    self.stored(group, sequence);
                    return true;
                }
                Answer::Refused(_) if group.waiting().nth(1).is_some() => {
                    // Not for all of them.
                    for waiting in group.into_waiting() {
                        let group = self.group(vec![waiting], &known);
                        let UnderWay { group, mut sent, .. } = self.launch(group, None).await;
                        let answer = sent.answer().await;
                        Box::pin(self.settle(group, answer, deadline)).await;
                    }
                    return false;
                }
                Answer::Refused(error) => {
                    self.refuse_all(group, &error);
                    return false;
                }
                Answer::Duplicate(sequence) => {
                    let id = group.with_ids().into_iter().find(|(id, _)| !known.contains_key(id));
                    known.extend(id.map(|(id, _)| (id, sequence.saturating_sub(1))));
                    None
                }
                Answer::Duplicates => match self.which_are_known(&group, &mut known).await {
                    Ok(()) => None,
                    Err(error) => Some(error.message.into_owned()),
                },
                Answer::WrongLast(_) => match self.look_again(group).await {
                    Look::Done => return false,
                    Look::Again(same) => {
                        group = same;
                        None
                    }
                    Look::Failed(same, error) => {
                        group = same;
                        Some(error.message.into_owned())
                    }
                },
                Answer::Gone => match self.logs.streams.info(self.log.number).await {
                    Ok(None) => match self.gone().await {
                        Ok(error) => {
                            self.refuse_all(group, &error);
                            return false;
                        }
                        Err(error) => Some(error.message.into_owned()),
                    },
                    Ok(Some(_)) => Some("the topic's stream has no leader".to_owned()),
                    Err(error) => Some(error.message.into_owned()),
                },
                Answer::Busy(why) => Some(why),
                Answer::Unknown(why) => {
                    (attempts.may_be_stored, attempts.is_open) = (true, true);
                    Some(why)
                }
            };
            attempts.count += 1;
            if let Some(why) = wait {
                tracing::debug!(topic = %self.log.name, engine = self.state.engine, why, "it is sent again later");
                if Instant::now() >= deadline || self.log.is_deleted() {
                    self.give_up(group, &why, attempts.may_be_stored);
                    return false;
                }
                let pause = AGAIN.wait(attempts.count, u64::from(attempts.count));
                tokio::time::sleep(pause).await;
                let mut up = self.logs.streams.connection.up();
                let _ = tokio::time::timeout_at(deadline, up.wait_for(|up| up.is)).await;
            } else if attempts.count > 100 {
                self.give_up(group, "others publish to it all the time", attempts.may_be_stored);
                return false;
            }
            let waiting: Vec<Waiting> = group.into_waiting().collect();
            self.follow_definition();
            group = self.group(waiting, &known);
            if group.messages.is_empty() {
                // An attempt of which nothing was heard may have stored it.
                let own = self.naming.all_of(None);
                if let Ok(Some((offset, _))) = self.logs.streams.last_on(self.log.number, &own).await {
                    self.state.own_last = self.state.own_last.max(offset + 1);
                }
                let tail =
                    known.values().map(|offset| offset + 1).max().unwrap_or(0).max(self.log.known_tail());
                self.answer(group, |_| tail);
                return false;
            }
            let mut sent = self.launch(group, None).await;
            group = sent.group;
            answer = sent.sent.answer().await;
        }
    }

    /// Answers that it is not known what became of a group.
    pub(super) fn give_up(&mut self, group: Group, why: &str, may_be_stored: bool) {
        let error = if self.log.is_deleted() {
            // What was stored in the last moment is gone with all else.
            match self.log.is_replaced() {
                true => self.made_anew(),
                false => no_topic(&self.log.name),
            }
        } else {
            tracing::warn!(topic = %self.log.name, why, "messages cannot be stored");
            let what = if may_be_stored { "they may be stored or not" } else { "nothing of it was stored" };
            Error::new(
                ErrorCode::Unavailable,
                format!("messages for topic {} cannot be stored ({why}); {what}", self.log.name),
            )
            .hint("publish them again when NATS is there; with message ids they are stored once")
        };
        // What is still under way of it may only be stored in place of what follows it, or before that. It names this
        // run: a chain that comes must not take it for a message of its own.
        self.state.run.renew();
        self.state.sources.clear();
        self.state.source_last.clear();
        self.refuse_all(group, &error);
    }

    /// What to say to those who published to a topic that has no stream any more.
    async fn gone(&mut self) -> Result<Error, Error> {
        if self.log.is_deleted() && !self.log.is_replaced() {
            return Ok(no_topic(&self.log.name));
        }
        match self.logs.find_anew(&self.log).await {
            Ok(_) => Ok(self.made_anew()),
            Err(error) if error.code == ErrorCode::NotFound => Ok(error),
            Err(error) => Err(error),
        }
    }

    fn made_anew(&self) -> Error {
        Error::new(
            ErrorCode::Unavailable,
            format!("topic {} was made anew at this moment; nothing of it was stored there", self.log.name),
        )
        .hint("publish it again")
        .retry_after(AGAIN.first)
    }

    /// Finds out which messages of a group are stored already, and where.
    async fn which_are_known(&mut self, group: &Group, known: &mut Known) -> Result<(), Error> {
        let naming = self.naming.clone();
        let connection = self.logs.streams.connection.clone();
        let mut unsure: Vec<(String, Record)> = group.with_ids();
        unsure.retain(|(id, _)| !known.contains_key(id));
        let first = self.state.groups + 1;
        self.state.groups += unsure.len() as u64;
        let mut asked =
            futures::stream::iter((first..).zip(unsure))
                .map(|(n, (id, record))| {
                    let (connection, base) = (&connection, &naming.base);
                    let batch = format!("{}-{n}", naming.engine);
                    async move {
                        is_known(connection, base, &batch, &escape(&id)).await.map(|is| (is, id, record))
                    }
                })
                .buffered(LOOKED_UP_AT_ONCE);
        let mut stored = Vec::new();
        while let Some(asked) = asked.next().await {
            match asked {
                Ok((is_known, id, record)) => stored.extend(is_known.then_some((id, record))),
                Err(Answer::Busy(why) | Answer::Unknown(why)) => return Err(unavailable(&why)),
                Err(Answer::Refused(error)) => return Err(error),
                Err(_) => return Err(unavailable("an id cannot be looked for")),
            }
        }
        drop(asked);
        if stored.is_empty() {
            // Another server was storing it in this moment.
            return Err(unavailable("an id is being stored by somebody else"));
        }
        // Sent again, NATS says where it lies.
        for (id, record) in stored {
            let (mut headers, payload) = encode(&record);
            headers.insert(NATS_MESSAGE_ID, escape(&id));
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, self.state.own_last.to_string());
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, naming.all_of(None));
            let subject = naming.subject(&naming.begin(None), &record);
            let message = vec![Outgoing { subject, headers, payload }];
            let mut sent = send(&connection, Piece::Chain, message).await;
            match sent.answer().await {
                Answer::Duplicate(sequence) if sequence > 0 => {
                    known.insert(id, sequence - 1);
                }
                // It was forgotten in this moment, and is stored now.
                Answer::Stored(sequence) => {
                    self.state.own_last = sequence;
                    known.insert(id, sequence.saturating_sub(1));
                }
                answer => {
                    // It may still come to lie there.
                    self.state.run.renew();
                    return Err(unavailable(&format!("an id cannot be looked for ({answer:?})")));
                }
            }
        }
        Ok(())
    }

    /// Finds out why the stream was not as a group expected it.
    async fn look_again(&mut self, group: Group) -> Look {
        self.state.careful = CAREFUL;
        self.state.run.broken();
        // Its leader may be asked for long in vain where a server can tell that it is stored.
        if let Ok(Some(last)) = self.last_of_group(&group, 0).await
            && let Some(first) = group.first_by_own(last)
        {
            self.answer(group, |_| first);
            return Look::Done;
        }
        let naming = self.naming.clone();
        let own = match self.logs.streams.last_on(self.log.number, &naming.all_of(None)).await {
            Ok(found) => found.map_or(0, |(offset, _)| offset + 1),
            Err(error) => return Look::Failed(group, error),
        };
        if own > self.state.own_last {
            let last = match self.last_of_group(&group, own - 1).await {
                Ok(last) => last,
                Err(error) => return Look::Failed(group, error),
            };
            if let Some(first) = last.and_then(|last| group.first_by_own(last)) {
                self.answer(group, |_| first);
                return Look::Done;
            }
        }
        self.state.own_last = own;
        let waiting: Vec<Waiting> = group.into_waiting().collect();
        for source in waiting.iter().filter_map(|waiting| waiting.source) {
            if let Err(error) = self.recall(&source).await {
                return Look::Failed(self.group(waiting, &Known::new()), error);
            }
        }
        let mut waiting = self.admit(waiting.into_iter().map(Queued::Batch).collect()).await;
        let Some(expected) = waiting.first().and_then(|first| first.expected.clone()) else {
            return if waiting.is_empty() {
                Look::Done
            } else {
                Look::Again(self.group(waiting, &Known::new()))
            };
        };
        match self.unexpected(&expected).await {
            Ok(None) => Look::Again(self.group(waiting, &Known::new())),
            Ok(Some(error)) => {
                waiting.drain(..).for_each(|waiting| self.refuse(waiting, error.clone()));
                Look::Done
            }
            Err(error) => Look::Failed(self.group(waiting, &Known::new()), error),
        }
    }

    /// Where the last message of a group lies that this engine publishes by itself, if what it has stored since it was last
    /// told of it begins with the group's; the newest of it lies at `newest` or behind that.
    async fn last_of_group(&mut self, group: &Group, newest: u64) -> Result<Option<u64>, Error> {
        let (count, subjects) = (group.own(), self.naming.all_of(None));
        if count == 0 {
            return Ok(None);
        }
        let (from, most) = (From::On(&subjects, self.state.own_last), usize::MAX >> 1);
        let found = self.logs.streams.read(self.log.number, from, count, most).await?;
        let last = found.last().map(|kept| kept.offset);
        // A server may be asked that has not come as far as the leader.
        if found.len() < count && last.is_none_or(|last| last < newest) {
            return Err(unavailable("what was stored last cannot be read yet"));
        }
        let found: Vec<Message> =
            found.into_iter().map(|kept| decode(Some(&kept.headers), kept.payload)).collect();
        Ok(last.filter(|_| group.is_own(&found)))
    }

    /// What is there that was not expected, if it is so.
    async fn unexpected(&mut self, expected: &Expected) -> Result<Option<Error>, Error> {
        let (what, found, wanted) = match expected {
            Expected::Last(wanted) => {
                let info = self.logs.streams.info(self.log.number).await?;
                let tail = info.map_or(0, |info| info.state.tail());
                (format!("the newest message of topic {}", self.log.name), tail.checked_sub(1), *wanted)
            }
            Expected::LastOfKey(key, wanted) => {
                let subjects = self.naming.all_with(key);
                let found = self.logs.streams.last_on(self.log.number, &subjects).await?;
                let old = self.state.old_keys.find(&self.logs, &self.log, key).await?;
                let what = format!("the newest message of key {key} in topic {}", self.log.name);
                (what, found.map(|(offset, _)| offset).or(old), *wanted)
            }
        };
        if found == wanted {
            return Ok(None);
        }
        let there =
            |offset: Option<u64>| offset.map_or_else(|| "none".to_owned(), |o| format!("at offset {o}"));
        Ok(Some(
            Error::new(
                ErrorCode::Conflict,
                format!("{what} is {}, and should be {}", there(found), there(wanted)),
            )
            .hint("read what is there, and decide again; nothing was stored"),
        ))
    }

    /// Reads back from the log what a source has stored.
    pub(super) async fn recall(&mut self, source: &Source) -> Result<(), Error> {
        let naming = self.naming.clone();
        let subjects = naming.all_of(Some(source));
        let (number, publisher) = (self.log.number, source.publisher);
        let Some((last, headers)) = self.logs.streams.last_on(number, &subjects).await? else {
            // Purged, or there never was one.
            self.state.source_last.insert(publisher, 0);
            return Ok(());
        };
        if self.state.source_last.get(&publisher) == Some(&(last + 1)) {
            return Ok(());
        }
        let mut batches = Vec::new();
        if let Some((_, mut from, _)) = read_source(&headers, publisher, last, self.log.durability()) {
            while from <= last {
                let found = self.logs.streams.read(number, From::On(&subjects, from), 1000, 8 << 20).await?;
                // A server may be asked that has not come as far as the leader.
                let end = found.last().map(|kept| kept.offset);
                let end = end.ok_or_else(|| unavailable("what was stored last cannot be read yet"))?;
                for kept in &found {
                    let read = read_source(&kept.headers, publisher, kept.offset, self.log.durability());
                    batches.extend(read.map(|(source, _, receipts)| (source, receipts)));
                }
                from = end + 1;
            }
        }
        self.state.sources.recall(publisher, &batches, self.logs.now());
        self.state.source_last.insert(publisher, last + 1);
        Ok(())
    }
}
