//! Deploying, replacing, going back, pausing.

mod house;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossdock_config::{ServiceState, keys};
use crossdock_topics::{ErrorCode, Expect};
use house::{House, value};
use serde_json::json;

fn answers(text: &str) -> String {
    format!("from crossdock import serve\n@serve()\ndef f(n): return {text:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_file_is_said_and_nothing_changes() {
    let house = House::open(&["orders"]).await;
    house.deploy("good", &answers("one")).await;
    let before = house.record("good").await;
    let consumes = "from crossdock import *\n@consume('nowhere')\ndef f(n): ...";
    let taken = "from crossdock import *\n@serve('good')\ndef f(n): ...";
    let cases = [
        ("import nothing_like_it", ErrorCode::ServiceFailed, "No module named 'nothing_like_it'"),
        ("def f(:\n", ErrorCode::ServiceFailed, "line 1"),
        ("1 / 0", ErrorCode::ServiceFailed, "ZeroDivisionError"),
        ("x = 1", ErrorCode::ServiceFailed, "no service in the file"),
        ("while True: pass", ErrorCode::ServiceFailed, "not ready after 5s"),
        ("import os; os._exit(7)", ErrorCode::ServiceFailed, "exited with status 7"),
        (
            consumes,
            ErrorCode::NotFound,
            "the topic nowhere, which does not exist; make it first: crossdock topic create",
        ),
        ("from crossdock import *\n@consume('a..b')\ndef f(n): ...", ErrorCode::ServiceFailed, "not a topic"),
    ];
    for (source, code, why) in cases {
        let error = house.try_deploy("good", source, json!({})).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = house.try_deploy("other", taken, json!({})).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::AlreadyExists);
    assert!(error.message.contains("the service good does so already"), "{error}");
    let error = house.try_deploy("_mine", &answers("x"), json!({})).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    let error = house.try_deploy("good", &answers("x"), json!({"processes": 0})).await.unwrap_err();
    assert!(error.message.contains("processes"), "{error}");
    let error = house.try_deploy("good", &answers("x"), json!({"colour": 1})).await.unwrap_err();
    assert!(error.message.contains("colour"), "{error}");
    assert_eq!(house.record("good").await, before);
    assert_eq!(house.record("other").await, None);
    assert_eq!(house.ask("good", json!(1)).await.unwrap().payload, "one");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_takes_over_under_load_and_no_request_is_lost() {
    let house = Arc::new(House::open(&["work", "done"]).await);
    let source = |n: usize| {
        format!(
            "from crossdock import consume, serve\n@serve()\ndef f(x): return {n}\n\
             @consume('work')\ndef work(x, ctx): ctx.publish('done', x, id=str(x))"
        )
    };
    house.deploy_with("swapped", &source(0), json!({"processes": 2})).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (house, stop, asked) = (house.clone(), stop.clone(), asked.clone());
            tokio::spawn(async move {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let version = value(house.ask("swapped", json!(1)).await).as_u64().unwrap();
                    assert!(
                        version + 1 >= last,
                        "{version} after {last}: the old one goes on for a moment only"
                    );
                    last = last.max(version);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                last
            })
        })
        .collect();
    for n in 1..=5 {
        house.publish("work", ((n - 1) * 100..n * 100).map(|x| json!(x))).await;
        house.deploy_with("swapped", &source(n), json!({"processes": 2})).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        assert!(task.await.unwrap() >= 4);
    }
    assert_eq!(value(house.ask("swapped", json!(1)).await), json!(5));
    let mut done: Vec<_> = house.until_values("done", 500).await.iter().filter_map(|v| v.as_u64()).collect();
    done.sort_unstable();
    assert_eq!(done, (0..500).collect::<Vec<u64>>());
    println!("{} requests answered meanwhile", asked.load(Ordering::Relaxed));
    Arc::into_inner(house).unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_start_leaves_the_old_one_running() {
    let house = House::open(&[]).await;
    house.deploy("careful", &answers("one")).await;
    // It can be imported once, by the validation, and never again.
    let once = "import os\nfrom crossdock import serve\nassert not os.path.exists('seen'), 'seen before'\n\
        open('seen', 'w').close()\n@serve()\ndef f(n): return 'two'";
    house.try_deploy("careful", once, json!({})).await.unwrap();
    let status = house.until_state("careful", ServiceState::Failed).await;
    let reason = status.reason.unwrap();
    assert!(reason.contains("seen before") && reason.contains("goes on"), "{reason}");
    assert_eq!(house.ask("careful", json!(1)).await.unwrap().payload, "one");

    // And back, as an administrator would.
    house.change("careful", |record| record.current = record.versions[1].version.clone()).await;
    house.until_state("careful", ServiceState::Running).await;
    assert_eq!(house.ask("careful", json!(1)).await.unwrap().payload, "one");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deploying_the_same_changes_nothing_and_old_versions_can_be_had_back() {
    let house = House::open(&[]).await;
    let first = house.deploy("back", &answers("one")).await;
    assert_eq!(house.deploy("back", &answers("one")).await["changed"], false);
    let second = house.deploy("back", &answers("two")).await;
    assert_eq!(house.ask("back", json!(1)).await.unwrap().payload, "two");
    house.change("back", |record| record.current = first["version"].as_str().unwrap().into()).await;
    house.until_state("back", ServiceState::Running).await;
    assert_eq!(house.ask("back", json!(1)).await.unwrap().payload, "one");
    let record = house.record("back").await.unwrap();
    assert_eq!(record.versions.len(), 2);
    assert_eq!(record.versions[0].version, second["version"].as_str().unwrap());

    for n in 0..10 {
        house.try_deploy("back", &answers(&n.to_string()), json!({})).await.unwrap();
    }
    let record = house.record("back").await.unwrap();
    assert_eq!(record.versions.len(), 10);
    let code = keys::code(first["version"].as_str().unwrap());
    assert!(house.broker.get(&code).await.unwrap().is_none(), "the code of a dropped version is deleted");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_paused_resumed_and_removed() {
    let house = House::open(&["work", "done"]).await;
    let source = "from crossdock import consume\n@consume('work')\ndef work(n, ctx): ctx.publish('done', n)";
    house.deploy("pausing", source).await;
    house.publish("work", [json!(1)]).await;
    house.until_values("done", 1).await;
    house.change("pausing", |record| record.paused = true).await;
    house.until_state("pausing", ServiceState::Paused).await;
    house.publish("work", [json!(2)]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(house.values("done").await.len(), 1);
    house.change("pausing", |record| record.paused = false).await;
    assert_eq!(house.until_values("done", 2).await, [json!(1), json!(2)]);
    house.until_state("pausing", ServiceState::Running).await;
    house.broker.delete(&keys::service(&"pausing".parse().unwrap()), Expect::Any).await.unwrap();
    house.until("it is gone", || async { house.status("pausing").await.is_none() }).await;
    house.publish("work", [json!(3)]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(house.values("done").await.len(), 2);

    // Removed with its subscription and deployed again at once, it is a new one.
    house.broker.delete_subscription(&"pausing.work".parse().unwrap()).await.unwrap();
    house.deploy("pausing", source).await;
    assert_eq!(house.until_values("done", 5).await.len(), 5);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_deleted_is_missed_and_the_service_goes_on_when_it_is_back() {
    let house = House::open(&["work", "done"]).await;
    let source = "from crossdock import consume\n@consume('work')\ndef work(n, ctx): ctx.publish('done', n)";
    house.deploy("misses", source).await;
    house.publish("work", [json!(1)]).await;
    house.until_values("done", 1).await;
    let name = "misses.work".parse().unwrap();
    let definition = house.broker.subscription(&name).await.unwrap().subscription;
    for deploy in [true, false] {
        house.broker.delete_subscription(&name).await.unwrap();
        house
            .until("it is missed", || async {
                house.status("misses").await.is_some_and(|status| {
                    status.state == ServiceState::Running
                        && status.reason.is_some_and(|r| r.contains("subscription misses.work is missing"))
                })
            })
            .await;
        let done = house.values("done").await.len();
        if deploy {
            assert_eq!(house.try_deploy("misses", source, json!({})).await.unwrap()["changed"], false);
        } else {
            house.broker.put_subscription(definition.clone(), Expect::Absent).await.unwrap();
        }
        house
            .until("it is there", || async {
                house.status("misses").await.is_some_and(|status| status.reason.is_none())
            })
            .await;
        house.publish("work", [json!(2)]).await;
        house.until_values("done", done + 1).await;
    }
    let logs = house.logs("misses").await;
    let count = |what: &str| logs.iter().filter(|(s, l)| s == "system" && l.contains(what)).count();
    assert_eq!((count("misses.work is missing"), count("misses.work is there again")), (2, 2), "{logs:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_earlier_versions_left_behind_are_named_in_the_log() {
    let house = House::open(&["work"]).await;
    let consumes = |names: [&str; 2]| {
        let handlers = names.map(|name| format!("@consume('work')\ndef {name}(n): ...\n")).concat();
        format!("from crossdock import consume\n{handlers}")
    };
    house.deploy("reworked", &consumes(["kept", "before"])).await;
    house.deploy("reworked", &consumes(["kept", "after"])).await;
    let named = || async {
        let logs = house.logs("reworked").await;
        let lines: Vec<_> = logs.into_iter().filter(|(s, l)| s == "system" && l.contains("sub rm")).collect();
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    };
    house.until("it is named", || async { !named().await.is_empty() }).await;
    let lines = named().await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("subscription reworked.before of an earlier version"), "{lines:?}");
    assert!(lines[0].ends_with("crossdock sub rm reworked.before"), "{lines:?}");

    // Gone, or consumed by another service, it is not named any more.
    house.broker.delete_subscription(&"reworked.before".parse().unwrap()).await.unwrap();
    let other =
        "from crossdock import consume\n@consume('work', subscription='reworked.after')\ndef f(n): ...";
    house.deploy("other", other).await;
    house.deploy("reworked", &consumes(["kept", "last"])).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(named().await, lines);
    house.close().await;
}
