//! Who a client is, and which version of the protocol is spoken.

use std::future::poll_fn;
use std::sync::Arc;

use crossdock_access::Credentials;
use crossdock_topics::{Error, ErrorCode, Result};
use crossdock_wire::session::{self, Login, ToClient, ToServer};
use secrecy::SecretString;

use super::Host;
use super::frames;
use super::gate::Gate;
use crate::remote::pieces::Pieces;
use crate::remote::pipe::Pipe;

/// The longest name of a client that is kept.
const NAME: usize = 200;

/// A client that has said who it is.
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) gate: Gate,
}

/// Takes a client's first frame and answers it. Whoever calls bounds the time.
///
/// # Errors
/// What is told to a client that is refused.
pub(super) async fn greet(server: &Arc<Host>, pipe: &mut Pipe) -> Result<Guest> {
    let frame = poll_fn(|cx| pipe.poll_frame(cx)).await.map_err(|error| frames::malformed(&error))?;
    let frame = frame.ok_or_else(|| Error::invalid("it closed the connection before it said anything"))?;
    let header = frame.header().map_err(|error| frames::malformed(&error))?;
    let ToServer::Hello { min, max, name, login, .. } = header else {
        return Err(Error::invalid("the first frame must be Hello"));
    };
    if !(min..=max).contains(&session::VERSION) {
        let spoken = session::VERSION;
        return Err(Error::invalid(format!(
            "the client speaks versions {min} to {max} of the protocol, this server speaks {spoken}"
        ))
        .hint("use a client and a server of the same release"));
    }
    let gate = match (&server.access, login) {
        (None, _) => Gate::wide_open(),
        (Some(_), None) => {
            return Err(Error::new(ErrorCode::Unauthenticated, "this server wants to know who is asking")
                .hint("give a user and a password, or an API key"));
        }
        (Some(access), Some(login)) => Gate::open(access.clone(), credentials(login)).await?,
    };
    let limit = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    let welcome = ToClient::Welcome {
        id: 0,
        version: session::VERSION,
        server: server.options.name.clone(),
        heartbeat_ms: u64::try_from(server.options.heartbeat.as_millis()).unwrap_or(u64::MAX),
        max_header: limit(session::MAX_HEADER),
        max_payload: limit(session::MAX_PAYLOAD),
        max_requests: limit(server.options.requests),
        max_deliveries: limit(session::MAX_DELIVERIES),
    };
    pipe.send(&welcome, Pieces::default()).map_err(|error| frames::malformed(&error))?;
    pipe.greeted();
    let mut name = name;
    name.truncate(name.floor_char_boundary(NAME));
    Ok(Guest { name, gate })
}

fn credentials(Login(user, secret): Login) -> Credentials {
    let secret = SecretString::from(secret);
    match user {
        Some(user) => Credentials::Basic { user, password: secret },
        None => Credentials::ApiKey(secret),
    }
}
