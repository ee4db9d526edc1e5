//! Asking the bucket's leader how far it has come, and waiting until the mirror has come as far. One question serves
//! all who came before it was asked; and one is asked now and then anyway, to know whether the store works.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Result, Shutdown};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::bucket::Bucket;
use super::mirror::Mirror;
use crate::jetstream::connection::Struggle;

/// How often the store is asked when nobody wants to know.
const PROBE: Duration = Duration::from_secs(1);
/// How long to wait before asking again for those who wait.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the store may not answer before whoever waits is told so: a disk stands still for a second now and then.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the mirror may take to come as far as the leader.
const LAG: Duration = Duration::from_secs(5);
/// An answer that took so long is a sign that others could not write either.
const SLOW: Duration = Duration::from_secs(1);
/// So many may wait for an answer.
const WAITING: usize = 4096;

type Waiter = oneshot::Sender<Result<()>>;

/// The way to ask.
#[derive(Clone)]
pub(super) struct Fresh {
    asks: mpsc::Sender<Waiter>,
    trouble: watch::Receiver<Option<String>>,
    tasks: TaskTracker,
}

impl Fresh {
    pub(super) fn start(bucket: Bucket, mirror: Arc<Mirror>, shutdown: &Shutdown) -> Self {
        let (asks, asked) = mpsc::channel(WAITING);
        let (state, trouble) = watch::channel(None);
        shutdown.tasks().spawn(answer(bucket, mirror, asked, state, shutdown.clone()));
        Self { asks, trouble, tasks: shutdown.tasks().clone() }
    }

    /// Resolves when the mirror has everything that was stored when this was called.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) async fn come(&self) -> Result<()> {
        let (waiter, answered) = oneshot::channel();
        self.asks.send(waiter).await.map_err(|_| crate::jetstream::closed())?;
        answered.await.map_err(|_| crate::jetstream::closed())?
    }

    /// Why the store did not answer the last time, if it did not.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Does something that nobody waits for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

async fn answer(
    bucket: Bucket,
    mirror: Arc<Mirror>,
    mut asked: mpsc::Receiver<Waiter>,
    state: watch::Sender<Option<String>>,
    shutdown: Shutdown,
) {
    let (mut waiters, mut failing): (Vec<Waiter>, Option<Instant>) = (Vec::new(), None);
    let struggle = Struggle::default();
    loop {
        let (room, pause) = (waiters.len() < WAITING, if waiters.is_empty() { PROBE } else { AGAIN });
        tokio::select! {
            count = asked.recv_many(&mut waiters, WAITING), if room => if count == 0 { return },
            () = tokio::time::sleep(pause) => {}
            () = shutdown.started() => return,
        }
        let began = Instant::now();
        let answer = ask(&bucket, &mirror).await;
        // Whoever keeps a lease alive was in the same trouble: nobody may take it for dead because of that.
        if (answer.is_err() || state.borrow().is_some()) || began.elapsed() > SLOW {
            mirror.renew_all(std::time::Instant::now());
        }
        state.send_if_modified(|state| {
            let now = answer.as_ref().err().map(ToString::to_string);
            match (&state, &now) {
                // The first reason is kept for as long as it lasts.
                (Some(_), Some(_)) | (None, None) => return false,
                (None, Some(why)) => tracing::warn!(why, "the store in NATS is in trouble"),
                (Some(_), None) => tracing::info!("the store in NATS works again"),
            }
            *state = now;
            true
        });
        match &answer {
            Ok(()) => struggle.over(),
            Err(_) => struggle.goes_on(&bucket.connection, "the store cannot be reached through it").await,
        }
        if answer.is_err() && failing.get_or_insert(began).elapsed() < PATIENCE {
            continue;
        }
        failing = None;
        for waiter in waiters.drain(..) {
            let _ = waiter.send(answer.clone());
        }
    }
}

async fn ask(bucket: &Bucket, mirror: &Mirror) -> Result<()> {
    let last = bucket.last().await?;
    timeout(LAG, mirror.reaches(last)).await.map_err(|_| {
        Error::new(ErrorCode::Unavailable, "this server does not hear what is written to the store in NATS")
            .hint(super::bucket::LOOK)
    })
}
