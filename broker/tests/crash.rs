//! A process under load is killed again and again, and nothing that was acknowledged is lost.
//!
//! The child (this same binary, told so by an environment variable) opens the directory as the last kill left
//! it, reports what it finds there, then publishes, consumes and writes to the store under load, and reports
//! each acknowledgement on its standard output after it has got it. The parent kills it with SIGKILL at a
//! random moment and holds the next child's findings against all reports so far. The directory is never
//! closed cleanly before the end.
//!
//! `CROSSDOCK_CRASH_KILLS` says how many kills (50 unless said), `CROSSDOCK_CRASH_SEED` which ones.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "crash/child.rs"]
mod child;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/report.rs"]
mod report;
mod scratch;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ledger::Ledger;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use report::Report;

/// How long a child may take to open what the last one left, and to store something.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn nothing_acknowledged_is_lost_by_a_kill() {
    let setting = |name: &str, value: u64| std::env::var(name).map_or(value, |text| text.parse().unwrap());
    let kills = setting("CROSSDOCK_CRASH_KILLS", 50);
    let seed = setting("CROSSDOCK_CRASH_SEED", u64::from(std::process::id()));
    eprintln!("CROSSDOCK_CRASH_SEED={seed}, {kills} kills");
    let mut dice = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..kills {
        // Mostly well under load, but also while it still recovers, and with its first write.
        let after = match dice.random_range(0..8) {
            0 => After::Start,
            1 => After::Opening,
            _ => After::FirstReceipt,
        };
        let wait = Duration::from_millis(dice.random_range(0..200));
        ledger.begin(round);
        for report in run_and_kill(&ledger.orders(directory.path(), round), after, wait) {
            ledger.enter(report);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(ledger.close(directory.path()));
    eprintln!("{}", ledger.summary());
}

/// From when on it is counted how long a child may live.
#[derive(Clone, Copy)]
enum After {
    Start,
    Opening,
    FirstReceipt,
}

/// Runs a child until it is killed, and gives what it reported.
fn run_and_kill(orders: &report::Orders, after: After, wait: Duration) -> Vec<Report> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child", "--include-ignored", "--nocapture"])
        .env(report::ORDERS, serde_json::to_string(orders).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        // What was cut off in the middle of a line was not reported.
        while stdout.read_until(b'\n', &mut line).unwrap() > 0 && line.ends_with(b"\n") {
            if let Some(report) = Report::parse(&String::from_utf8_lossy(&line)) {
                let _ = sender.send(report);
            }
            line.clear();
        }
    });
    let mut reports = Vec::new();
    let mut wait_for = |limit: Duration, expected: &dyn Fn(&Report) -> bool| {
        let end = Instant::now() + limit;
        while let Ok(report) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            let found = expected(&report);
            reports.push(report);
            if found {
                return true;
            }
        }
        false
    };
    let came = match after {
        After::Start => true,
        After::Opening => wait_for(PATIENCE, &|report| *report == Report::Ready),
        After::FirstReceipt => wait_for(PATIENCE, &|report| matches!(report, Report::Receipts { .. })),
    };
    wait_for(wait, &|_| false);
    let gone = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    reports.extend(lines.try_iter());
    assert!(came, "the child did not open the directory, or stored nothing, within {PATIENCE:?}");
    assert!(gone.is_none(), "the child ended by itself: {gone:?}; the last it said: {:?}", reports.last());
    reports
}

#[test]
#[ignore = "the process that is killed; the other test starts it"]
fn the_child() {
    if let Ok(orders) = std::env::var(report::ORDERS) {
        child::run(&serde_json::from_str(&orders).unwrap());
    }
}
