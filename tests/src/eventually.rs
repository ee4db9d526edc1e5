//! Waiting for what will be true soon.

use std::time::{Duration, Instant};

/// Tries until something is there, for at most `within`; asks again every 50 ms.
///
/// # Panics
/// When the time is up, with what was waited for.
pub async fn eventually<T, F>(what: &str, within: Duration, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + within;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < end, "waited {within:?} for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
