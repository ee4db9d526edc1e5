//! The task of a subscription that is owned: what waits is done, the journal gets one message for all of it, and when
//! that is stored everybody is answered.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{
    Error, ErrorCode, Order, Result, Revision, Settled, Settlement, StartAt, Subscription, TopicName,
};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::entry::Changes;
use super::journal::Journal;
use super::owned::{BEGUN, GENERATION, Owned, PAUSED, changes};
use crate::delivery::{Engine, Keep, Operation, Sieve, keys};
use crate::group::Event;

/// How often it looks at leases when nobody comes.
const TICK: Duration = Duration::from_millis(250);
/// At most so many commands are done in one pass.
const AT_ONCE: usize = 1024;
/// How long the journal may take before the subscription is let go of: another server may have better luck.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is asked of the task.
pub(super) enum Command {
    /// Outcomes are taken in; with `whole` all of them, or none.
    Settle { settlement: Settlement, whole: bool, answer: oneshot::Sender<Result<Settled>> },
    /// An operator wants something.
    Operate { operation: Operation, answer: oneshot::Sender<Result<usize>> },
    /// Its definition is another one.
    Define {
        definition: Box<Subscription>,
        sieve: Option<Arc<Sieve>>,
        revision: Revision,
        answer: oneshot::Sender<Result<()>>,
    },
    /// Nothing but what has changed is to be stored.
    Rest { answer: oneshot::Sender<Result<()>> },
    /// A topic ends before what was known of it: nothing from `to` on has been seen.
    Shortened { log: u32, to: u64, answer: oneshot::Sender<Result<()>> },
    /// Topics were made, or have gone.
    Topics { answer: oneshot::Sender<Result<()>> },
    /// It is another engine's when `give` has succeeded. What consumers hold goes with it.
    HandOver { to: String, give: BoxFuture<'static, Result<()>>, answer: oneshot::Sender<Result<()>> },
}

/// What is told when the pass is stored.
enum Answer {
    Settled(oneshot::Sender<Result<Settled>>, Result<Settled>),
    Count(oneshot::Sender<Result<usize>>, Result<usize>),
    Done(oneshot::Sender<Result<()>>, Result<()>),
}

impl Answer {
    fn tell(self, failure: Option<&Error>) {
        // Whoever has gone needs no answer.
        match self {
            Self::Settled(to, result) => drop(to.send(failure.map_or(result, |error| Err(error.clone())))),
            Self::Count(to, result) => drop(to.send(failure.map_or(result, |error| Err(error.clone())))),
            Self::Done(to, result) => drop(to.send(failure.map_or(result, |error| Err(error.clone())))),
        }
    }
}

/// How it is handed over when a pass is stored, and who waits for that.
type Handing = (String, BoxFuture<'static, Result<()>>, oneshot::Sender<Result<()>>);

/// The task's own.
pub(super) struct Pass {
    owned: Arc<Owned>,
    journal: Journal,
}

impl Pass {
    pub(super) fn new(owned: Arc<Owned>, journal: Journal) -> Self {
        Self { owned, journal }
    }

    /// Gives it its topics.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let mut changes = changes();
        let is_new = self.owned.kept.read().get(BEGUN).is_none();
        let (definition, _) = self.owned.state.definition();
        let start = if is_new { definition.start } else { StartAt::Start };
        self.owned.attach(start, &mut changes).await?;
        if is_new {
            changes.put(BEGUN, b"");
        } else {
            self.owned.forget_gone(&mut changes).await;
        }
        self.write(changes).await
    }

    /// Works until the subscription is let go of, lost or deleted.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (mut waiting, mut answers) = (Vec::new(), Vec::new());
        let owned = self.owned.clone();
        let failure = loop {
            tokio::select! {
                count = commands.recv_many(&mut waiting, AT_ONCE) => if count == 0 { break owned.why_over() },
                () = owned.dirty.notified() => {}
                () = tokio::time::sleep(TICK) => {}
                () = owned.over.cancelled() => break owned.why_over(),
            }
            let (mut changes, mut handing) = (changes(), None);
            for command in waiting.drain(..) {
                answers.extend(self.carry_out(command, &mut changes, &mut handing).await);
            }
            owned.state.tick(owned.now());
            if let Some((to, ..)) = &handing
                && let Err(error) = owned.let_go_of_held(to, &mut changes)
            {
                break error;
            }
            if let Err(error) = self.write(changes).await {
                break error;
            }
            answers.drain(..).for_each(|answer: Answer| answer.tell(None));
            if let Some((_, give, answer)) = handing {
                // If it is still this engine's after all, it is taken over anew.
                let _ = answer.send(give.await);
                break owned.why_over();
            }
            if let Err(error) = self.draw().await {
                break error;
            }
        };
        let failure = match failure.code {
            // What it comes to is the same: it is to be asked again, wherever it is then.
            ErrorCode::Conflict => owned.why_over(),
            _ => failure,
        };
        tracing::debug!(subscription = %owned.state.name, why = %failure, "no longer owned here");
        owned.end();
        answers.drain(..).for_each(|answer| answer.tell(Some(&failure)));
        commands.close();
        while let Some(command) = commands.recv().await {
            waiting.push(command);
        }
        // Nothing of these has been begun.
        waiting.into_iter().for_each(|command| refuse(command, &owned.why_over()));
        owned.detach();
    }

