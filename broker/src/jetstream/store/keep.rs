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
/// How long beginning to follow may take.
const BEGIN: Duration = Duration::from_secs(5);
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
        let mut up = self.bucket.connection.up();
        let mut sweep = tokio::time::interval(SWEEP);
        let seed = rand::random();
        loop {
            up.mark_unchanged();
            let why = loop {
                tokio::select! {
                    arrived = follow.next() => match arrived {
                        Ok(Arrived::Message { sequence, message, .. }) => self.take(sequence, &message).await,
                        Ok(Arrived::Idle) => {}
                        Err(error) => break error.to_string(),
                    },
                    // What came while there was no connection is lost.
                    _ = up.changed() => break "the connection was lost".to_owned(),
                    _ = sweep.tick() => {
                        self.mirror.forget_marks(MARKS, Instant::now());
                        let mirror = self.mirror.clone();
                        self.objects.sweep(|| mirror.objects()).await;
                    }
                }
            };
            let (since, clock) = (Instant::now(), SystemTime::now());
            tracing::debug!(why, "the store is followed anew");
            let mut failures = 0;
            follow = loop {
                let away = since.elapsed().max(clock.elapsed().unwrap_or(AWAY));
                match timeout(BEGIN, self.resume(away > AWAY)).await {
                    Ok(Ok(follow)) => break follow,
                    Ok(Err(error)) => tracing::debug!(%error, "the store cannot be followed yet"),
                    Err(_) => tracing::debug!("the store cannot be followed yet: no answer"),
                }
                failures += 1;
                tokio::time::sleep(AGAIN.wait(failures, seed)).await;
            };
            // Whoever keeps a lease alive may not have been heard.
            self.mirror.renew_all(Instant::now());
        }
    }

    /// Follows from behind the last one that came, or reads everything anew where that cannot be.
    async fn resume(&mut self, anew: bool) -> Result<Follow> {
        let info = self.bucket.stream.get_info().await.map_err(|error| {
            crossdock_topics::Error::new(crossdock_topics::ErrorCode::Unavailable, error.to_string())
        })?;
        let seen = self.mirror.seen();
        let other = self.created.as_deref() != Some(&format!("{:?}", info.created));
        if anew || other || info.state.last_sequence < seen {
            tracing::warn!(other, seen, last = info.state.last_sequence, "the store is read anew");
            return self.load().await;
        }
        Follow::begin(&self.bucket.connection, &info.config.name, seen + 1).await
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
