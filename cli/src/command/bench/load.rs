//! A load: so many requests under way at a time, until the time is up.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossdock_topics::{Error, ErrorCode};

use super::Amount;
use crate::output::countdown;
use crossdock_verify::Histogram;

/// What a step has done.
pub(super) enum Step {
    /// So many messages or calls; the next step follows.
    Done(u64),
    /// So many, and there is no more to do, for anyone.
    Last(u64),
}

/// What a load has done.
pub(super) struct Measured {
    pub(super) count: u64,
    pub(super) refused: u64,
    pub(super) seconds: f64,
    pub(super) latencies: Histogram,
}

/// Repeats `step` in each of `amount.in_flight` tasks. A step that is refused because a queue is full is
/// counted and done again a little later; any other error ends the load.
///
/// # Errors
/// The first error of a step.
pub(super) async fn run<S, F>(amount: Amount, what: &str, step: S) -> Result<Measured, Error>
where
    S: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<Step, Error>> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let end = began + amount.length;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..amount.in_flight {
        tasks.spawn(work(step.clone(), end, Arc::clone(&count), Arc::clone(&over)));
    }
    let bar = countdown(amount.length);
    let mut all = Measured { count: 0, refused: 0, seconds: 0.0, latencies: Histogram::default() };
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            ended = tasks.join_next() => {
                let Some(ended) = ended else { break };
                let ended = ended.map_err(|cause| Error::internal(format!("a task of the load failed: {cause}")))?;
                let (refused, latencies) = ended.inspect_err(|_| bar.finish_and_clear())?;
                all.refused += refused;
                all.latencies.merge(&latencies);
            }
            _ = tick.tick() => {
                bar.set_position(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                #[allow(clippy::cast_precision_loss)]
                let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
                bar.set_message(format!("{rate:.0} {what}/s"));
            }
        }
    }
    bar.finish_and_clear();
    all.seconds = began.elapsed().as_secs_f64();
    all.count = count.load(Ordering::Relaxed);
    Ok(all)
}

async fn work<S, F>(
    step: S,
    end: Instant,
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Result<(u64, Histogram), Error>
where
    S: Fn() -> F,
    F: Future<Output = Result<Step, Error>>,
{
    let mut latencies = Histogram::default();
    let mut refused = 0;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        if began >= end {
            break;
        }
        match step().await {
            Ok(Step::Done(done)) => {
                latencies.record(began.elapsed());
                count.fetch_add(done, Ordering::Relaxed);
            }
            Ok(Step::Last(done)) => {
                if done > 0 {
                    latencies.record(began.elapsed());
                    count.fetch_add(done, Ordering::Relaxed);
                }
                over.store(true, Ordering::Relaxed);
            }
            Err(error) if error.code == ErrorCode::Overloaded => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(rand::random_range(10..50))).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((refused, latencies))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(in_flight: u16) -> Amount {
        Amount { in_flight, length: Duration::from_millis(300) }
    }

    #[tokio::test]
    async fn it_ends_when_the_time_is_up_and_counts_what_was_done() {
        let measured = run(amount(4), "x", || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Step::Done(3))
        })
        .await
        .unwrap();
        assert!(measured.count >= 12 && measured.count % 3 == 0, "{}", measured.count);
        assert!(measured.seconds >= 0.3 && measured.latencies.quantile_ms(0.5) >= 10.0);
    }

    #[tokio::test]
    async fn the_first_error_ends_it_but_a_full_queue_does_not() {
        let step = || async { Err(Error::new(ErrorCode::Overloaded, "full")) };
        assert!(run(amount(1), "x", step).await.unwrap().refused > 0);
        let step = || async { Err(Error::not_found("topic", "x")) };
        assert_eq!(run(amount(2), "x", step).await.err().unwrap().code, ErrorCode::NotFound);
    }

    #[tokio::test]
    async fn one_that_finds_no_more_to_do_ends_all() {
        let long = Amount { in_flight: 4, length: Duration::from_secs(60) };
        assert_eq!(run(long, "x", || async { Ok(Step::Last(0)) }).await.unwrap().count, 0);
    }
}
