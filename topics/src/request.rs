//! Asking a service and getting its reply.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::{Error, ErrorCode, Message, Result, ServiceName};

/// What a service answers: a message, or the error it failed with.
pub type Reply = Result<Message>;

/// A request as the one who serves it gets it. Dropping it without an answer tells the caller that the
/// server went away.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub message: Message,
    /// After this moment nobody waits for the reply any more.
    pub deadline: Instant,
    /// The way back.
    pub responder: Responder,
}

/// The way back to whoever asked.
#[derive(Debug)]
pub struct Responder(oneshot::Sender<Reply>);

impl Responder {
    /// A way back, and where the reply will arrive. A dropped responder arrives as an error of
    /// [`oneshot::error::RecvError`]; see [`Responder::gone`] for what to make of it.
    #[must_use]
    pub fn pair() -> (Self, oneshot::Receiver<Reply>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. A caller that went away is no error.
    pub fn reply(self, reply: Reply) {
        let _ = self.0.send(reply);
    }

    /// Whether the caller has gone, so that nobody needs the reply.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    /// Resolves when the caller has gone.
    pub async fn abandoned(&mut self) {
        self.0.closed().await;
    }

    /// What a caller is told when the server went away without an answer.
    #[must_use]
    pub fn gone() -> Error {
        Error::new(
            ErrorCode::Unavailable,
            "the service went away before it answered; it may have done its work or not",
        )
        .hint("ask again if doing it twice is harmless, and see the service's log")
    }

    /// What a caller is told when everybody who serves it has as many requests waiting as it takes.
    #[must_use]
    pub fn full(service: &ServiceName) -> Error {
        Error::new(ErrorCode::Overloaded, format!("service {service} has too many requests waiting"))
            .hint("try again later, or give it more processes")
            .retry_after(Duration::from_secs(1))
    }

    /// What a caller is told when there is nobody to ask.
    #[must_use]
    pub fn nobody(service: &ServiceName) -> Error {
        Error::new(ErrorCode::Unavailable, format!("nobody serves {service}"))
            .hint("deploy it, or look at its state with `crossdock service ls`")
    }
}
