//! The task that keeps the mirror: it follows the bucket's stream, and begins again when it cannot go on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::Message;
use bytes::Bytes;
use crossdock_topics::{Backoff, Error, ErrorCode, Result, Shutdown};
use tokio::time::{timeout, timeout_at};

use super::bucket::{Bucket, MARKS};
use super::mirror::{Mirror, Record, What};
use super::names::Key;
use super::objects::Objects;
use crate::jetstream::follow::{Arrived, Follow};

/// How long to wait before following again.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(20), factor: 2.0, max: Duration::from_secs(2) };
/// After so long away the marks of deletions may be gone, and everything is read anew.
const AWAY: Duration = Duration::from_secs(MARKS.as_secs() / 2);
/// How long NATS may take to say what is there.
const ASK: Duration = Duration::from_secs(2);
/// How often what is no longer needed is cleared away.
const SWEEP: Duration = Duration::from_secs(3600);
/// How long the next one may be waited for while everything is read.
const LOADING: Duration = Duration::from_secs(30);
/// How long everything else waits for a large value. Then it is read beside.
const LARGE: Duration = Duration::from_secs(2);

/// Reads the whole bucket into the mirror, and keeps it there.
///
/// # Errors
/// `Unavailable` when it cannot be read.
pub(super) async fn start(
    bucket: Bucket,
    objects: Objects,
    mirror: Arc<Mirror>,
    shutdown: &Shutdown,
) -> Result<()> {
    let (ended, tasks) = (shutdown.clone(), shutdown.tasks());
    let mut keeper = Keeper { bucket, objects, mirror, created: None, shutdown: shutdown.clone() };
    let follow = keeper.load().await?;
    let (mirror, objects, swept) = (keeper.mirror.clone(), keeper.objects.clone(), shutdown.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = keeper.run(follow) => {}
            () = ended.started() => {}
        }
    });
    // By itself, for it may take long.
    tasks.spawn(async move {
        tokio::select! {
            () = sweep(&mirror, &objects) => {}
            () = swept.started() => {}
        }
    });
    Ok(())
}

/// Clears away what is no longer needed, now and then.
async fn sweep(mirror: &Mirror, objects: &Objects) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        sweep.tick().await;
        mirror.forget_marks(MARKS, Instant::now());
        objects.sweep(|| mirror.objects()).await;
    }
}

struct Keeper {
    bucket: Bucket,
    objects: Objects,
    mirror: Arc<Mirror>,
    /// When the stream was made: another moment means another stream.
    created: Option<String>,
    shutdown: Shutdown,
}

impl Keeper {
    /// Reads everything.
    async fn load(&mut self) -> Result<Follow> {
        let connection = &self.bucket.connection;
        let asked = timeout(LOADING, self.bucket.stream.get_info()).await;
        let info = asked.map_err(|_| unavailable("the store in NATS does not answer"))?;
        let info = info.map_err(|error| unavailable(&error.to_string()))?;
        let mut follow = Follow::begin(connection, &info.config.name, 1).await?;
        self.created = Some(format!("{:?}", info.created));
        let (mut records, mut come, mut last) = (Vec::new(), 0, info.state.last_sequence);
        // The consumer may lie on a server that has not come as far as the leader: that it has no more says little. And
        // only where it has no more is there everything: what is replaced while all this is read comes at its new place.
        let (mut at_end, mut large) = (follow.waiting == 0, LARGE);
        let mut deadline = tokio::time::Instant::now() + LOADING;
        while !at_end || (come < last && self.bucket.goes_on_behind(come).await?) {
            let arrived = timeout_at(deadline, follow.next()).await;
            match arrived.map_err(|_| unavailable("the store in NATS cannot be read to its end"))?? {
                Arrived::Message { sequence, pending, message, .. } => {
                    let record = self.read(sequence, &message, large).await;
                    // They lie in one place: where one cannot be read the others cannot either.
                    if record.as_ref().is_some_and(|record| unread(record).is_some()) {
                        large = Duration::ZERO;
                    }
                    records.extend(record);
                    (come, last, at_end) = (sequence, last.max(sequence), pending == 0);
                    deadline = tokio::time::Instant::now() + LOADING;
                }
                Arrived::Idle => at_end = true,
            }
        }
        let unread: Vec<_> = records.iter().filter_map(unread).collect();
        self.mirror.load(records, last, Instant::now());
        unread.into_iter().for_each(|(key, sequence, object)| self.read_beside(key, sequence, object));
        Ok(follow)
    }

