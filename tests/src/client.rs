//! Talking HTTP to a server of the sandbox.

use std::time::{Duration, Instant};

use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Answer;

/// An HTTP client of one address, with somebody's credentials. Every request has a deadline.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    user: Option<(String, String)>,
}

/// A message as it lies in a topic.
#[derive(Clone, Debug, Deserialize)]
pub struct Stored {
    /// Its offset.
    pub offset: u64,
    /// Its id.
    #[serde(default)]
    pub id: Option<String>,
    /// Its key.
    #[serde(default)]
    pub key: Option<String>,
    /// Its payload where it is JSON, byte for byte.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    /// Its payload where it is not.
    #[serde(default)]
    pub data_base64: Option<String>,
}

impl Stored {
    /// The payload's JSON text, or nothing.
    #[must_use]
    pub fn json(&self) -> &str {
        self.data.as_ref().map_or("", |data| data.get())
    }
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Stored>,
    next: u64,
}

impl Client {
    /// A client of this address.
    ///
    /// # Panics
    /// When it is not a URL.
    #[must_use]
    pub fn new(base: &str, user: Option<(String, String)>) -> Self {
        let http = crate::tls::http().timeout(Duration::from_secs(60)).no_proxy().build();
        Self { http: http.expect("an HTTP client"), base: base.parse().expect("a URL"), user }
    }

    /// The same, as somebody else, or as nobody.
    #[must_use]
    pub fn with_user(&self, user: Option<(&str, &str)>) -> Self {
        Self { user: user.map(|(name, password)| (name.into(), password.into())), ..self.clone() }
    }

    /// `host:port`, for those who speak to it in their own way.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.base.host_str().unwrap_or_default(), self.base.port().unwrap_or_default())
    }

    /// The value of an `Authorization` header with these credentials.
    #[must_use]
    pub fn authorization(&self) -> String {
        let (name, password) = self.user.clone().unwrap_or_default();
        let request = self.http.get(self.base.clone()).basic_auth(name, Some(password)).build();
        let request = request.expect("a request");
        request.headers()["authorization"].to_str().unwrap_or_default().to_owned()
    }

    /// Sends a request. `Err` when nobody answered.
    ///
    /// # Errors
    /// Says what happened to the connection.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Result<Answer, String> {
        let asked = format!("{method} {path}");
        let method: Method = method.parse().map_err(|_| format!("{asked}: no method"))?;
        let url = self.base.join(path).map_err(|cause| format!("{asked}: {cause}"))?;
        let mut request = self.http.request(method, url).body(body.into());
        if let Some((name, password)) = &self.user {
            request = request.basic_auth(name, Some(password));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let start = Instant::now();
        let response = request.send().await.map_err(|cause| format!("{asked}: {cause:?}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.map_err(|cause| format!("{asked}: {cause:?}"))?.to_vec();
        Ok(Answer { asked, status, headers, body, took: start.elapsed() })
    }

    /// `GET`, which must be answered.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new()).await.unwrap_or_else(|cause| panic!("{cause}"))
    }

    /// `POST` of JSON, which must be answered.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_as("application/json", path, body.to_string()).await
    }

    /// `POST` of anything, which must be answered.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn post_as(&self, content_type: &str, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        let sent = self.send("POST", path, &[("content-type", content_type)], body).await;
        sent.unwrap_or_else(|cause| panic!("{cause}"))
    }

    /// `PUT` of JSON, which must be answered.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        let sent = self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await;
        sent.unwrap_or_else(|cause| panic!("{cause}"))
    }

    /// Publishes one JSON message on a topic (of the gateway), and checks that it is stored.
    ///
    /// # Panics
    /// When it is not.
    pub async fn publish(&self, topic: &str, message: &Value) -> Answer {
        self.post(&format!("/topics/{topic}/messages"), message).await.expect(201)
    }

    /// Takes messages of a subscription (of the gateway), waiting for the first one for up to 2 s.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn fetch(&self, subscription: &str, max: usize) -> Vec<Value> {
        let path = format!("/subscriptions/{subscription}/messages?max={max}&wait=2s");
        let answer = self.get(&path).await.expect(200).json();
        answer["messages"].as_array().cloned().unwrap_or_default()
    }

    /// Acknowledges messages that were fetched (at the gateway).
    ///
    /// # Panics
    /// When it is refused.
    pub async fn ack(&self, subscription: &str, messages: &[Value]) -> Answer {
        let deliveries: Vec<_> = messages.iter().map(|message| message["delivery"].clone()).collect();
        self.post(&format!("/subscriptions/{subscription}/settle"), &json!({ "ack": deliveries }))
            .await
            .expect(200)
    }

    /// All messages of a topic (of the Admin API), from its start.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn read_topic(&self, topic: &str) -> Vec<Stored> {
        let mut all = Vec::new();
        let mut from = "start".to_owned();
        loop {
            let path = format!("/api/v1/topics/{topic}/messages?from={from}&max=1000&wait=0s");
            let answer = self.get(&path).await.expect(200);
            let page: Page =
                serde_json::from_slice(&answer.body).unwrap_or_else(|cause| panic!("{path}: {cause}"));
            if page.messages.is_empty() {
                return all;
            }
            all.extend(page.messages);
            from = page.next.to_string();
        }
    }
}
