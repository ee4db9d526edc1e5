//! The works every system does, on a server of its own with an empty folder.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::Failure;
use crate::peers::{Consumer, Handler, Server, System, Verdict};
use crate::samples::Latencies;

use super::feed::{Feed, stamp};
use super::meter::Meter;
use super::results::{Sample, Samples};

/// Where results go, and how much is to be done.
pub(crate) struct Run<'a> {
    pub(crate) system: &'a dyn System,
    pub(crate) server: &'a dyn Server,
    pub(crate) samples: &'a mut Samples,
    /// What a reader of the figures must know.
    pub(crate) notes: &'a mut Vec<String>,
    /// The name of what it works on.
    pub(crate) topic: String,
    /// For how long each thing is measured.
    pub(crate) time: Duration,
    pub(crate) quick: bool,
}

/// The offered rate of the latency's measurement, messages each second.
const PACE: u64 = 20_000;
/// How often each message fails in the storm.
const FAILURES: u8 = 3;
/// No cell publishes more bytes than this, so that the disk bears the whole.
const MOST_BYTES: u64 = 2 << 30;

impl Run<'_> {
    fn add(&mut self, work: &str, size: usize, in_flight: usize, sample: Sample) {
        let name = self.system.about().name;
        let rate = sample.rate.map(crate::report::number).unwrap_or_default();
        let p50 = sample.p50.map(|ms| format!(", p50 {ms:.2} ms")).unwrap_or_default();
        let p99 = sample.p99.map(|ms| format!(", p99 {ms:.2} ms")).unwrap_or_default();
        eprintln!("bench: {name}: {work}, {size} B, {in_flight} in flight: {rate}/s{p50}{p99}");
        self.samples.add(name, work, size, in_flight, sample);
    }

    fn note(&mut self, text: &str) {
        let note = format!("{}: {text}", self.system.about().name);
        if !self.notes.contains(&note) {
            eprintln!("bench: {note}");
            self.notes.push(note);
        }
    }

    /// Publishes for a while, or so many; gives what it took.
    async fn publish_for(
        &self,
        topic: &str,
        size: usize,
        in_flight: usize,
        time: Duration,
        most: u64,
    ) -> Result<(u64, Sample), Failure> {
        let mut publisher = self.server.publisher(topic, in_flight).await?;
        let meter = Meter::start(self.server);
        let mut feed = Feed::lasting(size, time, most.min(MOST_BYTES / size as u64));
        publisher.run(&mut feed).await?;
        Ok((feed.acknowledged(), meter.stop(feed.acknowledged(), Some(feed.latencies()))))
    }

    /// Publishing, and then consuming with an acknowledgement of each message.
    pub(crate) async fn publish_and_consume(
        &mut self,
        size: usize,
        windows: &[usize],
    ) -> Result<(), Failure> {
        let topic = self.topic.clone();
        self.server.create(&topic, &[]).await?;
        let warm = self.time.mul_f64(0.15);
        let (mut stored, _) = self.publish_for(&topic, size, 64, warm, u64::MAX).await?;
        for &in_flight in windows {
            let (count, sample) = self.publish_for(&topic, size, in_flight, self.time, u64::MAX).await?;
            stored += count;
            self.add("publish", size, in_flight, sample);
        }
        let share = stored / windows.len() as u64;
        // The largest window first: it needs the most messages.
        for &in_flight in windows.iter().rev() {
            let subscription = format!("{topic}-{in_flight}");
            self.server.subscribe(&topic, &subscription).await?;
            let mut consumer = self.server.consumer(&topic, &subscription, in_flight).await?;
            let sample = self.consume(&mut *consumer, share, self.time).await?;
            self.add("consume", size, in_flight, sample);
        }
        Ok(())
    }

    /// Consumes so many, or for so long, from the second run of messages on.
    async fn consume(
        &self,
        consumer: &mut dyn Consumer,
        most: u64,
        time: Duration,
    ) -> Result<Sample, Failure> {
        let mut ack = |_: &[u8]| Verdict::Ack;
        let mut first = 0;
        for _ in 0..10 {
            first = consumer.take(&mut ack).await?;
            if first > 0 {
                break;
            }
        }
        if first == 0 {
            return Err("no message came within ten seconds".into());
        }
        let meter = Meter::start(self.server);
        let start = Instant::now();
        let (mut taken, mut last) = (0, start);
        while first + taken < most && start.elapsed() < time {
            let now = consumer.take(&mut ack).await?;
            if now == 0 {
                break;
            }
            taken += now;
            last = Instant::now();
        }
        let finishing = Instant::now();
        consumer.finish().await?;
        let seconds = (last - start) + finishing.elapsed();
        Ok(meter.stop_after(seconds.as_secs_f64(), taken, None))
    }

    /// From the moment a message is due to be sent until the consumer has it, at a moderate rate.
    pub(crate) async fn latency(&mut self, size: usize) -> Result<(), Failure> {
        const IN_FLIGHT: usize = 4000;
        let topic = self.topic.clone();
        self.server.create(&topic, std::slice::from_ref(&topic)).await?;
        let mut consumer = self.server.consumer(&topic, &topic, IN_FLIGHT).await?;
        let mut publisher = self.server.publisher(&topic, IN_FLIGHT).await?;
        let time = self.time * 2;
        let origin = Instant::now();
        let warm = u64::try_from(time.mul_f64(0.2).as_nanos())?;
        let mut feed = Feed::paced(size, time, PACE, origin);
        let meter = Meter::start(self.server);
        let published = Arc::new(OnceCell::new());
        let told = published.clone();
        let consuming = tokio::spawn(async move {
            let mut latencies = Latencies::default();
            let mut handler = |payload: &[u8]| {
                let due = stamp(payload);
                if due > warm {
                    latencies.add((origin + Duration::from_nanos(due)).elapsed());
                }
                Verdict::Ack
            };
            let (taken, last) = consume_all(&mut *consumer, &told, &mut handler).await?;
            Ok::<_, Failure>((taken, last - origin, latencies))
        });
        publisher.run(&mut feed).await?;
        published.set(feed.acknowledged())?;
        let (taken, took, latencies) = consuming.await??;
        let sample = meter.stop_after(took.as_secs_f64(), taken, Some(&latencies));
        if sample.rate.is_some_and(|rate| rate < 0.9 * PACE as f64) {
            self.note("cannot hold 20,000 messages/s: its latency there is the time its publisher waits");
        }
        self.add("latency", size, IN_FLIGHT, sample);
        Ok(())
    }

    /// A topic with so many subscriptions, each of which consumes everything while it is published.
    pub(crate) async fn subscriptions(&mut self, count: usize) -> Result<(), Failure> {
        const SIZE: usize = 128;
        const IN_FLIGHT: usize = 1024;
        let deliveries = if self.quick { 100_000 } else { 1_000_000 };
        let topic = format!("fan-{count}");
        let names: Vec<String> = (0..count).map(|number| format!("fan-{count}-{number}")).collect();
        self.server.create(&topic, &names).await?;
        let mut consumers = Vec::new();
        for name in &names {
            consumers.push(self.server.consumer(&topic, name, 256).await?);
        }
        let mut publisher = self.server.publisher(&topic, IN_FLIGHT).await?;
        let published = Arc::new(OnceCell::new());
        let meter = Meter::start(self.server);
        let start = Instant::now();
        let mut all = JoinSet::new();
        for mut consumer in consumers {
            let published = published.clone();
            all.spawn(async move { consume_all(&mut *consumer, &published, &mut |_| Verdict::Ack).await });
        }
        let mut feed = Feed::lasting(SIZE, self.time, deliveries / count as u64);
        publisher.run(&mut feed).await?;
        published.set(feed.acknowledged())?;
        let (mut taken, mut last) = (0, start);
        while let Some(done) = all.join_next().await {
            let (count, at) = done??;
            taken += count;
            last = last.max(at);
        }
        let sample = meter.stop_after((last - start).as_secs_f64(), taken, None);
        let plural = if count == 1 { "" } else { "s" };
        self.add(&format!("{count} subscription{plural}"), SIZE, IN_FLIGHT, sample);
        Ok(())
    }

    /// What thousands of topics cost that nobody uses: memory, and the rate of one that is used.
    pub(crate) async fn topics(&mut self) -> Result<(), Failure> {
        const SIZE: usize = 128;
        const IN_FLIGHT: usize = 1024;
        let (wanted, within) =
            if self.quick { (1_000, Duration::from_secs(3)) } else { (10_000, Duration::from_secs(45)) };
        let topic = self.topic.clone();
        self.server.create(&topic, &[]).await?;
        let _ = self.publish_for(&topic, SIZE, IN_FLIGHT, self.time / 2, u64::MAX).await?;
        let idle = |server: &dyn Server| server.usage().map(|usage| usage.rss);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = idle(self.server);
        let (_, sample) = self.publish_for(&topic, SIZE, IN_FLIGHT, self.time, u64::MAX).await?;
        self.add("1 topic", SIZE, IN_FLIGHT, Sample { rss: before, ..sample });

        let start = Instant::now();
        let server = self.server;
        let names = (0..wanted).map(|number| async move {
            if start.elapsed() > within {
                return Ok(false);
            }
            server.create(&format!("idle-{number:05}"), &[format!("idle-{number:05}")]).await.map(|()| true)
        });
        let mut making = futures::stream::iter(names).buffer_unordered(16);
        let mut made = 0;
        while let Some(done) = making.next().await {
            made += u32::from(done?);
        }
        drop(making);
        let took = start.elapsed().as_secs_f64();
        if made < wanted {
            self.note(&format!("made only {made} of {wanted} topics with a subscription in {took:.0} s"));
        } else {
            self.note(&format!("made {made} topics with a subscription in {took:.1} s"));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = idle(self.server);
        let (_, sample) = self.publish_for(&topic, SIZE, IN_FLIGHT, self.time, u64::MAX).await?;
        self.add(&format!("{wanted} topics"), SIZE, IN_FLIGHT, Sample { rss: after, ..sample });
        Ok(())
    }

    /// Millions of messages that wait: publishing behind them, and then taking them.
    pub(crate) async fn backlog(&mut self) -> Result<(), Failure> {
        const SIZE: usize = 128;
        const IN_FLIGHT: usize = 4000;
        let (wanted, fill, drain) = if self.quick {
            (100_000, Duration::from_secs(2), Duration::from_secs(2))
        } else {
            (10_000_000, Duration::from_secs(90), Duration::from_secs(30))
        };
        let topic = self.topic.clone();
        self.server.create(&topic, std::slice::from_ref(&topic)).await?;
        let _ = self.publish_for(&topic, SIZE, 1024, self.time / 2, wanted).await?;
        let (_, sample) = self.publish_for(&topic, SIZE, 1024, self.time, wanted).await?;
        self.add("publish, no backlog", SIZE, 1024, sample);
        let (waiting, sample) = self.publish_for(&topic, SIZE, IN_FLIGHT, fill, wanted).await?;
        self.add("fill a backlog", SIZE, IN_FLIGHT, sample);
        if waiting < wanted {
            self.note(&format!("its backlog is {waiting} messages: all it took in {} s", fill.as_secs()));
        }
        let (_, sample) = self.publish_for(&topic, SIZE, 1024, self.time, wanted).await?;
        // A short run has no such backlog as the aims speak of.
        self.add(if self.quick { "publish, small backlog" } else { "publish, backlog" }, SIZE, 1024, sample);
        let mut consumer = self.server.consumer(&topic, &topic, IN_FLIGHT).await?;
        let sample = self.consume(&mut *consumer, waiting, drain).await?;
        self.add("drain a backlog", SIZE, IN_FLIGHT, sample);
        Ok(())
    }

    /// Every message fails a few times before it succeeds; counted are deliveries.
    pub(crate) async fn storm(&mut self) -> Result<(), Failure> {
        const SIZE: usize = 128;
        const IN_FLIGHT: usize = 1024;
        if !self.system.about().redelivers {
            self.note("has no redelivery of a single message: no storm");
            return Ok(());
        }
        let wanted = if self.quick { 5_000 } else { 50_000 };
        let topic = self.topic.clone();
        self.server.create(&topic, std::slice::from_ref(&topic)).await?;
        let mut publisher = self.server.publisher(&topic, IN_FLIGHT).await?;
        let mut feed = Feed::lasting(SIZE, Duration::from_secs(10), wanted).numbered();
        publisher.run(&mut feed).await?;
        let messages = feed.acknowledged();
        let mut failed = vec![0_u8; usize::try_from(messages)?];
        let mut consumer = self.server.consumer(&topic, &topic, IN_FLIGHT).await?;
        let meter = Meter::start(self.server);
        let start = Instant::now();
        let (mut done, mut deliveries, mut idle) = (0, 0, 0);
        while done < messages {
            let now = consumer
                .take(&mut |payload: &[u8]| {
                    let number = usize::try_from(stamp(payload)).unwrap_or(usize::MAX);
                    match failed.get_mut(number) {
                        Some(times) if *times < FAILURES => {
                            *times += 1;
                            Verdict::Fail
                        }
                        _ => {
                            done += 1;
                            Verdict::Ack
                        }
                    }
                })
                .await?;
            deliveries += now;
            idle = if now == 0 { idle + 1 } else { 0 };
            if idle > 10 || start.elapsed() > Duration::from_secs(60) {
                return Err(format!("only {done} of {messages} messages were done").into());
            }
        }
        consumer.finish().await?;
        self.add("redelivery storm", SIZE, IN_FLIGHT, meter.stop(deliveries, None));
        Ok(())
    }
}

/// Consumes until it has as many as were published, which is known later; gives how many, and when the last came.
async fn consume_all(
    consumer: &mut dyn Consumer,
    published: &OnceCell<u64>,
    handler: &mut Handler<'_>,
) -> Result<(u64, Instant), Failure> {
    let (mut taken, mut last) = (0, Instant::now());
    while published.get().is_none_or(|all| taken < *all) {
        let now = consumer.take(handler).await?;
        taken += now;
        if now > 0 {
            last = Instant::now();
        } else if published.initialized() && last.elapsed() > Duration::from_secs(20) {
            return Err(format!("only {taken} of {published:?} messages came").into());
        }
    }
    consumer.finish().await?;
    Ok((taken, last))
}
