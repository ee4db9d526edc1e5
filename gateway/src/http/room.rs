//! Memory for large things, all of them together bounded.

use std::sync::Arc;

use crossdock_topics::{Error, ErrorCode, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is taken in steps of this size, in bytes.
pub(super) const STEP: usize = 64 * 1024;

/// So many bytes, for all that take some of them.
pub(super) struct Room(Arc<Semaphore>);

/// What one has taken, until this is dropped.
#[derive(Default)]
pub(super) struct Taken(Option<OwnedSemaphorePermit>);

impl Room {
    pub(super) fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / STEP)))
    }

    /// Makes what was taken enough for so many bytes.
    ///
    /// # Errors
    /// `Overloaded` when there is no more; what was taken stays as it is.
    pub(super) fn take(&self, taken: &mut Taken, bytes: usize) -> Result<()> {
        let held = taken.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.div_ceil(STEP).saturating_sub(held)).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| {
            Error::new(
                ErrorCode::Overloaded,
                "large requests and answers take all the memory there is for them",
            )
            .hint("try again in a moment, or with less at once")
        })?;
        match &mut taken.0 {
            Some(taken) => taken.merge(more),
            None => taken.0 = Some(more),
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn steps_left(&self) -> usize {
        self.0.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let room = Room::of(4 * STEP);
        let (mut one, mut other) = (Taken::default(), Taken::default());
        room.take(&mut one, 1).unwrap();
        room.take(&mut one, STEP + 1).unwrap();
        room.take(&mut one, STEP).unwrap();
        assert_eq!(room.steps_left(), 2);
        assert_eq!(room.take(&mut other, 3 * STEP).unwrap_err().code, ErrorCode::Overloaded);
        room.take(&mut other, 2 * STEP).unwrap();
        drop(one);
        assert_eq!(room.steps_left(), 2);
    }
}
