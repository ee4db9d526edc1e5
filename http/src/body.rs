//! Taking in a body: the size is known to fit before it is read, and the wait for it has an end.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use crate::{Problem, Result};

/// Reads a body of at most `limit` bytes that arrives within `deadline`.
///
/// # Errors
/// `TooLarge`, before anything is read when the length was announced, and otherwise as soon as the limit is
/// passed; `InvalidArgument` when it did not arrive in time, or broke off.
pub async fn read_body(body: Body, limit: usize, deadline: Duration) -> Result<Bytes> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(deadline, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(error)) => {
            // The chain's end says what was wrong with the framing, as in "invalid chunk size line".
            let mut cause: &dyn std::error::Error = &*error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            Err(Error::invalid(format!("the body broke off: {cause}"))
                .hint("send as many bytes as Content-Length says, or well-formed chunks")
                .into())
        }
        Err(_) => Err(Error::invalid(format!("the body did not arrive within {deadline:?}"))
            .hint("send it faster, or in smaller parts")
            .into()),
    }
}

fn too_large(limit: usize) -> Problem {
    Error::new(ErrorCode::TooLarge, format!("the body is larger than {limit} bytes"))
        .hint("send less at once, or raise the limit where this path is configured")
        .into()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body of unknown length: so many chunks of 100 bytes, then nothing more, ever or at all.
    struct Chunks {
        left: usize,
        hangs: bool,
    }

    impl hyper::body::Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.left.checked_sub(1) {
                Some(left) => {
                    self.left = left;
                    Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 100])))))
                }
                None if self.hangs => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_at_the_limit() {
        let body = |left| Body::new(Chunks { left, hangs: false });
        let second = Duration::from_secs(1);
        assert_eq!(read_body(body(10), 1000, second).await.unwrap().len(), 1000);
        let error = read_body(body(11), 1000, second).await.unwrap_err();
        assert_eq!(error.status().as_u16(), 413);
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_unread() {
        let error = read_body(Body::from(vec![0; 11]), 10, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.error().code, ErrorCode::TooLarge);
    }

    #[tokio::test]
    async fn the_wait_has_an_end() {
        let body = Body::new(Chunks { left: 1, hangs: true });
        let error = read_body(body, 1000, Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(error.status().as_u16(), 400);
        assert!(error.error().message.contains("did not arrive"), "{error:?}");
    }
}
