//! The broker behind a URL.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crossdock_access::Credentials;
use crossdock_broker::{Embedded, EmbeddedOptions, Remote, RemoteOptions};
use crossdock_topics::{Backoff, Error, ErrorCode, Result, SharedBroker};
use secrecy::SecretString;
use tokio::time::Instant;

use crate::context::{Context, Contexts};
use crate::output::say;
use crate::{env, failure};

/// Which broker a server works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BrokerUrl {
    /// `rocksdb:PATH`: one in this process, with its data in a directory.
    Embedded(PathBuf),
    /// `crossdock://HOST:PORT`, or `crossdocks://` with TLS: one in another process.
    Remote(String),
}

impl FromStr for BrokerUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("rocksdb", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            // What is wrong with the rest is said by whoever connects.
            Some(("crossdock" | "crossdocks", _)) => {
                RemoteOptions::new(text).map(|_| Self::Remote(text.into()))
            }
            _ => Err(Error::invalid(format!("{text:?} names no broker"))
                .hint("write rocksdb:PATH, crossdock://HOST:PORT, or crossdocks://HOST:PORT with TLS")),
        }
    }
}

/// Opens a broker in this process.
///
/// # Errors
/// `Conflict` when another process has it open.
pub(crate) async fn embedded(path: &Path, accept_loss: bool) -> Result<SharedBroker> {
    let options = EmbeddedOptions { accept_loss, ..EmbeddedOptions::new(path.to_owned()) };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(options)).await;
    let opened = opened.map_err(|cause| Error::internal(format!("opening the broker failed: {cause}")))?;
    opened.map(|broker| broker as SharedBroker).map_err(|error| match error.code {
        ErrorCode::Conflict => {
            Error::new(ErrorCode::Conflict, format!("{} is in use by another process", path.display()))
        }
        _ => error,
    })
}

/// How long to wait for a broker that is not there yet.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connects to a broker in another process, waiting for a while for it to come up.
///
/// # Errors
/// Those of [`Remote::connect`].
pub(crate) async fn remote(options: RemoteOptions) -> Result<SharedBroker> {
    let backoff = Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(3) };
    let deadline = Instant::now() + PATIENCE;
    let mut failures = 0;
    loop {
        match Remote::connect(options.clone()).await {
            Ok(broker) => return Ok(broker),
            Err(error) if error.code == ErrorCode::Unavailable && Instant::now() < deadline => {
                if failures == 0 {
                    say(&format!("waiting for the broker at {}: {error}", options.address));
                }
                failures += 1;
                tokio::time::sleep(backoff.wait(failures, rand::random())).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// How a broker elsewhere is reached, and as whom: as the environment says, or a file, or the saved context that leads to
/// that broker. Never as the command line says, which others can read.
///
/// # Errors
/// `InvalidArgument` for half of the credentials; when a file cannot be read.
pub(crate) fn options(url: &str, file: Option<&Path>, context: Option<&str>) -> Result<RemoteOptions> {
    let mut options = RemoteOptions::new(url)?;
    options.credentials = credentials(url, file, context)?;
    Ok(options)
}

fn credentials(url: &str, file: Option<&Path>, context: Option<&str>) -> Result<Option<Credentials>> {
    let from_env = match (env::get(env::API_KEY)?, env::get(env::USER)?, env::get(env::PASSWORD)?) {
        (Some(key), _, _) => Some(Credentials::ApiKey(SecretString::from(key))),
        (None, Some(user), Some(password)) => {
            Some(Credentials::Basic { user, password: SecretString::from(password) })
        }
        (None, Some(_), None) | (None, None, Some(_)) => {
            return Err(Error::invalid("of CROSSDOCK_USER and CROSSDOCK_PASSWORD only one is set")
                .hint("set both, or CROSSDOCK_API_KEY"));
        }
        (None, None, None) => None,
    };
    if from_env.is_some() {
        return Ok(from_env);
    }
    let context = match (file, env::config_dir()) {
        (Some(path), _) => Some(read(path)?),
        (None, Some(directory)) => Contexts::load(&directory)?.for_broker(url, context)?,
        (None, None) => None,
    };
    Ok(context.and_then(|context| context.credentials()))
}

/// A file with credentials: a context, such as the `context.json` of a quickstart.
fn read(path: &Path) -> Result<Context> {
    let text = fs::read(path).map_err(|cause| failure::file("read", path, &cause))?;
    serde_json::from_slice(&text).map_err(|cause| {
        Error::invalid(format!("{} has no credentials: {cause}", path.display())).hint(
            "it is like the context.json that quickstart writes: {\"url\": ..., \"user\": ..., \"password\": ...}",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_broker_here_or_elsewhere() {
        let read = |text: &str| text.parse::<BrokerUrl>();
        assert_eq!(read("rocksdb:data/broker").unwrap(), BrokerUrl::Embedded("data/broker".into()));
        assert_eq!(read("crossdock://b:1").unwrap(), BrokerUrl::Remote("crossdock://b:1".into()));
        assert_eq!(read("crossdocks://b:1").unwrap(), BrokerUrl::Remote("crossdocks://b:1".into()));
        for wrong in ["", "rocksdb:", "data", "http://b:1", "nats://b", "crossdock:b"] {
            assert_eq!(read(wrong).unwrap_err().code, ErrorCode::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn credentials_are_read_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"url": "http://h:1", "user": "ada", "password": "pw"}"#).unwrap();
        let context = read(file.path()).unwrap();
        assert!(matches!(context.credentials(), Some(Credentials::Basic { user, .. }) if user == "ada"));
        fs::write(file.path(), "ada:pw").unwrap();
        assert!(read(file.path()).unwrap_err().to_string().contains("context.json"));
        assert!(!read(file.path()).unwrap_err().to_string().contains("pw"), "nothing of it is shown");
    }
}