    /// Stores what has changed, and lets what waited for that go on.
    async fn write(&mut self, mut changes: Changes) -> Result<()> {
        let owned = &self.owned;
        let mut awaited = Vec::new();
        owned.state.persist(&mut changes, |one| awaited.push(one))?;
        if !changes.is_empty() {
            let deadline = Instant::now() + PATIENCE;
            self.journal.append(&changes, deadline).await?;
            owned.kept.write().apply(changes.body())?;
        }
        for one in &awaited {
            owned.state.synced(one, owned.now());
        }
        Ok(())
    }

    /// Has a picture take the place of the journal, when that is worth it.
    async fn draw(&mut self) -> Result<()> {
        let owned = &self.owned;
        let picture = {
            let kept = owned.kept.read();
            self.journal.wants_picture(&kept).then(|| kept.clone())
        };
        if let Some(kept) = picture {
            self.journal.picture(&kept, Instant::now() + PATIENCE).await?;
        }
        Ok(())
    }

    /// Does what is asked; gives what is to be told when that is stored.
    async fn carry_out(
        &self,
        command: Command,
        changes: &mut Changes,
        handing: &mut Option<Handing>,
    ) -> Option<Answer> {
        let owned = &self.owned;
        Some(match command {
            Command::Settle { settlement, whole, answer } => {
                // It may have waited here for long.
                let settled = owned
                    .check_held()
                    .and_then(|()| owned.check_read(settlement.outcomes.iter().map(|(id, _)| *id)))
                    .and_then(|()| owned.state.settle(&settlement, whole, owned.now()).ok_or_else(stale));
                Answer::Settled(answer, settled)
            }
            Command::Operate { operation, answer } => {
                Answer::Count(answer, self.operate(operation, changes).await)
            }
            Command::Define { definition, sieve, revision, answer } => {
                Answer::Done(answer, self.define(*definition, sieve, revision, changes).await)
            }
            Command::Rest { answer } => Answer::Done(answer, Ok(())),
            Command::Shortened { log, to, answer } => {
                // What comes out of messages there is not what came out of those that had their offsets before.
                changes.put(GENERATION, &(owned.generation() + 1).to_be_bytes());
                owned.state.shortened(log, to, owned.now());
                Answer::Done(answer, Ok(()))
            }
            Command::Topics { answer } => Answer::Done(answer, owned.attach(owned.start(), changes).await),
            Command::HandOver { to, give, answer } => {
                *handing = Some((to, give, answer));
                return None;
            }
        })
    }

