//! Moving house: everything that one broker keeps is copied to another place, behind whatever engine, with nothing
//! changed that anybody could refer to: offsets, times, ids, what subscriptions have settled and what they have set aside.
//!
//! No server may work at either place meanwhile. First all of the source is read through: what it comes to
//! ([`summary`]), and whether the target can take it. Then it is copied, each topic on from where the target's ends, so
//! that a copy which was interrupted goes on. At last the target is read through, and held against the source.

mod check;
pub(crate) mod house;
mod summary;

use std::collections::HashMap;
use std::path::PathBuf;

use crossdock_topics::{Error, ErrorCode, Result, Timestamp};
use serde::Serialize;

use crate::JetStreamOptions;
use crate::delivery::keys;
use crate::{embedded, jetstream};
use house::{Held, House, Inventory, Mark, Standing, State};
use summary::{Summary, of_standing, of_store, of_texts, summarize};

/// At most so many reasons are listed for one kind of thing.
const LISTED: usize = 20;

/// A place where a broker keeps what it keeps.
#[derive(Clone, Debug)]
pub enum Place {
    /// The folder of an embedded broker.
    Folder(PathBuf),
    /// A NATS cluster.
    Nats(Box<JetStreamOptions>),
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Something worth knowing.
    Note(&'a str),
    /// So many messages of the source have been looked at, of about so many.
    Looked(u64, u64),
    /// So many have been copied, of so many.
    Copied(u64, u64),
    /// So many have been held against the source, of so many.
    Checked(u64, u64),
}

/// What was moved, and found to be the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where it came from, without a login.
    pub from: String,
    /// Where it is now.
    pub to: String,
    /// How many topics there are.
    pub topics: u64,
    /// How many messages they hold.
    pub messages: u64,
    /// How many bytes those have, as packed.
    pub bytes: u64,
    /// How many of the messages had been copied by an earlier run.
    pub messages_before: u64,
    /// How many subscriptions there are.
    pub subscriptions: u64,
    /// How many messages they have set aside: for a retry, for later, or behind a key that is parked.
    pub set_aside: u64,
    /// How many dead letters they have.
    pub dead_letters: u64,
    /// How many keys of the store there are: configuration, users, services and their code.
    pub keys: u64,
    /// What was compared, and found to be the same.
    pub compared: Vec<String>,
}

/// Who is told how far it is.
pub type Tell<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// Copies all of `from` to `to`, and checks it. Started again after whatever ended it, it goes on.
///
/// # Errors
/// `NotFound` when nothing is there; `Conflict` when a server works at one of them, or the target has something else;
/// `InvalidArgument` naming all that the target cannot take, before anything is copied; `Internal` when what has
/// arrived is not what was sent; `Unavailable`.
pub async fn migrate(from: &Place, to: &Place, tell: Tell<'_>) -> Result<Report> {
    let source = open(from, Side::Source, 0, tell).await?;
    let moved = with_source(&*source, to, tell).await;
    source.close().await;
    moved.map(|report| Report { from: from.shown(), to: to.shown(), ..report })
}

async fn with_source(source: &dyn House, to: &Place, tell: Tell<'_>) -> Result<Report> {
    let inventory = source.inventory().await?;
    let mut target = open(to, Side::Target, inventory.numbers.revision, tell).await?;
    let moved = Move { source, inventory, tell }.run(&mut *target).await;
    target.close().await;
    moved
}

/// Which of the two a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

impl Place {
    /// It as people write it, without a login.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Folder(path) => format!("rocksdb:{}", path.display()),
            Self::Nats(options) => options.shown(),
        }
    }
}

async fn open(place: &Place, side: Side, revision: u64, tell: Tell<'_>) -> Result<Box<dyn House>> {
    Ok(match place {
        Place::Folder(path) => Box::new(embedded::house::open(path.clone(), side).await?),
        Place::Nats(options) => {
            let options = options.as_ref().clone();
            Box::new(Box::pin(jetstream::house::open(options, side, revision, tell)).await?)
        }
    })
}

struct Move<'a> {
    source: &'a dyn House,
    inventory: Inventory,
    tell: Tell<'a>,
}

/// What is known of a topic before it is copied.
struct Seen {
    summary: Summary,
    /// The time of the newest message that the target has already.
    floor: Timestamp,
    /// How many messages it has already.
    before: u64,
}

