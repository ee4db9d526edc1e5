//! How much of requests is held in memory at one time.

use std::future::Future;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use crossdock_http::{Limits, Result, read_body, read_body_if};
use crossdock_topics::Error;

use super::room::{self, Room};

/// Bodies up to this size are read without further ado; the bound on connections bounds their sum.
const SMALL: usize = 64 * 1024;
/// How many bytes all larger bodies may take together.
const LARGE_TOGETHER: usize = 256 * 1024 * 1024;

/// Takes bodies in. Their sum is bounded: when large ones take all there is, the next is refused. A body takes
/// room as it arrives: whoever only announces much keeps nobody out.
pub(super) struct Intake {
    room: Room,
}

/// A body, and the room it takes until this is dropped.
pub(super) struct Taken {
    pub(super) bytes: Bytes,
    _room: room::Taken,
}

impl Default for Intake {
    fn default() -> Self {
        Self { room: Room::of(LARGE_TOGETHER) }
    }
}

impl Intake {
    /// Reads a body. `limit` is asked only when the body is not known to be small, so that the common case
    /// costs no look-up: whoever takes small ones checks them afterwards.
    ///
    /// # Errors
    /// Those of [`read_body`]; `Overloaded` when there is no room.
    pub(super) async fn take(
        &self,
        body: Body,
        limits: Limits,
        limit: impl Future<Output = Result<usize, Error>>,
    ) -> Result<Taken> {
        let announced = body.size_hint().exact().map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        if announced.is_some_and(|size| size <= SMALL) {
            return Ok(Taken {
                bytes: read_body(body, SMALL, limits.body).await?,
                _room: room::Taken::default(),
            });
        }
        let limit = limit.await?.min(LARGE_TOGETHER);
        let mut taken = room::Taken::default();
        let admit = |size| self.room.take(&mut taken, size);
        let bytes = read_body_if(body, limit, limits.body, admit).await?;
        Ok(Taken { bytes, _room: taken })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crossdock_topics::ErrorCode;
    use futures::StreamExt;

    use super::room::STEP;

    use super::*;

    /// A body of so many bytes in small parts, which then breaks off or never ends.
    fn unfinished(size: usize) -> Body {
        let part = Bytes::from(vec![0; 10_000]);
        let parts =
            futures::stream::iter(0..size / part.len()).map(move |_| Ok::<_, std::io::Error>(part.clone()));
        Body::from_stream(parts.chain(futures::stream::pending()))
    }

    #[tokio::test]
    async fn room_is_taken_by_what_arrives_and_given_back() {
        let intake = Arc::new(Intake::default());
        let limits = Limits { body: Duration::from_secs(60), ..Limits::default() };
        let whole = LARGE_TOGETHER / STEP;
        let take = |body| {
            let intake = Arc::clone(&intake);
            tokio::spawn(async move { intake.take(body, limits, async { Ok(64 * 1024 * 1024) }).await })
        };
        // Many that may become large, and have not.
        let waiting: Vec<_> = (0..100).map(|_| take(unfinished(100_000))).collect();
        let taken = take(Body::from(vec![0; 1_000_000])).await.unwrap().unwrap();
        assert_eq!(taken.bytes.len(), 1_000_000);
        drop(taken);
        while intake.room.steps_left() != whole - 100 * 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // A few that are.
        let large: Vec<_> = (0..4).map(|_| take(unfinished(60 * 1024 * 1024))).collect();
        while intake.room.steps_left() > 20 * 1024 * 1024 / STEP {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = take(unfinished(60 * 1024 * 1024)).await.unwrap().err().unwrap();
        assert_eq!(refused.error().code, ErrorCode::Overloaded);
        waiting.iter().chain(&large).for_each(tokio::task::JoinHandle::abort);
        for task in waiting.into_iter().chain(large) {
            assert!(task.await.is_err());
        }
        assert_eq!(intake.room.steps_left(), whole);
    }
}