    async fn define(
        &self,
        definition: Subscription,
        sieve: Option<Arc<Sieve>>,
        revision: Revision,
        changes: &mut Changes,
    ) -> Result<()> {
        let (owned, start) = (&self.owned, definition.start);
        let (before, known) = owned.state.definition();
        if known < revision {
            let facts = match (before.order, definition.order) {
                (Order::None, Order::Key) => owned.open_facts(&definition).await?,
                _ => Default::default(),
            };
            owned.state.redefine(definition, sieve, revision, &facts, owned.now());
        }
        owned.attach(start, changes).await
    }

    async fn operate(&self, operation: Operation, changes: &mut Changes) -> Result<usize> {
        let (owned, state, now) = (&self.owned, &self.owned.state, self.owned.now());
        let mut begin_anew = || changes.put(GENERATION, &(owned.generation() + 1).to_be_bytes());
        match operation {
            Operation::Pause(paused) => {
                match paused {
                    true => changes.put(PAUSED, b""),
                    false => changes.delete(PAUSED),
                }
                Ok(usize::from(state.set_paused(paused)))
            }
            Operation::Seek { topic, to } => {
                begin_anew();
                let places = self.places(topic, to).await?;
                state.seek(&places, now);
                Ok(places.len())
            }
            Operation::ReleaseKeys { parked, give_up } => {
                begin_anew();
                Ok(state.release_keys(&parked, give_up, now))
            }
            Operation::Redrive(letters) => {
                begin_anew();
                let events = letters
                    .iter()
                    .map(|(log, offset, due)| (*log, Event::Redrive { offset: *offset, due: *due }));
                Ok(state.revive(events, now))
            }
            Operation::Discard(letters) => {
                let events = letters.iter().map(|(log, offset)| (*log, Event::Discard(*offset)));
                Ok(state.revive(events, now))
            }
            Operation::Mend { log, offset, record } => {
                let is_mended = state.mend(log, offset);
                if is_mended {
                    changes.put(&keys::message(state.id, log, keys::MENDED, offset), &record);
                }
                Ok(usize::from(is_mended))
            }
        }
    }

    async fn places(&self, topic: Option<TopicName>, to: StartAt) -> Result<Vec<(u32, u64)>> {
        let feeds = self.owned.state.feeds(topic.as_ref());
        if let Some(topic) = topic.filter(|_| feeds.is_empty()) {
            let message = format!("subscription {} does not read topic {topic}", self.owned.state.name);
            return Err(Error::new(ErrorCode::NotFound, message)
                .hint("name one of its topics, or none to move it in all of them"));
        }
        let mut places = Vec::with_capacity(feeds.len());
        for feed in feeds {
            let log = self.owned.reads.lock().get(&feed.id).map(|read| read.log.clone());
            let Some(log) = log else { continue };
            places.push((feed.id, self.owned.common.topics.place(&log, to).await?));
        }
        Ok(places)
    }
}

fn refuse(command: Command, failure: &Error) {
    let failed = || failure.clone();
    match command {
        Command::Settle { answer, .. } => drop(answer.send(Err(failed()))),
        Command::Operate { answer, .. } => drop(answer.send(Err(failed()))),
        Command::Define { answer, .. }
        | Command::Rest { answer }
        | Command::Shortened { answer, .. }
        | Command::Topics { answer }
        | Command::HandOver { answer, .. } => {
            drop(answer.send(Err(failed())));
        }
    }
}

/// One of the deliveries of a settlement with outputs is stale.
pub(super) fn stale() -> Error {
    Error::new(
        ErrorCode::Conflict,
        "nothing was settled or published: a delivery is stale (its lease ran out, or it was settled before)",
    )
    .hint("the message is delivered again; allow longer leases, or extend them")
}