impl Move<'_> {
    async fn run(&mut self, target: &mut dyn House) -> Result<Report> {
        let begun = match target.state().await? {
            State::Empty => None,
            State::Begun(mark) => Some(mark),
            State::Taken(what) => {
                return Err(Error::new(ErrorCode::Conflict, format!("something is at the target already: {what}"))
                    .hint(
                        "name a place where nothing is, such as another folder, or another account of NATS; if an earlier \
                         `crossdock migrate` has come to its end there, all is there: start the servers",
                    ));
            }
        };
        let standings = self.standings().await?;
        let seen = self.look(target, begun.is_some()).await?;
        let mark = self.mark(&seen, &standings)?;
        if begun.is_some_and(|begun| begun.digest != mark.digest) {
            return Err(Error::new(
                ErrorCode::Conflict,
                "the source is not what it was when this move began: a server has worked there since",
            )
            .hint("remove what has been copied (the folder, or the streams of its prefix in NATS), and begin anew"));
        }
        target.begin(&mark, &self.inventory).await?;
        let before = seen.values().map(|seen| seen.before).sum();
        self.copy(target, &seen).await?;
        for entry in &self.inventory.entries {
            target.put_entry(entry).await?;
        }
        for (known, standing) in self.inventory.subscriptions.iter().zip(&standings) {
            target.put_standing(known, standing).await?;
        }
        target.settle().await?;
        let compared = self.check(target, &seen, &standings).await?;
        target.finish(&self.inventory).await?;
        let count = |kind| standings.iter().map(|standing| standing.count(kind)).sum();
        Ok(Report {
            topics: self.inventory.topics.len() as u64,
            messages: seen.values().map(|seen| seen.summary.messages).sum(),
            bytes: seen.values().map(|seen| seen.summary.bytes).sum(),
            messages_before: before,
            subscriptions: standings.len() as u64,
            set_aside: count(keys::WAITING),
            dead_letters: count(keys::DEAD),
            keys: self.inventory.entries.len() as u64,
            compared,
            ..Report::default()
        })
    }

    async fn standings(&self) -> Result<Vec<Standing>> {
        let mut standings = Vec::with_capacity(self.inventory.subscriptions.len());
        for known in &self.inventory.subscriptions {
            standings.push(self.source.standing(known).await?);
        }
        Ok(standings)
    }

    /// Reads through the source, and says all that is in the way at once.
    async fn look(&mut self, target: &dyn House, resumed: bool) -> Result<HashMap<u32, Seen>> {
        let (mut problems, mut seen) = (Vec::new(), HashMap::new());
        let about = self.inventory.topics.iter().map(|held| held.tail - held.head).sum();
        let mut looked = 0;
        for held in &self.inventory.topics {
            if let Some(remark) = target.remark(&held.topic) {
                (self.tell)(Progress::Note(&remark));
            }
            problems.extend(target.refuses_topic(&held.topic));
            let end = if resumed { target.end(held).await? } else { held.head };
            let (mut refused, mut floor, mut before) = (Refused::default(), Timestamp(0), 0);
            let summary = summarize(self.source, held, held.head, |item| {
                if let Some(why) = target.refuses_message(item) {
                    refused.add(item.stored.offset, why);
                }
                if item.stored.offset < end {
                    (floor, before) = (item.stored.time, before + 1);
                }
                looked += 1;
                if looked % 1000 == 0 {
                    (self.tell)(Progress::Looked(looked, about));
                }
                Ok(())
            })
            .await?;
            problems.extend(refused.said(held));
            seen.insert(held.number, Seen { summary, floor, before });
        }
        (self.tell)(Progress::Looked(looked, looked));
        if problems.is_empty() {
            return Ok(seen);
        }
        let left = problems.len().saturating_sub(LISTED);
        problems.truncate(LISTED);
        if left > 0 {
            problems.push(format!("and {left} more"));
        }
        Err(Error::invalid(format!("the target cannot take all of it:\n  {}", problems.join("\n  ")))
            .hint("nothing was copied; change what is named, and begin again"))
    }

    fn mark(&self, seen: &HashMap<u32, Seen>, standings: &[Standing]) -> Result<Mark> {
        let mut texts = vec![of_store(&self.inventory)?];
        for held in &self.inventory.topics {
            texts.push(format!("{} {}", held.number, held.tail));
            // What may be dropped unread goes by itself.
            if !held.topic.retention.drop_unread {
                texts.extend(seen.get(&held.number).map(|seen| seen.summary.digest.clone()));
            }
        }
        let standings = self.inventory.subscriptions.iter().zip(standings);
        texts.extend(standings.map(|(known, standing)| of_standing(known, standing)));
        let digest = of_texts(texts.iter().map(String::as_str));
        Ok(Mark { from: self.inventory.place.clone(), digest })
    }

    async fn copy(&mut self, target: &mut dyn House, seen: &HashMap<u32, Seen>) -> Result<()> {
        let total = seen.values().map(|seen| seen.summary.messages).sum();
        let mut done = seen.values().map(|seen| seen.before).sum();
        (self.tell)(Progress::Copied(done, total));
        for held in &self.inventory.topics {
            let mut floor = seen.get(&held.number).map_or(Timestamp(0), |seen| seen.floor);
            let mut at = target.end(held).await?;
            loop {
                let mut items = self.source.messages(held, at.max(held.head)).await?;
                let Some(last) = items.last() else { break };
                at = last.stored.offset + 1;
                for item in &mut items {
                    floor = floor.max(item.stored.time);
                    item.stored.time = floor;
                }
                done += items.len() as u64;
                target.append(held, items, at).await?;
                (self.tell)(Progress::Copied(done, total));
            }
            if at < held.tail {
                target.append(held, Vec::new(), held.tail).await?;
            }
        }
        target.settle().await
    }
}

/// The messages of a topic that the target cannot take.
#[derive(Default)]
struct Refused {
    first: Option<(u64, String)>,
    count: u64,
}

impl Refused {
    fn add(&mut self, offset: u64, why: String) {
        self.count += 1;
        self.first.get_or_insert((offset, why));
    }

    fn said(self, held: &Held) -> Option<String> {
        let (offset, why) = self.first?;
        let others = match self.count - 1 {
            0 => String::new(),
            others => format!(" (and {others} others of this topic)"),
        };
        Some(format!("the message at offset {offset} of topic {}{others}: {why}", held.topic.name))
    }
}
