//! Asking a subscription's program about the messages that come next.
//!
//! A take finds that nothing is known of what comes next and says so; whoever fetches has it judged, outside of every
//! lock; the verdicts are put in, and the next take goes by them. One batch of a topic is judged at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Error, Record};
use tokio::sync::oneshot;

use super::feed::Feed;
use super::reader::Peeked;
use super::sieve::{self, Sieve};
use super::subscription::SubscriptionState;

/// At most so many messages are judged in one go.
const BATCH: usize = 1024;
/// A fetch waits so long for verdicts, even one that does not wait for messages; then it waits for them like for
/// messages.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of the messages that come next.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// Whether each passes, in order.
    known: VecDeque<(u64, bool)>,
    /// Whether some are being judged.
    is_judging: bool,
}

/// Messages that are to be judged.
pub(crate) struct Unjudged {
    pub(crate) log: Arc<Feed>,
    pub(crate) sieve: Arc<Sieve>,
    pub(crate) records: Vec<(u64, Record)>,
    /// [`Reader::life`](super::reader::Reader::life) when they were read.
    pub(crate) life: u64,
}

impl Verdicts {
    /// Marks what was read by what is known, and cuts it off where nothing is known; gives the messages to be judged
    /// when that is so from the first one on.
    pub(crate) fn apply(&mut self, peeked: &mut Peeked) -> Vec<(u64, Record)> {
        let Some(first) = peeked.fresh.first().map(|message| message.offset) else { return Vec::new() };
        while self.known.front().is_some_and(|(offset, _)| *offset < first) {
            self.known.pop_front();
        }
        let mut known = self.known.iter().peekable();
        let mut judged = 0;
        for message in &mut peeked.fresh {
            if !message.skip {
                while known.next_if(|(offset, _)| *offset < message.offset).is_some() {}
                match known.next_if(|(offset, _)| *offset == message.offset) {
                    Some((_, passes)) => message.skip = !passes,
                    None => break,
                }
            }
            judged += 1;
        }
        let mut unjudged = Vec::new();
        if judged == 0 {
            let open = peeked.fresh.iter().filter(|message| !message.skip).map(|message| message.offset);
            let mut records = peeked.records.iter().peekable();
            for offset in open.take(BATCH) {
                while records.next_if(|(at, ..)| *at < offset).is_some() {}
                unjudged.extend(
                    records.next_if(|(at, ..)| *at == offset).map(|(_, _, record)| (offset, record.clone())),
                );
            }
        }
        peeked.truncate(judged);
        unjudged
    }

    /// So many messages are worth reading: a batch to be judged, or some of those that have been.
    pub(crate) fn worth_reading(&self) -> usize {
        if self.known.is_empty() { BATCH } else { BATCH / 16 }
    }

    pub(crate) fn is_judging(&self) -> bool {
        self.is_judging
    }

    /// Gives whether nobody else judges, from now on whoever asked does.
    pub(crate) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.is_judging, true)
    }
}

impl SubscriptionState {
    /// Puts in verdicts, unless the program is another one by now, or something else lies there.
    fn judged(&self, log: u32, life: u64, sieve: &Arc<Sieve>, verdicts: Vec<(u64, bool)>) {
        let mut inner = self.inner.lock();
        if !inner.sieve.as_ref().is_some_and(|current| Arc::ptr_eq(current, sieve)) {
            return;
        }
        let Some(member) = inner.members.get_mut(log).filter(|member| member.reader.life() == life) else {
            return;
        };
        let known = &mut member.reader.verdicts;
        known.is_judging = false;
        let follows = |last: &(u64, bool)| verdicts.first().is_some_and(|first| last.0 < first.0);
        if !known.known.back().is_some_and(follows) {
            known.known.clear();
        }
        known.known.extend(verdicts);
        self.listing.list_first(&member.listed);
        drop(inner);
        self.wake();
    }
}

/// Whoever judges, and what has come of it. Dropping it puts the verdicts in, and lets others judge.
struct Judging {
    state: Arc<SubscriptionState>,
    log: u32,
    life: u64,
    sieve: Arc<Sieve>,
    verdicts: Vec<(u64, bool)>,
}

impl Drop for Judging {
    fn drop(&mut self) {
        self.state.judged(self.log, self.life, &self.sieve, std::mem::take(&mut self.verdicts));
    }
}

/// Has messages judged; the future says when it is done. A program goes on by itself until its fuel is used up, and
/// whoever waits for messages is woken then.
pub(crate) fn judge(
    state: &Arc<SubscriptionState>,
    unjudged: Unjudged,
) -> Result<oneshot::Receiver<()>, Error> {
    let Unjudged { log, sieve, records, life } = unjudged;
    let mut judging = Judging { state: state.clone(), log: log.id, life, sieve, verdicts: Vec::new() };
    let (done, is_done) = oneshot::channel::<()>();
    sieve::spawn(move || {
        judging.verdicts = judging.sieve.judge(&records);
        drop(judging);
        drop(done);
    })?;
    Ok(is_done)
}
