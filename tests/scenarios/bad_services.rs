//! Services that do everything wrong: each hurts itself alone, and says so.

use std::time::{Duration, Instant};

use crossdock_tests::{Answer, Sandbox, eventually};
use serde_json::{Value, json};

use crate::sandbox;

/// A platform with a topic, and a service of this code, whose replies are at `/bad`, and one that works, at
/// `/good`.
async fn with_service(code: &str, settings: &str) -> Sandbox {
    let sandbox = sandbox().start().await;
    sandbox.write("bad.py", code);
    sandbox.write(
        "good.py",
        "from crossdock import serve\n\n@serve()\ndef good():\n    return {\"good\": True}\n",
    );
    sandbox.write(
        "services.yaml",
        &format!(
            "topics:\n  - name: in\n  - name: out\n\
             services:\n  - {{name: bad, source: ./bad.py{settings}}}\n  - {{name: good, source: ./good.py}}\n\
             rest_channels:\n  - {{name: bad, path: /bad, methods: [GET], service: bad, timeout: 20s}}\n\
             \x20 - {{name: good, path: /good, methods: [GET], service: good}}\n"
        ),
    );
    let _ = sandbox.cli(&["apply", "services.yaml"]).await.expect(0);
    eventually("the good service to answer", Duration::from_secs(30), || async {
        (sandbox.gateway().get("/good").await.status == 200).then_some(())
    })
    .await;
    sandbox
}

async fn others_are_well(sandbox: &Sandbox) {
    let answer = sandbox.gateway().get("/good").await.expect(200);
    assert!(answer.took < Duration::from_secs(5), "another service took {:?}", answer.took);
    assert_eq!(answer.json()["good"], true);
    let _ = sandbox.gateway().publish("out", &json!("still well")).await;
}

/// Asks until the service is there: right after a deployment nobody may serve it yet.
async fn ask(sandbox: &Sandbox, path: &str) -> Answer {
    eventually("a worker to serve it", Duration::from_secs(30), || async {
        let answer = sandbox.gateway().get(path).await;
        (answer.status != 503).then_some(answer)
    })
    .await
}

/// Waits until the service answers this.
async fn becomes(sandbox: &Sandbox, text: &str) {
    eventually(text, Duration::from_secs(20), || async {
        (sandbox.gateway().get("/bad").await.expect(200).text() == text).then_some(())
    })
    .await;
}

async fn logs(sandbox: &Sandbox, what: &str) -> String {
    eventually(&format!("{what:?} in the service's log"), Duration::from_secs(20), || async {
        let logs = sandbox.cli(&["service", "logs", "bad"]).await.expect(0);
        logs.stdout.contains(what).then_some(logs.stdout)
    })
    .await
}

async fn dead_letters(sandbox: &Sandbox, subscription: &str, count: usize) -> Vec<Value> {
    eventually("the dead letters", Duration::from_secs(60), || async {
        let path = format!("/api/v1/subscriptions/{subscription}/dead-letters?max=100");
        let answer = sandbox.admin().get(&path).await.expect(200).json();
        let letters = answer.as_object()?.values().find_map(Value::as_array)?.clone();
        (letters.len() >= count).then_some(letters)
    })
    .await
}

#[tokio::test]
async fn given_a_service_that_raises_when_asked_or_fed_should_say_why_and_keep_the_message() {
    let sandbox = with_service(
        "from crossdock import consume, serve\n\n\
         @serve()\ndef answer():\n    raise ValueError('no answer today')\n\n\
         @consume('in', max_failures=2)\ndef eat(data):\n    raise ValueError(f'cannot eat {data}')\n",
        "",
    )
    .await;
    let problem = ask(&sandbox, "/bad").await.problem(500, "service_failed");
    assert!(problem.contains("no answer today"), "{problem}");
    let _ = sandbox.gateway().publish("in", &json!("stone")).await;
    let letters = dead_letters(&sandbox, "bad.eat", 1).await;
    assert!(
        letters[0]["reason"].as_str().is_some_and(|reason| reason.contains("cannot eat stone")),
        "{letters:?}"
    );
    assert_eq!(letters[0]["failures"], 2);
    let _ = logs(&sandbox, "Traceback").await;
    others_are_well(&sandbox).await;
    let retried = sandbox.cli(&["dlq", "retry", "bad.eat", "--all"]).await.expect(0);
    assert!(retried.stderr.contains('1') || retried.stdout.contains('1'), "{retried:?}");
}

