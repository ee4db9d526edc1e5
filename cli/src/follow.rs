//! Following something for as long as it takes, also while its server restarts.

use std::future::Future;
use std::time::{Duration, Instant};

use crossdock_topics::{Backoff, Error, ErrorCode, StartAt};

use crate::output::say;

/// How long the server is asked to wait for something new.
pub(crate) const WAIT: Duration = Duration::from_secs(10);

/// For how long a server may be away.
const AWAY: Duration = Duration::from_secs(60);

/// A place in a topic as the Admin API takes it in `from`.
pub(crate) fn place(from: StartAt) -> String {
    match from {
        StartAt::Start => "start".into(),
        StartAt::End => "end".into(),
        StartAt::Offset(offset) => offset.to_string(),
        StartAt::Time(moment) => moment.to_string(),
    }
}

/// Asks, and again while the server is away, for up to a minute. Only for questions that change nothing.
///
/// # Errors
/// Whatever is answered; `Unavailable` or `Timeout` once the minute is over.
pub(crate) async fn persist<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let backoff = Backoff { first: Duration::from_millis(200), factor: 2.0, max: Duration::from_secs(3) };
    let began = Instant::now();
    let mut failures = 0;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let passing =
            matches!(error.code, ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Overloaded);
        if !passing || began.elapsed() > AWAY {
            return Err(error);
        }
        if failures == 0 {
            say(&format!("{}; trying again for {} s", error.message, AWAY.as_secs()));
        }
        failures += 1;
        tokio::time::sleep(backoff.wait(failures, rand::random())).await;
    }
}
