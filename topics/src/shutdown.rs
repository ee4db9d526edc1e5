//! How every long-running part of a process is told to stop, and waited for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One shutdown for a whole process, cheap to clone. Parts watch [`Shutdown::started`], stop taking new work,
/// finish what they hold, and return; whoever began it waits in [`Shutdown::drain`]. Every task is spawned on
/// [`Shutdown::tasks`], so that none is forgotten.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
}

impl Shutdown {
    /// A shutdown that gives tasks `grace` to finish.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { token: CancellationToken::new(), tasks: TaskTracker::new(), grace }
    }

    /// Tells every part to stop. Doing it twice is harmless.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Resolves once stopping has begun.
    pub async fn started(&self) {
        self.token.cancelled().await;
    }

    /// Whether stopping has begun.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The owner of all tasks.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// How long tasks are given to finish.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// A shutdown of one part: it starts when this one does, or on its own with [`Shutdown::begin`], and has
    /// tasks of its own. Whoever makes it drains it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tasks: TaskTracker::new(), grace: self.grace }
    }

    /// Begins, then resolves when every task has ended. The caller bounds the wait, with [`Shutdown::grace`].
    pub async fn drain(&self) {
        self.begin();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