#[tokio::test]
async fn given_a_service_that_hangs_when_asked_should_time_out_and_be_replaced() {
    let sandbox = with_service(
        "import time\nfrom crossdock import serve\n\n@serve()\ndef answer(ctx):\n    if ctx.query.get('hang'):\n        while True:\n            pass\n    return 'here'\n",
        ", timeout: 1s",
    )
    .await;
    let _ = ask(&sandbox, "/bad").await.expect(200);
    let hanging = sandbox.gateway().get("/bad?hang=1").await.problem(504, "timeout");
    assert!(hanging.contains("1s") || hanging.contains("bad"), "{hanging}");
    others_are_well(&sandbox).await;
    let again = ask(&sandbox, "/bad").await.expect(200);
    assert_eq!(again.text(), "here", "a new process serves");
}

#[tokio::test]
async fn given_a_service_that_prints_megabytes_when_asked_should_answer_and_keep_a_bounded_log() {
    let sandbox = with_service(
        "import sys\nfrom crossdock import serve\n\n@serve()\ndef answer():\n    for n in range(200_000):\n        print('noise', n, 'x' * 100)\n    sys.stdout.write('y' * 5_000_000)\n    print()\n    print('the end')\n    return 'done'\n",
        "",
    )
    .await;
    let answer = ask(&sandbox, "/bad").await.expect(200);
    assert_eq!(answer.text(), "done");
    others_are_well(&sandbox).await;
    let topic = sandbox.admin().get("/api/v1/topics/_logs.bad").await.expect(200).json();
    assert!(topic["bytes"].as_u64().is_some_and(|bytes| bytes <= 20 * 1024 * 1024), "{topic}");
    let logs = logs(&sandbox, "noise").await;
    assert!(logs.contains("dropped") || logs.contains("the end"), "what was left out is counted");
}

