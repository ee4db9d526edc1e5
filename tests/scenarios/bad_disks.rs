//! Files that are damaged, and disks that are full: refused or cut at the last whole block, with a clear word,
//! and never silently wrong.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crossdock_tests::{Sandbox, SmallDisk};
use serde_json::{Value, json};

use crate::sandbox;

const MESSAGES: u64 = 300;

/// A stopped platform whose topic `orders` holds messages numbered from 0, some of them in table files, some in
/// the write-ahead log only.
async fn with_data() -> Sandbox {
    let mut sandbox = sandbox().start().await;
    let _ = sandbox.admin().put("/api/v1/topics/orders", &json!({})).await;
    for run in 0..3 {
        let lines: Vec<_> = (0..MESSAGES / 3)
            .map(|number| {
                json!({ "number": run * MESSAGES / 3 + number, "text": "x".repeat(500) }).to_string()
            })
            .collect();
        let body = lines.join("\n") + "\n";
        let _ = sandbox
            .gateway()
            .post_as("application/x-ndjson", "/topics/orders/messages", body)
            .await
            .expect(201);
        if run < 2 {
            // A clean stop may write table files; the last run stays in the write-ahead log.
            sandbox.stop().await;
            sandbox.start().await;
        }
    }
    sandbox.kill().await;
    sandbox
}

/// The broker's files of this kind, the largest first.
fn files(folder: &Path, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().and_then(|name| name.to_str()).is_some_and(&matches) {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).map_or(0, |metadata| metadata.len())));
    found
}

/// Starts on damaged files. It may refuse, saying which file; or start with a whole beginning of the log, nothing
/// changed and no hole in it. Gives how many messages it has.
async fn outcome(sandbox: &mut Sandbox, damaged: &str) -> Option<u64> {
    let kept = started(sandbox, damaged).await;
    // Shown when the test fails, or is asked to show what it sees.
    eprintln!("{damaged}: {}", kept.map_or("refused".into(), |kept| format!("{kept} messages")));
    kept
}

async fn started(sandbox: &mut Sandbox, damaged: &str) -> Option<u64> {
    let before = sandbox.log().len();
    if let Err(code) = sandbox.try_start().await {
        let said = sandbox.log()[before..].to_owned();
        assert!(
            code.is_some_and(|code| (1..128).contains(&code)),
            "{damaged}: ended with {code:?} (a crash?): {said}"
        );
        assert!(!said.contains("panicked"), "{damaged}: {said}");
        let lower = said.to_lowercase();
        assert!(
            lower.contains("corrupt") || lower.contains("damaged") || lower.contains("missing"),
            "{damaged}: {said}"
        );
        return None;
    }
    let answer = sandbox.admin().get("/api/v1/topics/orders").await;
    if answer.status == 404 {
        sandbox.kill().await;
        return Some(0);
    }
    // A damaged place that is found only when it is read is an error then, never other messages.
    let page = sandbox.admin().get("/api/v1/topics/orders/messages?from=start&max=1000&wait=0s").await;
    if page.status != 200 {
        let problem = page.problem(500, "internal").to_lowercase();
        assert!(
            problem.contains("corrupt") || problem.contains("damaged") || problem.contains("checksum"),
            "{problem}"
        );
        sandbox.kill().await;
        return None;
    }
    let mut next = 0;
    for message in sandbox.admin().read_topic("orders").await {
        let data: Value = serde_json::from_str(message.json()).expect("JSON as it was sent");
        assert_eq!(
            (message.offset, data["number"].as_u64()),
            (next, Some(next)),
            "{damaged}: a hole, or another message"
        );
        assert_eq!(data["text"].as_str().map(str::len), Some(500));
        next += 1;
    }
    sandbox.kill().await;
    Some(next)
}

fn flip_a_bit(path: &Path, at: u64) {
    let mut bytes = std::fs::read(path).expect("a file");
    let index = usize::try_from(at).expect("a place") % bytes.len();
    bytes[index] ^= 0x10;
    std::fs::write(path, bytes).expect("to write");
}

fn cut(path: &Path, length: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file");
    file.set_len(length).expect("to cut it");
}

/// A text that does not compress well, so that a disk is soon full of it.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'0' + u8::try_from(state % 75).unwrap_or_default())
    };
    std::iter::repeat_with(&mut next).filter(|c| *c != '\\').take(60_000).collect()
}

#[tokio::test]
async fn given_no_damage_when_started_again_should_have_everything() {
    let mut sandbox = with_data().await;
    assert_eq!(outcome(&mut sandbox, "nothing").await, Some(MESSAGES));
}

