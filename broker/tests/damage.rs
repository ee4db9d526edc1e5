//! Damaged files: refused with words, or everything is there; never silently wrong.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{
    Batch, Broker, Durability, Error, Expect, Fetch, Log, Settlement, Store, Subscription, Subscriptions,
    Topic, TopicName,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

const TOPICS: [(&str, Durability); 3] =
    [("synced", Durability::Fsync), ("written", Durability::Os), ("late", Durability::Fsync)];

fn content(topic: &str, n: usize) -> String {
    // Random enough that compression leaves something to damage.
    let mut dice = StdRng::seed_from_u64(n as u64);
    let noise: String = (0..60).map(|_| char::from(dice.random_range(b'a'..=b'z'))).collect();
    format!("{topic} {n} {noise}")
}

/// Publishes so many messages to a topic, from its end on.
async fn publish(broker: &Embedded, topic: &str, count: usize) {
    let name: TopicName = topic.parse().unwrap();
    let from = usize::try_from(broker.topic(&name).await.unwrap().tail).unwrap();
    for run in (from..from + count).collect::<Vec<_>>().chunks(10) {
        let mut batch = Batch::default();
        for n in run {
            batch.push(&scratch::message(content(topic, *n))).unwrap();
        }
        broker.publish(&name, batch, Default::default()).await.unwrap();
    }
}

/// A directory as a killed broker leaves it, after some restarts, so that there are files of every kind. Gives
/// how many messages each topic holds.
async fn directory() -> (TempDir, [(&'static str, usize); 3]) {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let broker = scratch::open(dir.path()).await.unwrap();
        for (topic, durability) in TOPICS {
            let topic = Topic { durability, ..Topic::new(topic.parse().unwrap()) };
            broker.put_topic(topic, Expect::Any).await.unwrap();
        }
        let topics = vec!["synced".parse().unwrap()];
        broker
            .put_subscription(Subscription::new("sub".parse().unwrap(), topics), Expect::Any)
            .await
            .unwrap();
        publish(&broker, "synced", 200).await;
        publish(&broker, "written", 200).await;
        broker.put(&format!("key/{round}"), "value".into(), Expect::Any, None).await.unwrap();
        let sub = "sub".parse().unwrap();
        let taken = broker.fetch(&sub, Fetch::new(None, 50, Duration::from_secs(10))).await.unwrap();
        broker.settle(&sub, Settlement::ack(taken.iter().map(|d| d.id))).await.unwrap();
        broker.close().await;
    }
    let broker = scratch::open(dir.path()).await.unwrap();
    publish(&broker, "synced", 100).await;
    publish(&broker, "written", 100).await;
    publish(&broker, "late", 100).await;
    let killed = tempfile::tempdir().unwrap();
    scratch::copy(dir.path(), killed.path()).unwrap();
    broker.close().await;
    (killed, [("synced", 700), ("written", 700), ("late", 100)])
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// What a damaged directory still gives.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Refused(String),
    Everything,
    /// This topic holds only so many.
    Prefix(&'static str, usize),
}

/// Opens a directory and reads everything. What is read must be right, from the first message on.
async fn examine(dir: &Path, expected: [(&'static str, usize); 3]) -> Result<Found, Error> {
    let broker = match scratch::open(dir).await {
        Ok(broker) => broker,
        Err(error) => return Ok(Found::Refused(error.to_string())),
    };
    let found = read_everything(&broker, expected).await;
    broker.close().await;
    match found {
        Ok(found) => Ok(found),
        Err(error) => Ok(Found::Refused(error.to_string())),
    }
}

async fn read_everything(broker: &Embedded, expected: [(&'static str, usize); 3]) -> Result<Found, Error> {
    let mut shorter = Found::Everything;
    for (topic, count) in expected {
        let stored = scratch::read_all(broker, &topic.parse().unwrap()).await?;
        for (n, message) in stored.iter().enumerate() {
            assert_eq!(message.offset, n as u64, "{topic}: a hole");
            assert_eq!(scratch::text(message), content(topic, n), "{topic}/{n}: silently wrong");
        }
        assert!(stored.len() <= count, "{topic}: more than there ever was");
        let tail = broker.topic(&topic.parse().unwrap()).await?.tail;
        assert_eq!(tail, stored.len() as u64, "{topic}: what is said and what is there differ");
        if stored.len() < count && shorter == Found::Everything {
            shorter = Found::Prefix(topic, stored.len());
        }
    }
    Ok(shorter)
}

/// The kind of a file, by its name.
fn kind(file: &Path) -> &'static str {
    let name = file.file_name().unwrap().to_string_lossy();
    match () {
        () if name.ends_with(".log") => "wal",
        () if name.ends_with(".sst") => "sst",
        () if name.ends_with(".blob") => "blob",
        () if name.starts_with("MANIFEST") => "manifest",
        () if name == "CURRENT" => "current",
        () if name.starts_with("OPTIONS") => "options",
        () => "other",
    }
}

fn flip(file: &Path, at: u64, bit: u8) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ (1 << bit)]).unwrap();
}

/// Damages each file of a directory in several places, one at a time, and checks what is found then.
async fn damage_each(
    what: &str,
    damage: impl Fn(&Path, u64, &mut StdRng) -> String,
) -> BTreeSet<&'static str> {
    let (whole, expected) = directory().await;
    assert_eq!(
        examine(scratch_copy(&whole).path(), expected).await.unwrap(),
        Found::Everything,
        "the directory is not whole to begin with"
    );
    let mut dice = StdRng::seed_from_u64(1);
    let mut kinds = BTreeSet::new();
    for file in files(whole.path()) {
        let length = fs::metadata(&file).unwrap().len();
        let kind = kind(&file);
        let relative = file.strip_prefix(whole.path()).unwrap();
        for _ in 0..if length == 0 { 0 } else { 8 } {
            let copy = scratch_copy(&whole);
            let where_to = damage(&copy.path().join(relative), length, &mut dice);
            let case = format!("{what} {} {where_to}", relative.display());
            let found = examine(copy.path(), expected).await.unwrap();
            eprintln!("{case}: {found:?}");
            match found {
                Found::Refused(why) => {
                    assert!(why.len() > 20, "{case}: refused without words: {why:?}");
                    assert!(!why.contains("process"), "{case}: nobody else uses it: {why:?}");
                }
                Found::Everything => {}
                // A log that ends early looks like one that was being written; only its end may be missing.
                Found::Prefix(topic, count) => {
                    assert_eq!(kind, "wal", "{case}: {topic} silently ends at {count}");
                }
            }
            kinds.insert(kind);
        }
    }
    kinds
}

fn scratch_copy(whole: &TempDir) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    scratch::copy(whole.path(), copy.path()).unwrap();
    copy
}

