//! How much of requests is held in memory at one time.

use std::future::Future;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use crossdock_http::{Limits, Result, read_body};
use crossdock_topics::{Error, ErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies up to this size are read without further ado; the bound on connections bounds their sum.
const SMALL: usize = 64 * 1024;
/// How many bytes all larger bodies may take together.
const LARGE_TOGETHER: usize = 256 * 1024 * 1024;
const UNIT: usize = 1024;

/// Takes bodies in. Their sum is bounded: when large ones take all there is, the next is refused.
pub(super) struct Intake {
    room: Arc<Semaphore>,
}

/// A body, and the room it takes until this is dropped.
pub(super) struct Taken {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Default for Intake {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LARGE_TOGETHER / UNIT)) }
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
            return Ok(Taken { bytes: read_body(body, SMALL, limits.body).await?, _room: None });
        }
        let limit = limit.await?;
        let size = announced.unwrap_or(limit).min(limit).min(LARGE_TOGETHER);
        let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units).map_err(|_| {
            Error::new(ErrorCode::Overloaded, "large requests take all the memory there is for them")
                .hint("try again in a moment, or send less at once")
        })?;
        Ok(Taken { bytes: read_body(body, size, limits.body).await?, _room: Some(room) })
    }
}