#[tokio::test]
async fn given_a_damaged_write_ahead_log_when_started_should_refuse_or_keep_a_whole_beginning() {
    for (damage, part) in [("cut", 2), ("cut", 50), ("flip", 2), ("flip", 10), ("flip", 60)] {
        let mut sandbox = with_data().await;
        let data = sandbox.data();
        let log = files(&data, |name| {
            name.ends_with(".log") && name[..name.len() - 4].bytes().all(|b| b.is_ascii_digit())
        });
        let log = log.first().expect("a write-ahead log").clone();
        // Where data is: a recycled file is larger than what was written to it.
        let bytes = std::fs::read(&log).expect("a file");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
        let place = used * part / 100;
        if damage == "cut" {
            cut(&log, place)
        } else {
            flip_a_bit(&log, place)
        }
        let what = format!("{damage} at {place} of {}", log.display());
        let kept = outcome(&mut sandbox, &what).await;
        assert!(kept.is_none_or(|kept| kept <= MESSAGES), "{what}");
    }
}

#[tokio::test]
async fn given_a_damaged_table_file_when_started_should_refuse_or_fail_the_read() {
    for (damage, part) in [("cut", 50), ("flip", 5), ("flip", 50), ("flip", 97)] {
        let mut sandbox = with_data().await;
        let tables = files(&sandbox.data(), |name| name.ends_with(".sst"));
        let Some(table) = tables.first() else { panic!("there is no table file to damage") };
        let length = std::fs::metadata(table).expect("a file").len();
        if damage == "cut" {
            cut(table, length * part / 100)
        } else {
            flip_a_bit(table, length * part / 100)
        }
        let what = format!("{damage} at {part} % of {}", table.display());
        // All of what is in a table was acknowledged long ago: a shorter log would be silently wrong.
        let kept = outcome(&mut sandbox, &what).await;
        assert!(
            kept.is_none_or(|kept| kept == MESSAGES),
            "{what}: started with {kept:?} of {MESSAGES} messages"
        );
    }
}

#[tokio::test]
async fn given_a_damaged_catalogue_when_started_should_refuse() {
    for (name, damage) in [
        ("MANIFEST-", "cut"),
        ("MANIFEST-", "flip"),
        ("CURRENT", "cut"),
        ("CURRENT", "flip"),
        ("CURRENT", "gone"),
    ] {
        let mut sandbox = with_data().await;
        let found = files(&sandbox.data(), |file| file.starts_with(name));
        let file = found.first().unwrap_or_else(|| panic!("there is no {name} file"));
        let length = std::fs::metadata(file).expect("a file").len();
        match damage {
            "cut" => cut(file, length / 2),
            "flip" => flip_a_bit(file, length / 2),
            _ => std::fs::remove_file(file).expect("to delete it"),
        }
        let what = format!("{damage} {}", file.display());
        let kept = outcome(&mut sandbox, &what).await;
        assert!(
            kept.is_none_or(|kept| kept == MESSAGES),
            "{what}: started with {kept:?} of {MESSAGES} messages"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_a_disk_that_fills_up_when_published_to_should_refuse_say_why_and_lose_nothing() {
    let Some(disk) = SmallDisk::new(64) else {
        eprintln!("skipped: this machine does not let a test mount a file system in memory");
        return;
    };
    let mut sandbox = sandbox().on(disk).start().await;
    let _ = sandbox.admin().put("/api/v1/topics/orders", &json!({})).await;
    let gateway = sandbox.gateway().clone();
    let mut acknowledged = BTreeSet::new();
    let mut refusal = None;
    for number in 0..2000_u64 {
        let noise = noise(number);
        let answer =
            gateway.post("/topics/orders/messages", &json!({ "number": number, "noise": noise })).await;
        if answer.status == 201 {
            acknowledged.insert(number);
        } else {
            refusal = Some(answer);
            break;
        }
    }
    let problem = refusal.expect("64 MB to be full in the end").problem(503, "unavailable");
    let lower = problem.to_lowercase();
    assert!(lower.contains("space") || lower.contains("full"), "it says why: {problem}");
    assert!(acknowledged.len() > 50, "{} were acknowledged", acknowledged.len());
    // It does not carry on as if nothing had happened, and says so to whoever asks for its health.
    let _ = gateway.post("/topics/orders/messages", &json!(1)).await.problem(503, "unavailable");
    let health = sandbox.admin().with_user(None).get("/api/v1/health").await;
    assert!(health.status == 503 || health.json()["ready"] == false, "{}", health.text());

    sandbox.kill().await;
    // Still full: nothing is damaged, and nobody is sent to look for a backup.
    let before = sandbox.log().len();
    let refused = sandbox.try_start().await;
    let said = sandbox.log()[before..].to_owned();
    if refused.is_err() {
        assert!(said.contains("space") && !said.contains("backup"), "{said}");
    } else {
        sandbox.kill().await;
    }
    sandbox.grow_disk(256).await;
    sandbox.start().await;
    let stored: BTreeSet<u64> = sandbox
        .admin()
        .read_topic("orders")
        .await
        .iter()
        .filter_map(|message| serde_json::from_str::<Value>(message.json()).ok()?["number"].as_u64())
        .collect();
    assert!(
        acknowledged.is_subset(&stored),
        "lost: {:?}",
        acknowledged.difference(&stored).collect::<Vec<_>>()
    );
    let _ = sandbox.gateway().publish("orders", &json!({ "number": 9999 })).await;
}
