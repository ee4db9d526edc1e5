//! Taking in a body: the size is known to fit before it is read, and the wait for it has an end.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use crossdock_topics::{Error, ErrorCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use crate::{Problem, Result};

/// The most that is set aside at once for a body whose length was only announced, in bytes.
const AHEAD: usize = 1024 * 1024;

/// Reads a body of at most `limit` bytes that arrives within `deadline`.
///
/// # Errors
/// `TooLarge`, before anything is read when the length was announced, and otherwise as soon as the limit is
/// passed; `InvalidArgument` when it did not arrive in time, or broke off.
pub async fn read_body(body: Body, limit: usize, deadline: Duration) -> Result<Bytes> {
    read_body_if(body, limit, deadline, |_| Ok(())).await
}

/// The same, asking `admit` each time before more is kept: with how many bytes there will be then.
///
/// # Errors
/// Those of [`read_body`] and of `admit`.
pub async fn read_body_if(
    body: Body,
    limit: usize,
    deadline: Duration,
    admit: impl FnMut(usize) -> Result<(), Error>,
) -> Result<Bytes> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    tokio::time::timeout(deadline, read(body, limit, admit)).await.unwrap_or_else(|_| {
        Err(Error::invalid(format!("the body did not arrive within {deadline:?}"))
            .hint("send it faster, or in smaller parts")
            .into())
    })
}

/// Copies what comes in parts, so that a body takes no more memory in many small ones than in a few large ones.
async fn read(
    mut body: Body,
    limit: usize,
    mut admit: impl FnMut(usize) -> Result<(), Error>,
) -> Result<Bytes> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|error| broke_off(&error))?.into_data() else { continue };
        let size = whole.len() + part.len();
        if size > limit {
            return Err(too_large(limit));
        }
        admit(size)?;
        if whole.is_empty() {
            if body.is_end_stream() {
                return Ok(part);
            }
            whole.reserve(announced.clamp(part.len(), part.len().max(AHEAD)));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

fn broke_off(error: &axum::Error) -> Problem {
    // The chain's end says what was wrong with the framing, as in "invalid chunk size line".
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Error::invalid(format!("the body broke off: {cause}"))
        .hint("send as many bytes as Content-Length says, or well-formed chunks")
        .into()
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
    async fn each_part_is_admitted_before_it_is_kept() {
        let mut sizes = Vec::new();
        let admit = |size| {
            sizes.push(size);
            if size > 200 { Err(Error::new(ErrorCode::Overloaded, "full")) } else { Ok(()) }
        };
        let body = Body::new(Chunks { left: 9, hangs: true });
        let error = read_body_if(body, 1000, Duration::from_secs(1), admit).await.unwrap_err();
        assert_eq!((error.error().code, &*sizes), (ErrorCode::Overloaded, &[100, 200, 300][..]));
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