#[tokio::test]
async fn given_a_service_that_exits_when_fed_should_be_paused_with_its_reason() {
    let sandbox = with_service(
        "import os, sys\nfrom crossdock import consume\n\n@consume('in')\ndef eat(data):\n    print('good bye', file=sys.stderr)\n    os._exit(3)\n",
        "",
    )
    .await;
    for number in 0..20 {
        let _ = sandbox.gateway().publish("in", &json!(number)).await;
    }
    let state = eventually("the service to be paused", Duration::from_secs(90), || async {
        let info = sandbox.admin().get("/api/v1/services/bad").await.expect(200).json();
        let server = info["servers"][0].clone();
        (server["state"] == "paused").then_some(server)
    })
    .await;
    let reason = state["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("paused: "), "{state}");
    assert!(reason.contains("exited with status 3; its last words: good bye"), "{state}");
    assert!(reason.contains("`crossdock service resume bad`"), "{state}");
    assert!(state["restarts"].as_u64().is_some_and(|restarts| restarts > 0), "{state}");
    let _ = logs(&sandbox, "good bye").await;
    others_are_well(&sandbox).await;
    // Nothing is lost by it: what it should have eaten is set aside, waiting, or in the dead letters.
    let info = sandbox.admin().get("/api/v1/subscriptions/bad.eat").await.expect(200).json();
    let topic = &info["topics"][0];
    let held: u64 = ["waiting", "in_flight", "set_aside", "dead_letters"]
        .iter()
        .filter_map(|part| topic[part].as_u64())
        .sum();
    assert_eq!(held, 20, "{info}");

    // Each failure was told, with when it is tried again.
    let told = logs(&sandbox, "bad.eat in:0: attempt 1 of ").await;
    assert!(told.contains("failed: the process exited with status 3"), "{told}");
    assert!(told.contains("it is tried again in about "), "{told}");

    // It can be started again as it is, and a better version starts it too.
    let _ = sandbox.cli(&["service", "resume", "bad"]).await.expect(0);
    sandbox.write("bad.py", "from crossdock import consume\n\n@consume('in')\ndef eat(data):\n    pass\n");
    let _ = sandbox.cli(&["service", "deploy", "bad.py"]).await.expect(0);
    eventually("what is not dead to be eaten", Duration::from_secs(60), || async {
        let info = sandbox.admin().get("/api/v1/subscriptions/bad.eat").await.expect(200).json();
        let topic = info["topics"][0].clone();
        let left: u64 = ["waiting", "in_flight"].iter().filter_map(|part| topic[part].as_u64()).sum();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn given_a_service_that_allocates_without_end_when_asked_should_be_stopped_by_its_limit() {
    let sandbox = with_service(
        "from crossdock import serve\n\n@serve()\ndef answer(ctx):\n    if ctx.query.get('eat'):\n        hoard = []\n        while True:\n            hoard.append(bytearray(10_000_000))\n    return 'here'\n",
        ", memory: 256MiB",
    )
    .await;
    let _ = ask(&sandbox, "/bad").await.expect(200);
    let start = Instant::now();
    let answer = sandbox.gateway().get("/bad?eat=1").await;
    assert!(answer.status >= 500, "{}", answer.text());
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
    others_are_well(&sandbox).await;
    assert_eq!(ask(&sandbox, "/bad").await.expect(200).text(), "here");
}

#[tokio::test]
async fn given_code_that_does_not_import_when_deployed_should_change_nothing_and_print_its_traceback() {
    let sandbox =
        with_service("from crossdock import serve\n\n@serve()\ndef answer():\n    return 'first'\n", "")
            .await;
    assert_eq!(ask(&sandbox, "/bad").await.expect(200).text(), "first");
    for (code, what) in [
        ("import nothing_like_this\n", "nothing_like_this"),
        ("def broken(:\n", "SyntaxError"),
        ("x = 1\n", "serve"),
        ("from crossdock import serve\n\n@serve('a b')\ndef answer():\n    pass\n", "a b"),
        ("while True:\n    pass\n", "not ready"),
    ] {
        sandbox.write("bad.py", code);
        let refused = sandbox.cli(&["service", "deploy", "bad.py"]).await.expect(7);
        assert!(refused.stderr.contains(what), "{code}\n{}", refused.stderr);
    }
    assert_eq!(ask(&sandbox, "/bad").await.expect(200).text(), "first", "the version before goes on");
    let versions = sandbox.admin().get("/api/v1/services/bad").await.expect(200).json();
    assert_eq!(versions["versions"].as_array().map(Vec::len), Some(1), "{versions}");
}

#[tokio::test]
async fn given_a_worse_version_when_rolled_back_should_serve_the_one_before() {
    let sandbox =
        with_service("from crossdock import serve\n\n@serve()\ndef answer():\n    return 'first'\n", "")
            .await;
    assert_eq!(ask(&sandbox, "/bad").await.expect(200).text(), "first");
    sandbox.write("bad.py", "from crossdock import serve\n\n@serve()\ndef answer():\n    return 'second'\n");
    let _ = sandbox.cli(&["service", "deploy", "bad.py"]).await.expect(0);
    becomes(&sandbox, "second").await;
    let _ = sandbox.cli(&["service", "rollback", "bad"]).await.expect(0);
    becomes(&sandbox, "first").await;
}

#[tokio::test]
async fn given_a_server_that_is_killed_when_it_ran_services_should_leave_no_process_behind() {
    let mut sandbox = with_service(
        "import os\nfrom crossdock import serve\n\n@serve()\ndef answer():\n    return {'pid': os.getpid()}\n",
        "",
    )
    .await;
    let pid = ask(&sandbox, "/bad").await.expect(200).json()["pid"].as_u64().expect("a pid");
    sandbox.kill().await;
    eventually("the service's process to end", Duration::from_secs(10), || async {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
}
