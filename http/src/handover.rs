//! A response that is known to have been taken, or not.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::json_response;

/// How much is passed on at once: what lies in the connection's buffers counts as taken.
const PART: usize = 64 * 1024;

/// A response of this JSON text that calls `taken` once the connection has taken all of it. When the peer goes
/// away before, or takes too little of it for too long, `taken` is dropped uncalled.
#[must_use]
pub fn json_handover(text: impl Into<Bytes>, taken: impl FnOnce() + Send + Unpin + 'static) -> Response {
    let mut response = json_response(Bytes::new());
    *response.body_mut() = Body::new(Handover { left: text.into(), taken: Some(taken) });
    response
}

struct Handover<F> {
    left: Bytes,
    taken: Option<F>,
}

impl<F: FnOnce() + Unpin> hyper::body::Body for Handover<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.left.len().min(PART);
        let part = self.left.split_to(size);
        if self.left.is_empty()
            && let Some(taken) = self.taken.take()
        {
            taken();
        }
        Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn it_is_told_when_the_last_part_was_taken_and_not_before() {
        let told = Arc::new(AtomicBool::new(false));
        let taken = {
            let told = told.clone();
            move || told.store(true, SeqCst)
        };
        let mut body = json_handover(vec![b'1'; PART + 1], taken).into_body();
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(PART as u64 + 1));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), PART);
        assert!(!told.load(SeqCst));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 1);
        assert!(told.load(SeqCst));
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn what_nobody_takes_is_not_told_of_but_dropped() {
        let guard = Arc::new(());
        let taken = {
            let guard = guard.clone();
            move || drop(guard)
        };
        let response = json_handover("1", taken);
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(response);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
