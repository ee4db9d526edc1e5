//! Hears what the engines report, and holds it against what is there in the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crossdock_broker::JetStream;
use crossdock_tests::eventually;
use crossdock_topics::{Log, StartAt, Store};

use super::consumed::Ledger;
use super::engine::{Consumed, Engine, Orders, Report, Step};
use super::{PATIENCE, TOPIC};

/// What was reported.
pub(crate) struct Judge {
    began: Instant,
    sender: Sender<(String, Report)>,
    reports: Receiver<(String, Report)>,
    /// How often each engine was started, and the name of its life.
    lives: [u32; 3],
    published: HashMap<(String, u64), u64>,
    counted: HashSet<u64>,
    uncertain: HashSet<u64>,
    led: BTreeMap<u64, (u64, String)>,
    answered: u64,
    failed: BTreeMap<String, u64>,
    longest: u64,
    ledger: Ledger,
}

impl Judge {
    pub(crate) fn new() -> Self {
        let (sender, reports) = channel();
        Self {
            began: Instant::now(),
            sender,
            reports,
            lives: [0; 3],
            published: HashMap::new(),
            counted: HashSet::new(),
            uncertain: HashSet::new(),
            led: BTreeMap::new(),
            answered: 0,
            failed: BTreeMap::new(),
            longest: 0,
            ledger: Ledger::default(),
        }
    }

    /// The seconds since the beginning.
    pub(crate) fn since(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Starts an engine, anew with another name.
    pub(crate) fn start(&mut self, url: &str, number: usize) -> Engine {
        self.lives[number] += 1;
        let orders = Orders { url: url.into(), name: self.name(number) };
        Engine::start(&orders, self.sender.clone())
    }

    fn name(&self, number: usize) -> String {
        format!("e{number}.{}", self.lives[number])
    }

    /// Waits until each engine does everything, from now on.
    pub(crate) async fn until_all_work(&mut self) {
        while let Ok((name, report)) = self.reports.try_recv() {
            self.enter(name, report);
        }
        let end = Instant::now() + PATIENCE;
        let mut working: HashMap<String, [bool; 4]> = HashMap::new();
        loop {
            while let Ok((name, report)) = self.reports.try_recv() {
                let does = working.entry(name.clone()).or_default();
                match report {
                    Report::Published(..) => does[0] = true,
                    Report::Counted(_) => does[1] = true,
                    Report::Answered(_) => does[2] = true,
                    Report::Consumed(Consumed { what: Step::Settled(_), .. }) => does[3] = true,
                    _ => {}
                }
                self.enter(name, report);
            }
            let all = (0..3).all(|number| working.get(&self.name(number)) == Some(&[true; 4]));
            if all {
                return;
            }
            assert!(Instant::now() < end, "after {PATIENCE:?} not all engines work again: {working:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn enter(&mut self, name: String, report: Report) {
        match report {
            Report::Published(number, offset) => {
                assert_eq!(self.published.insert((name, number), offset), None);
            }
            Report::Counted(value) => {
                assert!(self.counted.insert(value), "{name}: the counter was raised to {value} twice");
            }
            Report::Uncertain(value) => drop(self.uncertain.insert(value)),
            Report::Led(from, to) => drop(self.led.insert(to, (from, name))),
            Report::Answered(took) => {
                self.answered += 1;
                self.longest = self.longest.max(took);
            }
            Report::Failed(code, took) => {
                assert_ne!(code, "timeout", "{name}: a request waited until its time was up");
                *self.failed.entry(code).or_default() += 1;
                self.longest = self.longest.max(took);
            }
            Report::Consumed(consumed) => self.ledger.enter(&name, consumed),
        }
    }

    /// Everything that was acknowledged is there, once and in its order; nobody led while another one did.
    pub(crate) async fn judge(mut self, broker: &JetStream) {
        while let Ok((name, report)) = self.reports.try_recv() {
            self.enter(name, report);
        }
        let mut found: HashMap<(String, u64), u64> = HashMap::new();
        let mut last: HashMap<String, u64> = HashMap::new();
        let mut keys: HashMap<String, Vec<u64>> = HashMap::new();
        let (topic, mut next) = (TOPIC.parse().unwrap(), 0);
        // What a nats-server that was just started again does not have yet is not lost: the leader knows where the topic ends.
        let tail = eventually("the topic", PATIENCE, || async { broker.topic(&topic).await.ok() }).await.tail;
        while next < tail {
            let page = eventually("the topic", PATIENCE, || async {
                broker.read(&topic, StartAt::Offset(next), 10_000, PATIENCE).await.ok()
            })
            .await;
            assert!(
                !page.messages.is_empty(),
                "the topic ends at {tail}, and nothing is to be read from {next} on"
            );
            next = page.next;
            for message in page.messages {
                let text = String::from_utf8(message.record.payload().to_vec()).unwrap();
                let (name, number) = text.split_once(' ').unwrap();
                let number: u64 = number.parse().unwrap();
                let before = last.insert(name.to_owned(), number);
                assert!(before.is_none_or(|before| before < number), "{text} after {before:?}");
                found.insert((name.to_owned(), number), message.offset);
                let key = message.record.key().unwrap().to_owned();
                keys.entry(key).or_default().push(message.offset);
            }
        }
        for (what, offset) in &self.published {
            assert_eq!(found.get(what), Some(offset), "{what:?} was acknowledged; the topic ends at {tail}");
        }
        self.ledger.judge(broker, &keys).await;
        let counter =
            eventually("the counter", PATIENCE, || async { broker.get("counter").await.ok() }).await;
        let counter = counter.unwrap().value;
        let counter: u64 = std::str::from_utf8(&counter).unwrap().parse().unwrap();
        let reported = |value: &u64| self.counted.contains(value) || self.uncertain.contains(value);
        let unreported: Vec<u64> = (1..=counter).filter(|value| !reported(value)).collect();
        // Every life of an engine has ended with a kill, the last ones just now: it may not have come to say so.
        let kills = self.lives.iter().sum::<u32>() as usize;
        assert!(
            unreported.len() <= kills,
            "nobody raised the counter, now {counter}, to {unreported:?}, with {kills} kills"
        );
        assert!(self.counted.iter().all(|value| *value <= counter), "the counter is {counter}");
        let mut before: Option<(u64, String)> = None;
        for (to, (from, name)) in &self.led {
            if let Some((until, other)) = &before {
                assert!(name == other || from >= until, "{other} led until {until}, and {name} from {from}");
            }
            before = Some((*to, name.clone()));
        }
        eprintln!(
            "{} messages and {counter} counts acknowledged, {} uncertain; led {} times; {} requests answered, failed: {:?}, \
             the longest took {} ms",
            self.published.len(),
            self.uncertain.len(),
            self.led.len(),
            self.answered,
            self.failed,
            self.longest
        );
    }
}
