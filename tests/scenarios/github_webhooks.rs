//! Real freight: examples/github-webhooks under load, while the process is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_tests::github::{Webhook, events_by_repository, signature, webhooks};
use crossdock_tests::{Client, Sandbox, eventually};
use serde_json::{Value, json};

use crate::sandbox;

const SECRET: &str = "It's a Secret to Everybody";
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/github-webhooks");

/// Sends a call as GitHub does, and gives the status, or none when nobody answered.
async fn call(gateway: &Client, webhook: &Webhook) -> Option<u16> {
    let signature = signature(SECRET, webhook.body.as_bytes());
    let headers = [
        ("content-type", "application/json"),
        ("x-github-event", webhook.event.as_str()),
        ("x-github-delivery", webhook.delivery.as_str()),
        ("x-hub-signature-256", signature.as_str()),
    ];
    let anybody = gateway.with_user(None);
    let sent = anybody.send("POST", "/hooks/github", &headers, webhook.body.as_bytes()).await;
    sent.ok().map(|answer| answer.status)
}

async fn apply(sandbox: &Sandbox) {
    let yaml = format!("{EXAMPLE}/crossdock.yaml");
    let _ = sandbox.cli(&["apply", &yaml]).await.expect(0);
}

/// The count that the service answers, as far as it has come.
async fn stats(gateway: &Client, repository: &str) -> Option<BTreeMap<String, u64>> {
    let answer = gateway.send("GET", &format!("/stats/{repository}"), &[], Vec::new()).await.ok()?;
    if answer.status != 200 {
        return None;
    }
    serde_json::from_value(answer.json()["by_event"].clone()).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_real_webhooks_when_the_process_is_killed_again_and_again_should_hold_and_count_each_one_once()
{
    let webhooks = webhooks();
    let mut sandbox = sandbox().env("GITHUB_SECRET", SECRET).start().await;
    apply(&sandbox).await;

    // Killed four times: with calls on their way, and with the services at work on what has come. As GitHub would,
    // we send again what was not answered, and now and then what was.
    for (part, calls) in webhooks.chunks(webhooks.len() / 3 + 1).enumerate() {
        let mut unanswered: Vec<_> = calls.iter().collect();
        if part > 0 {
            sandbox.start().await;
        }
        let (sure, risky) = unanswered.split_at(calls.len() - 20);
        for webhook in sure {
            assert_eq!(call(sandbox.gateway(), webhook).await, Some(202), "{}", webhook.delivery);
        }
        assert_eq!(
            call(sandbox.gateway(), sure[0]).await,
            Some(202),
            "a repeated call is answered as the first"
        );
        unanswered = risky.to_vec();
        if part < 2 {
            // All at once, and the kill while they are under way.
            let sending: Vec<_> = unanswered
                .iter()
                .map(|webhook| {
                    let gateway = sandbox.gateway().clone();
                    let webhook = Webhook {
                        event: webhook.event.clone(),
                        delivery: webhook.delivery.clone(),
                        body: webhook.body.clone(),
                        repository: None,
                    };
                    tokio::spawn(async move { call(&gateway, &webhook).await })
                })
                .collect();
            tokio::time::sleep(Duration::from_millis(3)).await;
            sandbox.kill().await;
            for task in sending {
                let _ = task.await;
            }
            sandbox.start().await;
        }
        for webhook in &unanswered {
            assert_eq!(call(sandbox.gateway(), webhook).await, Some(202), "{}", webhook.delivery);
        }
        if part < 2 {
            // And once more while the services are at work on it.
            sandbox.kill().await;
        }
    }

    let expected: BTreeMap<String, Vec<&Webhook>> =
        webhooks.iter().fold(BTreeMap::new(), |mut all, webhook| {
            all.entry(format!("github.{}", webhook.event)).or_insert_with(Vec::new).push(webhook);
            all
        });
    let admin = sandbox.admin();
    eventually("every call to be in its topic", Duration::from_secs(60), || async {
        let topics = admin.get("/api/v1/topics").await.expect(200).json();
        let stored = topics["topics"].as_array().cloned().unwrap_or_default();
        let tail = |info: &Value| info["tail"].as_u64().unwrap_or_default();
        let sorted = stored
            .iter()
            .filter(|info| info["topic"]["name"].as_str().is_some_and(|name| name.starts_with("github.")));
        (sorted.map(tail).sum::<u64>() >= 329).then_some(())
    })
    .await;

    for (topic, calls) in &expected {
        let stored = admin.read_topic(topic).await;
        assert_eq!(stored.len(), calls.len(), "{topic} holds each call once");
        let bodies: BTreeMap<_, _> =
            stored.iter().map(|message| (message.id.as_deref(), message.json())).collect();
        for webhook in calls {
            let stored = bodies.get(&Some(webhook.delivery.as_str())).copied();
            assert_eq!(stored, Some(webhook.body.as_str()), "{topic} {}", webhook.delivery);
        }
    }

    for (repository, events) in events_by_repository(&webhooks) {
        let counted = eventually(&format!("the count of {repository}"), Duration::from_secs(60), || async {
            let counted = stats(sandbox.gateway(), &repository).await?;
            (counted.values().sum::<u64>() >= events.values().sum()).then_some(counted)
        })
        .await;
        assert_eq!(counted, events, "{repository}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn given_a_wrong_signature_when_a_webhook_is_called_should_refuse_it_and_store_nothing() {
    let webhooks = webhooks();
    let sandbox = sandbox().env("GITHUB_SECRET", "another").start().await;
    apply(&sandbox).await;
    assert_eq!(call(sandbox.gateway(), &webhooks[0]).await, Some(401));
    let unsigned = sandbox.gateway().with_user(None).post("/hooks/github", &json!({})).await;
    let _ = unsigned.problem(401, "unauthenticated");
    assert!(sandbox.admin().read_topic("webhooks").await.is_empty());
    // What a channel does not ask for, the others still do.
    let stats = sandbox.gateway().with_user(None).get("/stats/octocat/hello").await;
    let _ = stats.problem(401, "unauthenticated");
}
