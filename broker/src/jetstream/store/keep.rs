//! The task that keeps the mirror: it follows the bucket's stream, and begins again when it cannot go on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::Message;
use crossdock_topics::{Backoff, Result, Shutdown};
use tokio::time::timeout;

use super::bucket::{Bucket, MARKS};
use super::mirror::{Mirror, Record, What};
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
    let mut keeper = Keeper { bucket, objects, mirror, created: None };
    let follow = keeper.load().await?;
    let (ended, tasks) = (shutdown.clone(), shutdown.tasks());
    tasks.spawn(async move {
        tokio::select! {
            () = keeper.run(follow) => {}
            () = ended.started() => {}
        }
    });
    Ok(())
}

struct Keeper {
    bucket: Bucket,
    objects: Objects,
    mirror: Arc<Mirror>,
    /// When the stream was made: another moment means another stream.
    created: Option<String>,
}

impl Keeper {
    /// Reads everything.
    async fn load(&mut self) -> Result<Follow> {
        let connection = &self.bucket.connection;
        let info = self.bucket.stream.get_info().await.map_err(|error| {
            crossdock_topics::Error::new(crossdock_topics::ErrorCode::Unavailable, error.to_string())
        })?;
        let mut follow = Follow::begin(connection, &info.config.name, 1).await?;
        self.created = Some(format!("{:?}", info.created));
        let (mut records, mut last) = (Vec::new(), info.state.last_sequence);
        let mut complete = follow.waiting == 0;
        while !complete {
            match follow.next().await? {
                Arrived::Message { sequence, pending, message } => {
                    records.extend(self.read(sequence, &message).await);
                    last = last.max(sequence);
                    complete = pending == 0;
                }
                Arrived::Idle => complete = true,
            }
        }
        self.mirror.load(records, last, Instant::now());
        Ok(follow)
    }

    async fn run(&mut self, mut follow: Follow) {
        let mut sweep = tokio::time::interval(SWEEP);
        let (mut breaks, mut heard, mut clock) = (follow.breaks, Instant::now(), SystemTime::now());
        loop {
            let arrived = tokio::select! {
                arrived = follow.next() => arrived,
                _ = sweep.tick() => {
                    self.mirror.forget_marks(MARKS, Instant::now());
                    let mirror = self.mirror.clone();
                    self.objects.sweep(|| mirror.objects()).await;
                    continue;
                }
            };
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
        match self.read(sequence, message).await {
            Some(record) => self.mirror.apply(record, Instant::now()),
            None => self.mirror.come(sequence),
        }
    }

    /// What a message says, with its value where that lies in an object.
    async fn read(&self, sequence: u64, message: &Message) -> Option<Record> {
        let mut record = self.bucket.read(sequence, message)?;
        if let What::Put { value, object: Some(object), .. } = &mut record.what {
            let (mut failures, seed) = (0, sequence);
            match loop {
                match self.objects.get(object).await {
                    Ok(found) => break found,
                    Err(error) => tracing::warn!(%error, "a large value cannot be read yet"),
                }
                failures += 1;
                tokio::time::sleep(AGAIN.wait(failures, seed)).await;
            } {
                Some(found) => *value = found,
                // It has been replaced meanwhile, and what replaced it comes behind this.
                None => record.what = What::Nothing,
            }
        }
        Some(record)
    }
}
