//! Every command once, against a real server, as a user types it: what is on standard output, and the exit code.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crossdock_tests::{Builder, Encrypted, Sandbox, eventually};
use serde_json::{Value, json};

fn sandbox() -> Builder {
    Sandbox::builder(env!("CARGO_BIN_EXE_crossdock"))
}

/// Runs a command line that must end well, and gives its data.
async fn data(sandbox: &Sandbox, line: &str) -> String {
    sandbox.cli(&line.split(' ').collect::<Vec<_>>()).await.expect(0).stdout
}

async fn json_of(sandbox: &Sandbox, line: &str) -> Value {
    let text = data(sandbox, &format!("{line} -o json")).await;
    serde_json::from_str(&text).unwrap_or_else(|cause| panic!("{line}: {cause}: {text}"))
}

/// Runs a command line that must end with this code; gives what it said.
async fn refused(sandbox: &Sandbox, code: i32, line: &str) -> String {
    let ran = sandbox.cli(&line.split(' ').collect::<Vec<_>>()).await.expect(code);
    assert_eq!(ran.stdout, "", "{line}: an error is no data");
    ran.stderr
}

#[tokio::test]
async fn topics_and_messages() {
    let mut sandbox = sandbox().start().await;
    let made = json_of(&sandbox, "topic create orders --max-age 30d --max-messages 9").await;
    assert_eq!(made["topic"]["retention"]["max_messages"], 9);
    assert_eq!(
        data(&sandbox, "topic create orders --max-age 30d --max-messages 9").await,
        "",
        "no data, no error"
    );
    assert!(refused(&sandbox, 6, "topic create orders").await.contains("already_exists"));
    assert_eq!(data(&sandbox, "topic ls -o name").await, "orders\n");
    assert!(refused(&sandbox, 3, "topic get shipments").await.contains("shipments"));

    assert_eq!(
        data(&sandbox, "pub orders {\"n\":1} --key a --header Source=web -o name").await,
        "orders:0\n"
    );
    assert_eq!(data(&sandbox, "pub orders plain --id 7 -o name").await, "orders:1\n");
    let again = json_of(&sandbox, "pub orders plain --id 7").await;
    assert_eq!((&again["last"], &again["duplicates"]), (&json!(1), &json!(1)));
    let lines =
        sandbox.cli_with(&["pub", "orders", "--lines", "-o", "json"], "{\"n\":2}\n\n{\"n\":3}\r\nfour").await;
    let lines: Value = serde_json::from_str(&lines.expect(0).stdout).expect("JSON");
    assert_eq!((&lines["first"], &lines["last"], &lines["messages"]), (&json!(2), &json!(4), &json!(3)));
    let bytes = sandbox.bash("printf '\\377' | crossdock pub orders - -o name").await.expect(0);
    assert_eq!(bytes.stdout, "orders:5\n");
    assert!(refused(&sandbox, 3, "pub shipments x").await.contains("topic create shipments"));

    let messages: Vec<Value> = data(&sandbox, "tail orders --from start -o json")
        .await
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(messages.len(), 6);
    assert_eq!((&messages[0]["data"], &messages[0]["key"]), (&json!({"n": 1}), &json!("a")));
    assert_eq!(messages[0]["headers"]["source"], "web");
    assert_eq!(messages[1]["content_type"], "text/plain; charset=utf-8");
    assert_eq!(messages[5]["data_base64"], "/w==");
    let yaml = data(&sandbox, "tail orders --from start --max 1 -o yaml").await;
    assert!(yaml.contains("data:\n  \"n\": 1\n"), "{yaml}");
    assert!(data(&sandbox, "tail orders --max 1").await.contains("<1 bytes>"), "the last one");
    assert_eq!(data(&sandbox, "tail orders --from 3 --max 2 -o name").await, "orders:3\norders:4\n");
    assert_eq!(data(&sandbox, "tail orders --from end").await, "");
    let read = sandbox.bash("crossdock tail orders --from start | head -n 1").await.expect(0);
    assert!(read.stdout.contains("\"n\":1") && read.stderr.is_empty(), "{read:?}");

    let line = "pub orders later --deliver-in 1h --expires-in 2h --correlation-id c1 --priority 7";
    let _ = data(&sandbox, line).await;
    let last = data(&sandbox, "tail orders --max 1 -o json").await;
    let last: Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!((&last["correlation_id"], &last["priority"]), (&json!("c1"), &json!(7)));
    let (deliver, expires) = (last["deliver_at"].as_str().unwrap(), last["expires_at"].as_str().unwrap());
    assert!(last["time"].as_str().unwrap() < deliver && deliver < expires, "{last}");

    let _ = sandbox.cli(&["topic", "rm", "orders"]).await.expect(0);
    assert!(refused(&sandbox, 3, "tail orders").await.contains("not_found"));
    sandbox.stop().await;
}

