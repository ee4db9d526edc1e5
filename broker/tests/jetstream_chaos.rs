//! Three engines, each a process of its own, on a cluster of three nats-servers, under load, while one thing after the other
//! goes wrong. What each reports is held against what is there in the end.
//!
//! `CROSSDOCK_CHAOS_ROUNDS` says how many faults (4 unless said; there are 8 kinds), `CROSSDOCK_CHAOS_SEED` with which
//! of them it begins.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "jetstream_chaos/consumed.rs"]
mod consumed;
#[path = "jetstream_chaos/engine.rs"]
mod engine;
#[path = "jetstream_chaos/judge.rs"]
mod judge;
#[path = "jetstream_chaos/load.rs"]
mod load;

use std::time::Duration;

use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::{Nats, eventually};
use crossdock_topics::{
    Broker, Durability, Expect, Log, Order, Subscription, SubscriptionName, Subscriptions, Topic,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use engine::Engine;
use judge::Judge;

/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(90);
/// The topic that is published to.
const TOPIC: &str = "orders";

/// How many subscriptions there are, of which all engines consume; each is owned by one of them.
const SUBSCRIPTIONS: usize = 3;

fn subscription(number: usize) -> SubscriptionName {
    format!("billing-{number}").parse().unwrap()
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillNats,
    KillLeader,
    HaltNats,
    CutOffNats,
    CutOffLeader,
    KillEngine,
    HaltEngine,
    RollingRestart,
}

const FAULTS: [Fault; 8] = [
    Fault::KillEngine,
    Fault::KillLeader,
    Fault::HaltEngine,
    Fault::KillNats,
    Fault::CutOffNats,
    Fault::RollingRestart,
    Fault::CutOffLeader,
    Fault::HaltNats,
];

/// The process that is killed; run by the test below, and not by itself.
#[test]
#[ignore = "is run by the other test"]
fn the_engine() {
    load::run();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_goes_wrong() {
    let setting = |name: &str, value: u64| std::env::var(name).map_or(value, |text| text.parse().unwrap());
    let rounds = setting("CROSSDOCK_CHAOS_ROUNDS", 4);
    let seed = setting("CROSSDOCK_CHAOS_SEED", 0);
    eprintln!("CROSSDOCK_CHAOS_SEED={seed}, {rounds} faults");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut nats = Nats::cuttable(3).await;
    let broker = JetStream::open(JetStreamOptions::new(&nats.url()).unwrap()).await.unwrap();
    let mut topic = Topic::new(TOPIC.parse().unwrap());
    topic.durability = Durability::Quorum(3);
    broker.put_topic(topic, Expect::Any).await.unwrap();
    for number in 0..SUBSCRIPTIONS {
        let mut subscription = Subscription::new(subscription(number), vec![TOPIC.parse().unwrap()]);
        subscription.order = Order::Key;
        broker.put_subscription(subscription, Expect::Any).await.unwrap();
    }
    // Those who are killed own everything.
    broker.close().await;
    let mut judge = Judge::new();
    let mut engines: Vec<Engine> = (0..3).map(|number| judge.start(&nats.url(), number)).collect();
    judge.until_all_work().await;
    for round in 0..rounds {
        let fault = FAULTS[(round as usize + (seed as usize)) % FAULTS.len()];
        let node = dice.random_range(0..3);
        let began = judge.since();
        happen(fault, node, &mut nats, &mut engines, &mut judge).await;
        let mended = judge.since();
        judge.until_all_work().await;
        let after = judge.since() - mended;
        eprintln!(
            "{fault:?} {node} for {:.1} s; all worked again {after:.1} s after its end",
            mended - began
        );
    }
    for engine in engines {
        engine.stop();
    }
    // NATS may be without a leader just now.
    let broker = eventually("an engine to be opened", PATIENCE, || async {
        JetStream::open(JetStreamOptions::new(&nats.url()).unwrap()).await.ok()
    })
    .await;
    judge.judge(&broker).await;
    broker.close().await;
}

/// Lets it happen, sees to it that all work while one nats-server is missing, and mends it.
async fn happen(fault: Fault, node: usize, nats: &mut Nats, engines: &mut [Engine], judge: &mut Judge) {
    let node =
        if matches!(fault, Fault::KillLeader | Fault::CutOffLeader) { leader(nats).await } else { node };
    let began = judge.since();
    match fault {
        Fault::KillNats | Fault::KillLeader => {
            nats.kill(node).await;
            judge.until_all_work().await;
            eprintln!("without n{node} all worked after {:.1} s", judge.since() - began);
            nats.restart(node).await;
        }
        Fault::HaltNats => {
            nats.halt(node).await;
            judge.until_all_work().await;
            eprintln!("with n{node} halted all worked after {:.1} s", judge.since() - began);
            nats.resume(node).await;
        }
        Fault::CutOffNats | Fault::CutOffLeader => {
            nats.cut_off(node);
            // What is on its way may still arrive.
            tokio::time::sleep(Duration::from_secs(1)).await;
            judge.until_all_work().await;
            eprintln!("with n{node} cut off all worked after {:.1} s", judge.since() - began);
            nats.mend();
        }
        Fault::KillEngine => {
            engines[node].kill();
            tokio::time::sleep(Duration::from_secs(2)).await;
            engines[node] = judge.start(&nats.url(), node);
        }
        Fault::HaltEngine => {
            engines[node].halt();
            // Longer than its lease lasts.
            tokio::time::sleep(Duration::from_secs(12)).await;
            engines[node].resume();
        }
        Fault::RollingRestart => {
            for node in 0..nats.len() {
                nats.kill(node).await;
                nats.restart(node).await;
            }
            for (number, engine) in engines.iter_mut().enumerate() {
                engine.kill();
                *engine = judge.start(&nats.url(), number);
                judge.until_all_work().await;
            }
        }
    }
}

/// The server that leads the store's stream.
async fn leader(nats: &Nats) -> usize {
    let url = nats.url();
    let servers: Vec<&str> = url.trim_start_matches("nats://").split(',').collect();
    let context = async_nats::jetstream::new(async_nats::connect(servers).await.unwrap());
    eventually("the store to have a leader", PATIENCE, || async {
        let info = context.get_stream("KV_crossdock-store").await.ok()?.cached_info().clone();
        info.cluster?.leader.map(|name| nats.named(&name))
    })
    .await
}
