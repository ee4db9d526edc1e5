//! Three nats-servers and three servers, each a process of its own, at work on everything at once, while one thing after
//! the other goes wrong with them: killed, halted, cut off from each other, restarted one by one.
//!
//! `CROSSDOCK_CHAOS_FAULTS` says how many faults (3 unless said; there are 8 kinds), `CROSSDOCK_CHAOS_SEED` with which of
//! them it begins. What `crossdock verify` sees meanwhile is judged by itself; what clients of the gateways, a service and
//! whoever deploys it see, here.

mod work;

use std::time::{Duration, Instant};

use crossdock_tests::{Nats, Servers, eventually};
use work::Work;

/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillServer,
    KillNatsLeader,
    HaltServer,
    CutOffNats,
    KillNats,
    HaltNats,
    RollingRestart,
    CutOffNatsLeader,
}

const FAULTS: [Fault; 8] = [
    Fault::KillServer,
    Fault::KillNatsLeader,
    Fault::HaltServer,
    Fault::CutOffNats,
    Fault::KillNats,
    Fault::HaltNats,
    Fault::RollingRestart,
    Fault::CutOffNatsLeader,
];

/// Everything there is.
struct Ground {
    nats: Nats,
    servers: Servers,
    /// How long something is halted.
    halt: Duration,
}

fn setting(name: &str, value: usize) -> usize {
    std::env::var(name).map_or(value, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_three_of_each_when_any_of_them_fail_should_lose_nothing_and_go_on() {
    let (faults, seed) = (setting("CROSSDOCK_CHAOS_FAULTS", 3), setting("CROSSDOCK_CHAOS_SEED", 0));
    let nats = Nats::cuttable(3).await;
    let servers = Servers::start(env!("CARGO_BIN_EXE_crossdock"), &nats.url(), 3).await;
    // Longer than it takes until a server is taken for gone; in a long run as long as a bad pause of a machine.
    let halt = Duration::from_secs(if faults > FAULTS.len() { 20 } else { 10 });
    let mut ground = Ground { nats, servers, halt };
    let work = Work::start(&ground.servers, &ground.nats.url()).await;
    work.until_all_work(&ground.servers).await;
    for number in seed..seed + faults {
        let fault = FAULTS[number % FAULTS.len()];
        let began = Instant::now();
        let what = ground.suffer(fault, number % 3, &work).await;
        let mended = Instant::now();
        work.until_all_work(&ground.servers).await;
        let after = mended.elapsed();
        work.until_deployed().await;
        eprintln!(
            "{fault:?}: {what}; over after {:.1} s, all worked {:.1} s later, and two deployments were through {:.1} s later",
            (mended - began).as_secs_f64(),
            after.as_secs_f64(),
            mended.elapsed().as_secs_f64()
        );
    }
    work.end(&ground.servers).await;
    ground.servers.stop_all().await;
}

impl Ground {
    /// Lets it happen and ends it; gives how long it took until all others worked meanwhile, in words.
    async fn suffer(&mut self, fault: Fault, number: usize, work: &Work) -> String {
        let node = match fault {
            Fault::KillNatsLeader | Fault::CutOffNatsLeader => self.leader().await,
            _ => number,
        };
        let began = Instant::now();
        let without =
            |work: &str| format!("{work} the others worked after {:.1} s", began.elapsed().as_secs_f64());
        match fault {
            Fault::KillServer => {
                self.servers.kill(node).await;
                work.until_all_work(&self.servers).await;
                let said = without("without it");
                self.servers.restart(node).await;
                said
            }
            Fault::HaltServer => {
                self.servers.halt(node).await;
                tokio::time::sleep(self.halt).await;
                self.servers.resume(node).await;
                format!("halted for {} s", self.halt.as_secs())
            }
            Fault::KillNats | Fault::KillNatsLeader => {
                self.nats.kill(node).await;
                work.until_all_work(&self.servers).await;
                let said = without("without it");
                self.nats.restart(node).await;
                said
            }
            Fault::HaltNats => {
                self.nats.halt(node).await;
                tokio::time::sleep(self.halt).await;
                work.until_all_work(&self.servers).await;
                let said = without("with it halted");
                self.nats.resume(node).await;
                said
            }
            Fault::CutOffNats | Fault::CutOffNatsLeader => {
                self.nats.cut_off(node);
                // What is on its way may still arrive.
                tokio::time::sleep(Duration::from_secs(1)).await;
                work.until_all_work(&self.servers).await;
                let said = without("with it cut off");
                self.nats.mend();
                said
            }
            Fault::RollingRestart => {
                for node in 0..self.nats.len() {
                    self.nats.kill(node).await;
                    self.nats.restart(node).await;
                    work.until_all_work(&self.servers).await;
                }
                for number in 0..self.servers.len() {
                    self.servers.stop(number).await;
                    self.servers.restart(number).await;
                    work.until_all_work(&self.servers).await;
                }
                "each server of both kinds, one after the other".into()
            }
        }
    }

    /// The nats-server that leads the store.
    async fn leader(&self) -> usize {
        eventually("the store to have a leader", PATIENCE, || self.nats.leader_of("KV_crossdock-store")).await
    }
}