const EACH_KIND: [&str; 4] = ["current", "manifest", "sst", "wal"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_short_is_refused_or_nothing_is_wrong() {
    let kinds = damage_each("cut", |file, length, dice| {
        let to = dice.random_range(0..length);
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(to).unwrap();
        format!("from {length} to {to}")
    })
    .await;
    assert!(EACH_KIND.iter().all(|kind| kinds.contains(kind)), "not every kind was there: {kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_refused_or_nothing_is_wrong() {
    let kinds = damage_each("flip", |file, length, dice| {
        let (at, bit) = (dice.random_range(0..length), dice.random_range(0..8));
        flip(file, at, bit);
        format!("bit {bit} at {at} of {length}")
    })
    .await;
    assert!(EACH_KIND.iter().all(|kind| kinds.contains(kind)), "not every kind was there: {kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_missing_is_refused_or_nothing_is_wrong() {
    let (whole, expected) = directory().await;
    for file in files(whole.path()) {
        let copy = scratch_copy(&whole);
        let relative = file.strip_prefix(whole.path()).unwrap();
        fs::remove_file(copy.path().join(relative)).unwrap();
        let found = examine(copy.path(), expected).await.unwrap();
        eprintln!("without {}: {found:?}", relative.display());
        assert!(!matches!(found, Found::Prefix(..)), "without {}: {found:?}, silently", relative.display());
    }
}

/// A power cut may take what only the operating system had. All that was synced must still be there, and what
/// the broker noted about the rest in other files must not keep it from opening.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_synced_may_go_with_the_power() {
    let dir = tempfile::tempdir().unwrap();
    let broker = scratch::open(dir.path()).await.unwrap();
    for (topic, durability) in TOPICS {
        let topic = Topic { durability, ..Topic::new(topic.parse().unwrap()) };
        broker.put_topic(topic, Expect::Any).await.unwrap();
    }
    publish(&broker, "written", 50).await;
    publish(&broker, "synced", 50).await;
    let synced = scratch_copy(&dir);
    publish(&broker, "written", 50).await;
    // The log as it was synced last, everything else as it is now: the system writes back as it likes.
    let cut = scratch_copy(&dir);
    for file in files(synced.path()).iter().filter(|file| kind(file) == "wal") {
        fs::copy(file, cut.path().join(file.strip_prefix(synced.path()).unwrap())).unwrap();
    }
    broker.close().await;
    let broker = scratch::open(cut.path()).await.unwrap();
    let expected = [("synced", 50), ("written", 100), ("late", 0)];
    assert!(matches!(
        read_everything(&broker, expected).await.unwrap(),
        Found::Prefix("written", 50..100) | Found::Everything
    ));
    publish(&broker, "written", 10).await;
    broker.close().await;
}

/// Whoever says that a loss is accepted gets what lies before the damage, without a hole, and goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_loss_is_an_end_and_not_a_hole() {
    let (whole, expected) = directory().await;
    let mut dice = StdRng::seed_from_u64(2);
    let mut lost = 0;
    for file in files(whole.path()).iter().filter(|file| kind(file) == "wal").cycle().take(8) {
        let copy = scratch_copy(&whole);
        let damaged = copy.path().join(file.strip_prefix(whole.path()).unwrap());
        flip(&damaged, dice.random_range(0..fs::metadata(file).unwrap().len()), 3);
        let options = EmbeddedOptions { accept_loss: true, ..EmbeddedOptions::new(copy.path()) };
        let broker = tokio::task::spawn_blocking(move || Embedded::open(options)).await.unwrap().unwrap();
        let found = read_everything(&broker, expected).await.unwrap();
        lost += usize::from(matches!(found, Found::Prefix(..)));
        let sub = "sub".parse().unwrap();
        let taken = broker.fetch(&sub, Fetch::new(None, 5, Duration::from_secs(10))).await.unwrap();
        assert!(!taken.is_empty(), "the subscription goes on");
        for (topic, _) in expected {
            if let Ok(info) = broker.topic(&topic.parse().unwrap()).await {
                publish(&broker, topic, 5).await;
                assert_eq!(broker.topic(&topic.parse().unwrap()).await.unwrap().tail, info.tail + 5);
            }
        }
        broker.close().await;
        drop(broker);
        // It was accepted once; now the directory is whole again.
        let again = examine(copy.path(), expected.map(|(topic, count)| (topic, count + 5))).await.unwrap();
        assert!(!matches!(again, Found::Refused(_)), "after an accepted loss: {again:?}");
    }
    assert!(lost > 0, "no flipped bit did any damage");
}
