//! Real GitHub webhooks, and how GitHub signs them.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha256;

/// One webhook call.
#[derive(Debug)]
pub struct Webhook {
    /// What `X-GitHub-Event` says.
    pub event: String,
    /// What `X-GitHub-Delivery` says: differs for each call.
    pub delivery: String,
    /// The body, byte for byte as in the file.
    pub body: String,
    /// The repository it is about, if it is about one.
    pub repository: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    event: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct Payload {
    repository: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: Option<String>,
}

/// The 329 calls of `tests/data/github-webhooks.jsonl`, in its order.
///
/// # Panics
/// When the file is not what its note says.
#[must_use]
pub fn webhooks() -> Vec<Webhook> {
    let text = include_str!("../data/github-webhooks.jsonl");
    let parse = |(number, line): (usize, &str)| {
        let line: Line<'_> = serde_json::from_str(line).expect("a line of event and payload");
        let body = line.payload.get().to_owned();
        let payload: Payload = serde_json::from_str(&body).expect("a JSON payload");
        let repository = payload.repository.and_then(|repository| repository.full_name);
        Webhook { event: line.event, delivery: format!("delivery-{number:04}"), body, repository }
    };
    text.lines().enumerate().map(parse).collect()
}

/// How many calls there are about each repository.
#[must_use]
pub fn events_by_repository(webhooks: &[Webhook]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for webhook in webhooks {
        if let Some(repository) = &webhook.repository {
            *counts.entry(repository.clone()).or_default().entry(webhook.event.clone()).or_default() += 1;
        }
    }
    counts
}

/// The value of `X-Hub-Signature-256` for a body.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(body);
    let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_what_its_note_says() {
        let webhooks = webhooks();
        assert_eq!(webhooks.len(), 329);
        let events: std::collections::BTreeSet<_> = webhooks.iter().map(|webhook| &webhook.event).collect();
        assert_eq!(events.len(), 58);
        assert!(events_by_repository(&webhooks).len() > 1);
    }

    #[test]
    fn signatures_are_those_of_githubs_documentation() {
        // https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
        assert_eq!(
            signature("It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