    async fn run(&mut self, mut follow: Follow) {
        let (mut breaks, mut heard, mut clock) = (follow.breaks, Instant::now(), SystemTime::now());
        loop {
            let arrived = follow.next().await;
            let away = heard.elapsed().max(clock.elapsed().unwrap_or(AWAY));
            (heard, clock) = (Instant::now(), SystemTime::now());
            let interrupted = follow.breaks != breaks;
            breaks = follow.breaks;
            if interrupted {
                // Whoever keeps a lease alive may not have been heard.
                self.mirror.renew_all(heard);
            }
            if away > AWAY || (interrupted && self.is_another().await) {
                tracing::warn!("the store in NATS is read anew");
                follow = self.load_again().await;
                breaks = follow.breaks;
                continue;
            }
            match arrived {
                Ok(Arrived::Message { sequence, message, .. }) => self.take(sequence, &message).await,
                Ok(Arrived::Idle) => {}
                // The broker is being closed.
                Err(_) => return,
            }
        }
    }

    /// Whether what is there is not what was followed: somebody has deleted the store, or put back an old one.
    async fn is_another(&self) -> bool {
        // A leader that is new may need a moment until it knows all that it has.
        for wait in [Duration::ZERO, ASK] {
            tokio::time::sleep(wait).await;
            // When there is no answer it will be interrupted again if it does not go on.
            let Ok(Ok(info)) = timeout(ASK, self.bucket.stream.get_info()).await else { return false };
            if self.created.as_deref() != Some(&format!("{:?}", info.created)) {
                return true;
            }
            if info.state.last_sequence >= self.mirror.seen() {
                return false;
            }
        }
        true
    }

    async fn load_again(&mut self) -> Follow {
        let (mut failures, seed) = (0, rand::random());
        loop {
            match self.load().await {
                Ok(follow) => return follow,
                Err(error) => tracing::warn!(%error, "the store in NATS cannot be read yet"),
            }
            failures += 1;
            tokio::time::sleep(AGAIN.wait(failures, seed)).await;
        }
    }

    async fn take(&self, sequence: u64, message: &Message) {
        match self.read(sequence, message, LARGE).await {
            Some(record) => {
                let unread = unread(&record);
                self.mirror.apply(record, Instant::now());
                if let Some((key, sequence, object)) = unread {
                    self.read_beside(key, sequence, object);
                }
            }
            None => self.mirror.come(sequence),
        }
    }

    /// What a message says, with its value where that lies in an object.
    async fn read(&self, sequence: u64, message: &Message, patience: Duration) -> Option<Record> {
        let mut record = self.bucket.read(sequence, message)?;
        let What::Put { value, object: Some(object), lease } = &mut record.what else { return Some(record) };
        let reading = read_large(&self.bucket, &self.objects, &record.key, sequence, object);
        match timeout(patience, reading).await {
            Ok(Some(found)) => *value = found,
            // It has been replaced meanwhile, and what replaced it comes behind this.
            Ok(None) => record.what = What::Nothing,
            Err(_) => {
                tracing::warn!(key = %record.key, object, "a large value cannot be read yet");
                record.what = What::Unread { lease: *lease, object: std::mem::take(object) };
            }
        }
        Some(record)
    }

    /// Reads a large value, of which the mirror has the place, while all else goes on.
    fn read_beside(&self, key: Key, sequence: u64, object: String) {
        let (bucket, objects, mirror) = (self.bucket.clone(), self.objects.clone(), self.mirror.clone());
        let ended = self.shutdown.clone();
        self.shutdown.tasks().spawn(async move {
            tokio::select! {
                found = read_large(&bucket, &objects, &key, sequence, &object) => if let Some(found) = found {
                    mirror.read_late(&key, sequence, found);
                    tracing::info!(%key, "a large value can be read again");
                },
                () = ended.started() => {}
            }
        });
    }
}

/// The key, the message and the object of a value that could not be read yet.
fn unread(record: &Record) -> Option<(Key, u64, String)> {
    let What::Unread { object, .. } = &record.what else { return None };
    Some((record.key.clone(), record.sequence, object.clone()))
}

/// Reads the large value of a message, however long that takes; `None` when its key has a newer message.
async fn read_large(
    bucket: &Bucket,
    objects: &Objects,
    key: &Key,
    sequence: u64,
    object: &str,
) -> Option<Bytes> {
    let mut failures = 0;
    loop {
        // What is referred to is there, on some server at least.
        if let Ok(Some(found)) = objects.get(object).await {
            return Some(found);
        }
        if let Ok(last) = bucket.last_of(key).await
            && last != sequence
        {
            return None;
        }
        failures += 1;
        tokio::time::sleep(AGAIN.wait(failures, sequence)).await;
    }
}

fn unavailable(why: &str) -> Error {
    Error::new(ErrorCode::Unavailable, why.to_owned()).hint(super::bucket::LOOK)
}
