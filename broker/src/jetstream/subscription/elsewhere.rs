//! What subscriptions need that other engines own, or nobody: retention must know, and finds it in their journals.

use std::collections::HashMap;
use std::time::Duration;

use crossdock_topics::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::entry::Kept;
use super::journal::{Journals, Reading};
use crate::delivery::keys;
use crate::group::Place;

/// For how long what was read counts. What is needed grows less with time, but for a place that an operator moves back:
/// what retention would have dropped anyway may be gone then.
const COUNTS: Duration = Duration::from_secs(3);
/// What nobody has asked after for so long is read no more, and forgotten.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// How long to wait between two rounds of reading.
const PAUSE: Duration = Duration::from_millis(500);

/// The journals that are read here though another engine writes them. Only the one engine asks that drops messages, and
/// only of topics of which something is to be dropped.
#[derive(Default)]
pub(super) struct Elsewhere {
    known: Mutex<HashMap<u32, Known>>,
    asked: Notify,
}

struct Known {
    asked: Instant,
    /// When its reading began last, and what was found; nothing while it is read.
    read: Option<(Instant, Reading)>,
}

impl Elsewhere {
    /// The first offset of a topic that is still needed, and what for; `None` when that is not known now.
    pub(super) fn needs(&self, subscription: u32, topic: u32) -> Option<(u64, &'static str)> {
        let now = Instant::now();
        let mut known = self.known.lock();
        let known = known.entry(subscription).or_insert(Known { asked: now, read: None });
        known.asked = now;
        self.asked.notify_one();
        let (_, reading) = known.read.as_ref().filter(|(began, _)| began.elapsed() < COUNTS)?;
        needs(reading.replay.so_far(), subscription, topic).ok().flatten()
    }

    /// Reads what is asked after, for as long as this is polled.
    pub(super) async fn run(&self, journals: &Journals) {
        loop {
            self.asked.notified().await;
            let wanted: Vec<u32> = {
                let mut known = self.known.lock();
                known.retain(|_, known| known.asked.elapsed() < FORGOTTEN);
                known.keys().copied().collect()
            };
            for id in wanted {
                let began = Instant::now();
                let before = self.known.lock().get_mut(&id).and_then(|known| known.read.take());
                let mut reading = before.map(|(_, reading)| reading).unwrap_or_default();
                let followed = journals.follow(id, &mut reading).await;
                match (followed, self.known.lock().get_mut(&id)) {
                    (Ok(()), Some(known)) => known.read = Some((began, reading)),
                    (Ok(()), None) => {}
                    (Err(error), _) => {
                        tracing::debug!(subscription = id, %error, "what it needs is not known yet");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The first offset of a topic that is still needed according to what is kept, and what for; `None` when it has no place
/// there yet.
///
/// # Errors
/// `Internal` when it is damaged.
fn needs(kept: &Kept, subscription: u32, topic: u32) -> Result<Option<(u64, &'static str)>, Error> {
    let Some(place) = kept.get(&keys::place(subscription, topic)) else { return Ok(None) };
    let place = Place::decode(place)?;
    let first = |kind| {
        let prefix = keys::message(subscription, topic, kind, 0);
        let (key, _) = kept.scan(&prefix[..9]).next()?;
        keys::u64_of(&key[9..])
    };
    let open = place.open.iter().next().into_iter();
    let unsettled = open.chain(first(keys::WAITING)).fold(place.next, u64::min);
    let dead = first(keys::DEAD).filter(|dead| *dead < unsettled);
    Ok(Some(dead.map_or((unsettled, "has not settled"), |dead| (dead, "keeps as a dead letter"))))
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Changes, Kind};
    use super::*;
    use crate::delivery::Keep;
    use crate::group::Ranges;

    #[test]
    fn the_first_of_what_is_open_waits_or_is_dead_is_needed() {
        let mut changes = Changes::new(Kind::Changes);
        let mut open = Ranges::default();
        (40..50).for_each(|offset| open.insert(offset));
        let place = |next, open: &Ranges| Place { next, open: open.clone() }.encode();
        changes.put(&keys::place(1, 1), &place(100, &Ranges::default()));
        changes.put(&keys::place(1, 2), &place(100, &open));
        changes.put(&keys::place(1, 3), &place(100, &open));
        changes.put(&keys::message(1, 3, keys::WAITING, 30), b"");
        changes.put(&keys::place(1, 4), &place(100, &open));
        changes.put(&keys::message(1, 4, keys::DEAD, 7), b"");
        changes.put(&keys::message(1, 4, keys::DEAD, 70), b"");
        changes.put(&keys::message(2, 1, keys::DEAD, 1), b"");
        let mut kept = Kept::default();
        kept.apply(changes.body()).unwrap();
        let needs = |topic| needs(&kept, 1, topic).unwrap();
        assert_eq!(needs(1), Some((100, "has not settled")));
        assert_eq!(needs(2), Some((40, "has not settled")));
        assert_eq!(needs(3), Some((30, "has not settled")));
        assert_eq!(needs(4), Some((7, "keeps as a dead letter")));
        assert_eq!(needs(5), None);
    }
}
