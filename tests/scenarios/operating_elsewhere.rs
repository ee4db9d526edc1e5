//! What an operator does at a server whose broker is in another process.

use crossdock_tests::{Beside, Sandbox};
use serde_json::{Value, json};

use crate::sandbox;

/// Runs a command line against this server; gives its data.
async fn at(sandbox: &Sandbox, server: &Beside, line: &str) -> Value {
    let (address, password) = (server.admin().address(), sandbox.password());
    let script = format!(
        "export CROSSDOCK_URL=http://{address} CROSSDOCK_USER=admin CROSSDOCK_PASSWORD='{password}'\n{line} -o json"
    );
    let printed = sandbox.bash(&script).await.expect(0).stdout;
    serde_json::from_str(&printed).unwrap_or_else(|cause| panic!("{line}: {cause}: {printed}"))
}

/// How a message stands with the subscription `billing`.
async fn situation(sandbox: &Sandbox, server: &Beside, message: &str) -> Value {
    let told = at(sandbox, server, &format!("crossdock explain {message}")).await;
    told["explanation"]["subscriptions"][0].clone()
}

#[tokio::test]
async fn given_a_server_on_anothers_broker_when_operated_there_should_do_as_that_one_does() {
    let mut sandbox = sandbox().start().await;
    let two = sandbox.beside("two").await;
    for line in ["topic create orders", "topic create copies", "sub create billing --topic orders"] {
        let _ = at(&sandbox, &two, &format!("crossdock {line}")).await;
    }
    let _ = sandbox.cli_with(&["pub", "orders", "--lines"], "0\n1\n2\n3\n").await.expect(0);
    let held = two.gateway().fetch("billing", 3).await;
    let reject = |m: &Value| json!({"delivery": m["delivery"], "reason": "no such customer"});
    let settlement = json!({"reject": held.iter().take(2).map(reject).collect::<Vec<_>>()});
    let _ = two.gateway().post("/subscriptions/billing/settle", &settlement).await.expect(200);

    let dead = situation(&sandbox, &two, "orders:0").await;
    assert_eq!((&dead["state"], &dead["reason"]), (&json!("dead_letter"), &json!("no such customer")));
    assert_eq!(situation(&sandbox, &two, "orders:2").await["state"], "in_flight");

    let edited = at(&sandbox, &two, "crossdock dlq edit billing orders:0 --data '{\"n\":7}'").await;
    assert_eq!(edited["message"]["data"], json!({"n": 7}));
    let _ = at(&sandbox, &two, "EDITOR='sed -i s/1/eleven/' crossdock dlq edit billing orders:1").await;
    assert_eq!(at(&sandbox, &two, "crossdock dlq retry billing --all").await["count"], 2);
    let mut again: Vec<Value> = Vec::new();
    while again.len() < 3 {
        again.extend(two.gateway().fetch("billing", 10).await);
    }
    again.sort_by_key(|message| message["offset"].as_u64());
    assert_eq!((&again[0]["data"], &again[1]["data_base64"]), (&json!({"n": 7}), &json!("ZWxldmVu")));
    assert_eq!((&again[2]["offset"], &again[2]["data"]), (&json!(3), &json!(3)));

    let replay = "crossdock topic replay orders --into copies --from 1 --to 3";
    let done = at(&sandbox, &two, replay).await;
    assert_eq!((&done["stored"], &done["duplicates"]), (&json!(2), &json!(0)));
    assert_eq!(at(&sandbox, &two, replay).await["duplicates"], 2, "it is stored once");
    let copies = sandbox.admin().read_topic("copies").await;
    assert_eq!(copies.iter().map(|copy| copy.json()).collect::<Vec<_>>(), ["1", "2"]);
    two.stop().await;
    sandbox.stop().await;
}
