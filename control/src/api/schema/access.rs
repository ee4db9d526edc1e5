//! What permissions and REST channels look like in JSON.
#![allow(dead_code)] // the fields are read by the derive alone

use utoipa::ToSchema;

/// What some users may do.
#[derive(ToSchema)]
pub(crate) struct Permission {
    /// Its name.
    name: String,
    /// Whose it is.
    users: Vec<String>,
    /// Names and patterns of topics they may publish to; absent for none.
    publish: Option<Vec<String>>,
    /// Names and patterns of topics they may read and consume from; absent for none.
    consume: Option<Vec<String>>,
    /// Names and patterns of services they may invoke; absent for none.
    invoke: Option<Vec<String>>,
    /// Whether they may do everything.
    admin: bool,
}

/// A path of the gateway that leads to a service or a topic.
#[derive(ToSchema)]
pub(crate) struct RestChannel {
    /// Its name.
    name: String,
    /// The path it answers to, such as `/orders/{id}`.
    path: String,
    /// The methods it answers to.
    methods: Vec<String>,
    /// The service that is asked; there is either this or a topic.
    service: Option<String>,
    /// The topic that is published to.
    topic: Option<String>,
    /// How long a caller waits.
    timeout: String,
    /// The largest request body, such as `1MiB`.
    max_body: String,
    /// Whether callers must say who they are.
    authenticate: bool,
    /// The header whose value becomes the message's id.
    message_id_header: Option<String>,
    /// The header whose value becomes the message's key.
    key_header: Option<String>,
    /// The signature each request must carry.
    hmac_sha256: Option<Hmac>,
}

/// A signature over a request's body.
#[derive(ToSchema)]
pub(crate) struct Hmac {
    /// The header that carries it.
    header: String,
    /// What stands before the hexadecimal digits.
    prefix: String,
    /// Where the secret is kept: `env:NAME` or `file:/PATH`.
    secret: String,
}