#[tokio::test]
async fn an_admin_api_behind_tls_must_be_who_it_says() {
    let mut sandbox = sandbox().start().await;
    let front = Encrypted::in_front_of(&sandbox.admin().address(), &sandbox.home().join("ca.pem")).await;
    let as_admin = format!("export CROSSDOCK_USER=admin CROSSDOCK_PASSWORD='{}'", sandbox.password());
    let at = |url: &str, command: &str| format!("{as_admin}\nCROSSDOCK_URL={url} {command}");
    let url = front.url();

    let made = sandbox.bash(&at(&url, "crossdock topic create orders --ca ca.pem -o name")).await.expect(0);
    assert_eq!(made.stdout, "orders\n");
    let line = at(&url, "CROSSDOCK_CA_FILE=ca.pem crossdock pub orders 1 -o name");
    assert_eq!(sandbox.bash(&line).await.expect(0).stdout, "orders:0\n");

    let stranger = sandbox.bash(&at(&url, "crossdock topic ls")).await.expect(5);
    assert!(
        stranger.stderr.contains("certificate") && stranger.stderr.contains("--ca"),
        "{}",
        stranger.stderr
    );
    let other_name = at(&url.replace("localhost", "127.0.0.1"), "crossdock topic ls --ca ca.pem");
    let other_name = sandbox.bash(&other_name).await.expect(5);
    assert!(other_name.stderr.contains("certificate"), "{}", other_name.stderr);
    sandbox.write("empty.pem", "");
    let nothing = sandbox.bash(&at(&url, "crossdock topic ls --ca empty.pem")).await.expect(2);
    assert!(nothing.stderr.contains("empty.pem"), "{}", nothing.stderr);
    // Who speaks TLS to a server that does not is told so, and the other way round.
    let plain = at(&format!("https://{}", sandbox.admin().address()), "crossdock topic ls");
    let _ = sandbox.bash(&plain).await.expect(5);
    let _ = sandbox.bash(&at(&url.replace("https", "http"), "crossdock topic ls")).await.expect(5);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_tail_that_follows_prints_what_comes() {
    let mut sandbox = sandbox().start().await;
    let _ = sandbox.cli(&["topic", "create", "orders"]).await.expect(0);
    let _ = sandbox.cli(&["pub", "orders", "1"]).await.expect(0);
    let publish = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sandbox.cli(&["pub", "orders", "2"]).await.expect(0)
    };
    let follow = ["tail", "orders", "--from", "start", "--follow", "--max", "2", "-o", "name"];
    let (followed, _) = tokio::join!(sandbox.cli(&follow), publish);
    assert_eq!(followed.expect(0).stdout, "orders:0\norders:1\n");
    sandbox.stop().await;
}

#[tokio::test]
async fn subscriptions_and_dead_letters() {
    let mut sandbox = sandbox().start().await;
    let _ = sandbox.cli(&["topic", "create", "orders"]).await.expect(0);
    assert!(refused(&sandbox, 3, "sub create billing --topic nowhere").await.contains("nowhere"));
    let made = json_of(&sandbox, "sub create billing --topic orders --max-failures 1").await;
    assert_eq!(made["subscription"]["start"], "start");
    let _ = sandbox
        .cli(&["sub", "create", "billing", "--topic", "orders", "--max-failures", "1"])
        .await
        .expect(0);
    assert!(refused(&sandbox, 6, "sub create billing --topic orders").await.contains("already_exists"));
    assert_eq!(data(&sandbox, "sub ls -o name").await, "billing\n");
    let late = json_of(&sandbox, "sub create late --topic orders --from end").await;
    assert_eq!(late["subscription"]["start"], "end");

    let _ = sandbox.cli_with(&["pub", "orders", "--lines"], "0\n1\n2\n").await.expect(0);
    let fetched = sandbox.gateway().fetch("billing", 10).await;
    let rejected: Vec<_> =
        fetched.iter().map(|m| json!({"delivery": m["delivery"], "reason": "bad\nnews"})).collect();
    let _ = sandbox
        .gateway()
        .post("/subscriptions/billing/settle", &json!({"reject": rejected}))
        .await
        .expect(200);

    assert_eq!(data(&sandbox, "dlq ls billing -o name").await, "orders:0\norders:1\norders:2\n");
    let some = sandbox.cli(&["dlq", "ls", "billing", "--max", "2", "-o", "name"]).await.expect(0);
    assert_eq!(some.stdout, "orders:0\norders:1\n");
    assert!(some.stderr.contains("--after orders:1"), "{}", some.stderr);
    for offset in 0..3 {
        let letter = json_of(&sandbox, &format!("dlq show billing orders:{offset}")).await;
        assert_eq!((&letter["offset"], &letter["message"]["data"]), (&json!(offset), &json!(offset)));
        assert_eq!(letter["reason"], "bad\nnews");
    }
    for line in ["dlq ls billing -o yaml", "dlq show billing orders:2 -o yaml"] {
        let yaml = data(&sandbox, line).await;
        assert!(yaml.contains("data: 2\n") && !yaml.contains("RawValue"), "{line}: {yaml}");
    }
    assert!(refused(&sandbox, 3, "dlq show billing orders:9").await.contains("orders:9"));
    assert_eq!(json_of(&sandbox, "dlq retry billing orders:1").await["count"], 1);
    assert_eq!(sandbox.gateway().fetch("billing", 10).await[0]["offset"], 1, "delivered again");
    let gone = sandbox.cli(&["dlq", "retry", "billing", "orders:1", "orders:77"]).await.expect(3);
    assert!(gone.stderr.contains("no dead letters: orders:1, orders:77"), "{}", gone.stderr);
    assert_eq!(json_of(&sandbox, "dlq discard billing --all").await["count"], 2);
    assert_eq!(data(&sandbox, "dlq ls billing -o name").await, "");

    assert!(refused(&sandbox, 6, "topic rm orders").await.contains("billing"));
    let _ = sandbox.cli(&["sub", "rm", "billing"]).await.expect(0);
    assert!(refused(&sandbox, 3, "sub get billing").await.contains("not_found"));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_service_from_its_template_to_its_removal() {
    let mut sandbox = sandbox().start().await;
    let written = data(&sandbox, "service new order-route --dir svc").await;
    assert_eq!(written, "svc/order_route.py\nsvc/test_order_route.py\nsvc/crossdock.py\n");
    let _ = sandbox.cli(&["topic", "create", "order-route.in"]).await.expect(0);
    let _ = sandbox.cli(&["topic", "create", "order-route.out"]).await.expect(0);
    let deployed = json_of(&sandbox, "service deploy svc --name order-route --processes 2 --env A=b").await;
    assert_eq!((&deployed["changed"], &deployed["ready"]), (&json!(true), &json!(true)));
    let again = json_of(&sandbox, "service deploy svc --name order-route").await;
    assert_eq!(again["changed"], false, "settings that are not given stay");
    let info = json_of(&sandbox, "service get order-route").await;
    assert_eq!((&info["settings"]["processes"], &info["settings"]["env"]["A"]), (&json!(2), &json!("b")));

    let order = "{\"id\":\"1\",\"quantity\":2}";
    let _ = sandbox.cli(&["pub", "order-route.in", order]).await.expect(0);
    let out = data(&sandbox, "tail order-route.out --from start --follow --max 1").await;
    assert!(out.contains(order), "{out}");
    let reply = data(&sandbox, &format!("service invoke order-route {order}")).await;
    assert_eq!(serde_json::from_str::<Value>(&reply).expect("JSON"), json!({"id": "1", "price": 6}));
    assert!(refused(&sandbox, 2, "service invoke order-route {\"id\":7}").await.contains("id"));

    sandbox.write("svc/order_route.py", "import sys\nfrom crossdock import serve\n\n@serve()\ndef price():\n    print('asked')\n    raise KeyError('torn')\n");
    let _ =
        sandbox.cli(&["service", "deploy", "svc/order_route.py", "--name", "order-route"]).await.expect(0);
    assert!(refused(&sandbox, 7, "service invoke order-route {}").await.contains("torn"));
    let _ = eventually("the log", Duration::from_secs(10), || async {
        data(&sandbox, "service logs order-route").await.contains("asked").then_some(())
    })
    .await;
    let _ = sandbox.cli(&["service", "rollback", "order-route"]).await.expect(0);
    let versions = json_of(&sandbox, "service get order-route").await;
    assert_eq!(versions["current"], deployed["version"]);

    let _ = sandbox.cli(&["service", "pause", "order-route"]).await.expect(0);
    let _ = eventually("the pause", Duration::from_secs(10), || async {
        sandbox.cli(&["service", "invoke", "order-route", order]).await.code.filter(|code| *code == 5)
    })
    .await;
    let _ = sandbox.cli(&["service", "resume", "order-route"]).await.expect(0);
    let _ = eventually("the service to go on", Duration::from_secs(10), || async {
        sandbox.cli(&["service", "invoke", "order-route", order]).await.code.filter(|code| *code == 0)
    })
    .await;
    let report =
        json_of(&sandbox, &format!("bench service order-route --data {order} --in-flight 2 --for 300ms"))
            .await;
    assert!(report["count"].as_u64() > Some(0) && report["p99_ms"].as_f64() > Some(0.0), "{report}");
    let _ = sandbox.cli(&["service", "rm", "order-route"]).await.expect(0);
    assert_eq!(data(&sandbox, "service ls -o name").await, "");
    assert!(refused(&sandbox, 3, "service logs nowhere").await.contains("nowhere"));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_configuration_is_applied_and_comes_back() {
    let mut sandbox = sandbox().start().await;
    sandbox.write("topics.yaml", "topics:\n  - name: ${FIRST}\n  - name: ${SECOND:-shipments}\n");
    sandbox.write("subs.yaml", "subscriptions:\n  - {name: billing, topics: [orders]}\n");
    let apply = "export FIRST=orders; crossdock apply topics.yaml subs.yaml -o json";
    let dry = sandbox.bash(&format!("{apply} --dry-run")).await;
    // The subscription needs a topic that only the first file would have made.
    assert_eq!(dry.code, Some(2), "{dry:?}");
    assert_eq!(data(&sandbox, "topic ls -o name").await, "");
    for action in ["create", "unchanged"] {
        let steps = sandbox.bash(apply).await.expect(0);
        let steps: Vec<Value> = serde_json::from_str(&steps.stdout).expect("JSON");
        assert_eq!(steps.len(), 3);
        assert!(steps.iter().all(|step| step["action"] == action), "{steps:?}");
    }
    let again = sandbox.bash("crossdock export | crossdock apply - -o json").await.expect(0);
    let steps: Vec<Value> = serde_json::from_str(&again.stdout).expect("JSON");
    assert!(steps.len() > 3 && steps.iter().all(|step| step["action"] == "unchanged"), "{steps:?}");
    assert!(data(&sandbox, "export -o name").await.contains("subscription/billing\n"));
    assert_eq!(json_of(&sandbox, "export").await["topics"][0]["name"], "orders");

    // What only the server can know is shown in the file too.
    sandbox.write("bad.yaml", "\n\npermissions:\n  - {name: p, users: [bob]}\n");
    assert!(refused(&sandbox, 2, "apply bad.yaml").await.contains("bad.yaml:4"));
    assert!(refused(&sandbox, 3, "apply nowhere.yaml").await.contains("nowhere.yaml"));
    sandbox.stop().await;
}

#[tokio::test]
async fn who_asks_and_whom() {
    let mut sandbox = sandbox().env("CROSSDOCK_ADMIN_PASSWORD", "of my own").start().await;
    assert_eq!(sandbox.password(), "of my own");
    assert!(!sandbox.log().contains("of my own"), "one that is given is not printed");
    let contexts = sandbox.home().join(".config/crossdock/contexts.json");
    for path in [contexts, sandbox.data().join("context.json")] {
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(std::fs::metadata(sandbox.data()).expect("a folder").permissions().mode() & 0o777, 0o700);
    for (code, script) in [
        (0, "crossdock status"),
        (0, "CROSSDOCK_USER=admin CROSSDOCK_PASSWORD='of my own' crossdock status"),
        (4, "CROSSDOCK_PASSWORD=wrong crossdock status"),
        (4, "CROSSDOCK_API_KEY=admin.wrong crossdock status"),
        (4, "CROSSDOCK_URL=http://127.0.0.1:9 crossdock status"),
        (5, "CROSSDOCK_URL=http://127.0.0.1:9 CROSSDOCK_API_KEY=a.b crossdock status"),
        (5, "CROSSDOCK_URL=https://127.0.0.1:9 CROSSDOCK_API_KEY=a.b crossdock status"),
        (2, "CROSSDOCK_URL=ftp://127.0.0.1:9 CROSSDOCK_API_KEY=a.b crossdock status"),
        (3, "crossdock status --context nowhere"),
        (3, "HOME=/nowhere XDG_CONFIG_HOME=/nowhere crossdock status"),
        (2, "crossdock statsu"),
        (0, "crossdock --version"),
        (0, "crossdock completion bash | bash -n"),
    ] {
        let ran = sandbox.bash(script).await;
        assert_eq!(ran.code, Some(code), "{ran:?}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn load_is_measured_and_leaves_nothing_behind() {
    let mut sandbox = sandbox().start().await;
    for line in [
        "bench pub --in-flight 4 --for 300ms --size 64B",
        "bench pub --in-flight 2 --for 300ms --batch 50",
        "bench pub --in-flight 2 --for 300ms --batch 50 --http",
        "bench sub --messages 3000 --in-flight 3 --http",
        "bench sub --messages 3000 --in-flight 3",
    ] {
        let report = json_of(&sandbox, line).await;
        assert!(report["count"].as_u64() > Some(0) && report["per_second"].as_f64() > Some(0.0), "{report}");
        assert!(report["durability"].as_str().is_some_and(|text| text.starts_with("fsync")), "{report}");
        assert!(report["p50_ms"].as_f64() <= report["p99_ms"].as_f64(), "{report}");
    }
    assert_eq!(json_of(&sandbox, "bench sub --messages 2000").await["count"], 2000, "each message once");
    assert_eq!(data(&sandbox, "topic ls -o name").await, "");
    assert_eq!(data(&sandbox, "sub ls -o name").await, "");
    assert!(refused(&sandbox, 3, "bench pub --topic nowhere --for 200ms").await.contains("nowhere"));
    assert!(refused(&sandbox, 5, "bench service nowhere --for 200ms").await.contains("nowhere"));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_second_interrupt_ends_it_at_once() {
    let mut sandbox = sandbox().start().await;
    sandbox.write(
        "slow.py",
        "import time\nfrom crossdock import serve\n\n@serve()\ndef slow():\n    time.sleep(8)\n",
    );
    let _ = sandbox.cli(&["service", "deploy", "slow.py"]).await.expect(0);
    let admin = sandbox.admin().clone();
    let asked = tokio::spawn(async move {
        admin
            .send("POST", "/api/v1/services/slow/invoke", &[("content-type", "application/json")], "null")
            .await
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    sandbox.signal("INT").await;
    let _ = eventually("the drain", Duration::from_secs(5), || async {
        sandbox.log().contains("stopping").then_some(())
    })
    .await;
    sandbox.signal("INT").await;
    let began = std::time::Instant::now();
    sandbox.wait().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(sandbox.log().contains("ended at once"), "{}", sandbox.log());
    assert!(asked.await.expect("the request").is_err(), "it was cut off");
}

#[tokio::test]
async fn users_permissions_and_channels_are_listed_and_removed() {
    let mut sandbox = sandbox().start().await;
    sandbox.write(
        "access.yaml",
        "topics: [{name: orders}]\nusers: [{name: al}]\npermissions: [{name: traders, users: [al], publish: [orders]}]\n\
         rest_channels: [{name: intake, path: /orders, topic: orders}]\n",
    );
    let _ = sandbox.cli(&["apply", "access.yaml"]).await.expect(0);
    let users = json_of(&sandbox, "user ls").await;
    assert_eq!(users[0], json!({"name": "admin", "has_password": true, "has_api_key": false}));
    assert_eq!(data(&sandbox, "user ls -o name").await, "admin\nal\n");
    assert!(data(&sandbox, "permission ls").await.contains("traders"));
    assert!(data(&sandbox, "channel ls").await.contains("topic orders"));
    assert!(refused(&sandbox, 6, "user rm al").await.contains("traders"));
    assert!(refused(&sandbox, 6, "user rm admin").await.contains("administrator"));
    assert!(refused(&sandbox, 6, "permission rm admin").await.contains("administrator"));
    for line in ["channel rm intake", "permission rm traders", "user rm al"] {
        assert_eq!(
            data(&sandbox, &format!("{line} -o name")).await,
            line.rsplit(' ').next().unwrap().to_owned() + "\n"
        );
        assert!(refused(&sandbox, 3, line).await.contains("not_found"));
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_files_and_the_environment_is_said_before_connecting() {
    let sandbox = sandbox().prepare();
    sandbox.write("folder/empty", "");
    let refused = |script: &'static str| async { sandbox.bash(script).await.expect(2).stderr };
    assert!(refused("crossdock apply folder").await.contains("name a file"));
    let key = refused("CROSSDOCK_URL=http://127.0.0.1:1 CROSSDOCK_API_KEY=$'ci.1\\n' crossdock status").await;
    assert!(key.contains("CROSSDOCK_API_KEY has a line break"), "{key}");
    let mut started = self::sandbox().start().await;
    std::fs::write(started.home().join("latin.py"), b"# caf\xe9\n").expect("to write");
    let latin = started.cli(&["service", "deploy", "latin.py"]).await.expect(2).stderr;
    assert!(latin.contains("UTF-8"), "{latin}");
    let exported = started.cli(&["export"]).await.expect(0);
    assert!(exported.stderr.contains("passwords and API keys are not part of it"), "{}", exported.stderr);
    started.stop().await;
}

#[tokio::test]
async fn with_two_platforms_one_is_chosen_and_the_other_is_named_when_it_is_gone() {
    let mut sandbox = sandbox().start().await;
    let first = data(&sandbox, "context ls -o name").await.trim_end().to_owned();
    let gone = r#"{"current": "/gone", "contexts": {"/gone": {"url": "http://127.0.0.1:1", "user": "admin", "password": "geheim"}, "#;
    let file = sandbox.bash("find . -name contexts.json").await.expect(0).stdout.trim_end().to_owned();
    let saved = std::fs::read_to_string(sandbox.home().join(&file)).expect("the contexts");
    let saved: Value = serde_json::from_str(&saved).expect("JSON");
    sandbox.write(&file, &format!("{gone}\"{first}\": {}}}}}", saved["contexts"][&first]));

    let lost = refused(&sandbox, 5, "status").await;
    let lost = lost.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(lost.contains("crossdock context use") && lost.contains(&first), "{lost}");
    assert!(refused(&sandbox, 3, "context use /nowhere").await.contains("/gone"));
    let listed = data(&sandbox, "context ls").await;
    assert!(listed.contains("http://127.0.0.1:1") && !listed.contains("geheim"), "{listed}");
    let chosen = json_of(&sandbox, &format!("context use {first}")).await;
    assert_eq!(chosen["current"], true);
    let _ = json_of(&sandbox, "status").await;
    sandbox.stop().await;
}

#[tokio::test]
async fn a_subscription_is_paused_moved_and_its_keys_are_let_go() {
    let mut sandbox = sandbox().start().await;
    let _ = data(&sandbox, "topic create orders").await;
    let made = json_of(
        &sandbox,
        "sub create billing --topic orders --order key --max-failures 1 --sharing shared --filter-header region=eu",
    )
    .await;
    assert_eq!(
        (&made["subscription"]["order"], &made["subscription"]["filter"]),
        (&json!("key"), &json!({"headers": {"region": "eu"}}))
    );
    for (key, number) in [("a", "0"), ("b", "1"), ("a", "2")] {
        let _ = data(&sandbox, &format!("pub orders {number} --key {key} --header region=eu")).await;
    }

    assert_eq!(json_of(&sandbox, "sub pause billing").await["paused"], true);
    assert!(data(&sandbox, "sub ls").await.contains("paused"));
    assert!(sandbox.gateway().fetch("billing", 10).await.is_empty());
    assert_eq!(json_of(&sandbox, "sub resume billing").await["paused"], false);

    let first = sandbox.gateway().fetch("billing", 10).await;
    let offsets: Vec<_> = first.iter().map(|message| message["offset"].clone()).collect();
    assert_eq!(offsets, [0, 1], "the next of a key waits");
    let settle = json!({"nack": [{"delivery": first[0]["delivery"], "reason": "no such customer"}], "ack": [first[1]["delivery"]]});
    let _ = sandbox.gateway().post("/subscriptions/billing/settle", &settle).await.expect(200);
    let keys = json_of(&sandbox, "sub keys billing").await;
    assert_eq!(
        (&keys[0]["key"], &keys[0]["waiting"], &keys[0]["reason"]),
        (&json!("a"), &json!(1), &json!("no such customer"))
    );
    assert_eq!(data(&sandbox, "sub keys billing -o name").await, "a\n");
    let _ = data(&sandbox, "sub release billing a --give-up").await;
    assert_eq!(sandbox.gateway().fetch("billing", 10).await[0]["offset"], 2, "what was behind it goes on");
    assert_eq!(data(&sandbox, "dlq ls billing -o name").await, "orders:0\n");
    assert!(refused(&sandbox, 3, "sub release billing a").await.contains("sub keys billing"));

    let moved = json_of(&sandbox, "sub seek billing --to 1 --topic orders").await;
    assert_eq!(moved["topics"][0]["next"], 1);
    let again = sandbox.gateway().fetch("billing", 10).await;
    assert_eq!(again[0]["offset"], 1);
    let _ = data(&sandbox, "sub seek billing --to end").await;
    assert!(sandbox.gateway().fetch("billing", 10).await.is_empty());
    assert!(refused(&sandbox, 3, "sub seek billing --to end --topic elsewhere").await.contains("elsewhere"));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_topic_is_replayed_purged_and_appended_to_only_where_it_ends_as_expected() {
    let mut sandbox = sandbox().start().await;
    for line in
        ["topic create orders", "topic create copies", "topic create prices --compact --max-age forever"]
    {
        let _ = data(&sandbox, line).await;
    }
    let lines: String = (0..50).map(|n| format!("{n}\n")).collect();
    let _ = sandbox.cli_with(&["pub", "orders", "--lines"], &lines).await.expect(0);
    let dry = json_of(&sandbox, "topic replay orders --into copies --from 10 --to 40 --dry-run").await;
    assert_eq!((&dry["next"], &dry["end"], &dry["stored"]), (&json!(10), &json!(40), &json!(0)));
    let done = json_of(&sandbox, "topic replay orders --into copies --from 10 --to 40").await;
    assert_eq!((&done["stored"], &done["duplicates"]), (&json!(30), &json!(0)));
    let again = json_of(&sandbox, "topic replay orders --into copies --from 35 --rate 1000").await;
    assert_eq!((&again["stored"], &again["duplicates"]), (&json!(10), &json!(5)));
    let copy = data(&sandbox, "tail copies --from start --max 1 -o json").await;
    let copy: Value = serde_json::from_str(&copy).expect("JSON");
    assert_eq!((&copy["data"], &copy["headers"]["crossdock-origin"]), (&json!(10), &json!("orders:10")));
    assert!(
        refused(&sandbox, 3, "topic replay orders --into nowhere --from start").await.contains("nowhere")
    );

    assert!(refused(&sandbox, 2, "topic purge orders").await.contains("--yes"));
    let purged = json_of(&sandbox, "topic purge orders --before 20 --yes").await;
    assert_eq!((&purged["head"], &purged["tail"]), (&json!(20), &json!(50)));
    assert_eq!(json_of(&sandbox, "topic purge orders --yes").await["head"], 50);

    assert_eq!(data(&sandbox, "pub orders x --expect-last 49 -o name").await, "orders:50\n");
    assert!(refused(&sandbox, 6, "pub orders x --expect-last 49").await.contains("50"));
    assert_eq!(data(&sandbox, "pub prices 1 --key a --expect-key-last none -o name").await, "prices:0\n");
    let _ = refused(&sandbox, 6, "pub prices 2 --key a --expect-key-last none").await;
    assert_eq!(data(&sandbox, "pub prices 2 --key a --expect-key-last 0 -o name").await, "prices:1\n");
    assert!(data(&sandbox, "topic get prices").await.contains("the newest of each key"));
    assert!(refused(&sandbox, 4, "pub _logs.x y").await.contains("system"));
    sandbox.stop().await;
}

#[tokio::test]
async fn dead_letters_are_chosen_by_what_they_are_like_and_mended() {
    let mut sandbox = sandbox().start().await;
    let _ = data(&sandbox, "topic create orders").await;
    let _ = data(&sandbox, "sub create billing --topic orders").await;
    let _ = sandbox.cli_with(&["pub", "orders", "--lines"], "0\n1\n2\n3\n").await.expect(0);
    let fetched = sandbox.gateway().fetch("billing", 3).await;
    let reason = |n: usize| if n < 2 { "out of stock" } else { "no such customer" };
    let rejected: Vec<_> = fetched
        .iter()
        .enumerate()
        .map(|(n, m)| json!({"delivery": m["delivery"], "reason": reason(n)}))
        .collect();
    let settled = sandbox.gateway().post("/subscriptions/billing/settle", &json!({"reject": rejected})).await;
    let _ = settled.expect(200);
    let list = sandbox.cli(&["dlq", "ls", "billing", "--reason", "of stock", "-o", "name"]).await.expect(0);
    assert_eq!(list.stdout, "orders:0\norders:1\n");
    assert_eq!(data(&sandbox, "dlq ls billing --until 2026-01-01T00:00:00Z -o name").await, "");

    let edited = json_of(&sandbox, "dlq edit billing orders:0 --data {\"n\":7}").await;
    assert_eq!(edited["message"]["data"], json!({"n": 7}));
    let by_editor =
        sandbox.bash("EDITOR=\"sed -i s/1/eleven/\" crossdock dlq edit billing orders:1 -o name").await;
    assert_eq!(by_editor.expect(0).stdout, "orders:1\n");
    let unchanged = sandbox.bash("EDITOR=true crossdock dlq edit billing orders:1").await.expect(0);
    assert!(unchanged.stderr.contains("nothing was changed"), "{unchanged:?}");
    let _ = sandbox.bash("EDITOR=false crossdock dlq edit billing orders:1").await.expect(2);
    assert_eq!(json_of(&sandbox, "dlq retry billing --reason stock --dry-run").await["count"], 2);
    assert_eq!(json_of(&sandbox, "dlq retry billing --reason stock --rate 100").await["count"], 2);
    let mut again = Vec::new();
    while again.len() < 3 {
        again.extend(sandbox.gateway().fetch("billing", 10).await);
    }
    let of = |offset: u64| {
        again.iter().find(|message| message["offset"] == offset).unwrap_or_else(|| panic!("{again:?}"))
    };
    assert_eq!((&of(0)["data"], &of(3)["data"]), (&json!({"n": 7}), &json!(3)));
    assert_eq!(of(1)["data_base64"], "ZWxldmVu");

    assert_eq!(json_of(&sandbox, "dlq discard billing --reason customer").await["count"], 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn what_a_filter_leaves_out_does_not_come_and_each_message_is_explained() {
    let mut sandbox = sandbox().start().await;
    let _ = data(&sandbox, "topic create orders").await;
    let _ = data(&sandbox, "sub create eu --topic orders --filter-header region=eu").await;
    let _ = data(&sandbox, "sub create large --topic orders --filter-jq .total>100").await;
    for (total, region) in [(50, "eu"), (200, "us"), (300, "eu")] {
        let _ = data(&sandbox, &format!("pub orders {{\"total\":{total}}} --header region={region}")).await;
    }
    let offsets = |messages: Vec<Value>| messages.iter().map(|m| m["offset"].clone()).collect::<Vec<_>>();
    let eu = sandbox.gateway().fetch("eu", 10).await;
    assert_eq!(offsets(sandbox.gateway().fetch("large", 10).await), [1, 2]);
    let reject = json!({"reject": [{"delivery": eu[0]["delivery"], "reason": "no such customer"}]});
    let _ = sandbox.gateway().post("/subscriptions/eu/settle", &reject).await.expect(200);
    assert_eq!(offsets(eu), [0, 2]);
    assert!(refused(&sandbox, 2, "sub create bad --topic orders --filter-jq .total>").await.contains("jq"));

    let page = data(&sandbox, "explain orders:0").await;
    assert!(page.contains("eu: dead letter") && page.contains("no such customer"), "{page}");
    let held = json_of(&sandbox, "explain orders:2").await;
    let states = held["explanation"]["subscriptions"].as_array().expect("a list");
    assert!(states.len() == 2 && states.iter().all(|situation| situation["state"] == "in_flight"), "{held}");
    assert!(data(&sandbox, "explain orders:77").await.contains("gone"));
    assert!(refused(&sandbox, 3, "explain nowhere:0").await.contains("nowhere"));
    sandbox.stop().await;
}
