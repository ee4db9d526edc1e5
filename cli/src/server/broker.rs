//! The broker behind a URL.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crossdock_broker::{Embedded, EmbeddedOptions, JetStream, JetStreamOptions, Remote, RemoteOptions};
use crossdock_topics::{Backoff, Error, ErrorCode, Result, SharedBroker};
use tokio::time::Instant;

use super::credentials;
use crate::env;
use crate::output::say;

/// Which broker a server works on.
#[derive(Clone, Debug)]
pub(crate) enum BrokerUrl {
    /// `rocksdb:PATH`: one in this process, with its data in a directory.
    Embedded(PathBuf),
    /// `crossdock://HOST:PORT`, or `crossdocks://` with TLS: one in another process.
    Remote(String),
    /// `nats://A,B,C`, or `tls://`: one that NATS keeps. All who work on it are equal.
    Nats(Box<JetStreamOptions>),
}

impl BrokerUrl {
    /// The one that is named on the command line, else the one in the environment, where it may hold a login.
    ///
    /// # Errors
    /// `InvalidArgument` when neither names one, and for a login on the command line: others can read that.
    pub(crate) fn given(named: Option<&str>) -> Result<Self> {
        if let Some(text) = named {
            if text.contains('@') && !text.starts_with("rocksdb:") {
                return Err(Error::invalid("what is on the command line can be read by everybody on this machine")
                    .hint("give the URL without the login there, and the login with --credentials FILE; or all of it in CROSSDOCK_BROKER"));
            }
            return text.parse();
        }
        match env::get(env::BROKER)? {
            Some(text) => text.parse(),
            None => Err(Error::invalid("nothing says which broker to work on")
                .hint(format!("name it with --broker or in CROSSDOCK_BROKER: {SHAPES}"))),
        }
    }
}

/// What a URL of a broker looks like.
const SHAPES: &str =
    "rocksdb:PATH, crossdock://HOST:PORT, crossdocks://HOST:PORT with TLS, nats://A,B,C, or tls://A,B,C";

impl FromStr for BrokerUrl {
    type Err = Error;

    /// It may hold a login, and is never repeated where it is wrong.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("rocksdb", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            Some(("crossdock" | "crossdocks", rest)) if rest.contains('@') => Err(Error::invalid(
                "the URL of a Crossdock broker holds no login",
            )
            .hint("set CROSSDOCK_USER and CROSSDOCK_PASSWORD, or CROSSDOCK_API_KEY, or use --credentials")),
            // What is wrong with the rest is said by whoever connects.
            Some(("crossdock" | "crossdocks", _)) => {
                RemoteOptions::new(text).map(|_| Self::Remote(text.into()))
            }
            Some(("nats" | "tls", _)) => Ok(Self::Nats(Box::new(JetStreamOptions::new(text)?))),
            _ => Err(Error::invalid("that names no broker").hint(format!("write {SHAPES}"))),
        }
    }
}

/// How a broker is opened, beside its URL.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opening {
    /// What this process calls itself there.
    pub(crate) name: String,
    /// The certificates to trust of a broker elsewhere.
    pub(crate) ca: Option<PathBuf>,
    /// Whether credentials may be sent where others can read them.
    pub(crate) insecure: bool,
    /// A file with credentials for the broker.
    pub(crate) credentials: Option<PathBuf>,
    /// The saved context that leads to the broker.
    pub(crate) context: Option<String>,
    /// Go on without acknowledged messages that were lost.
    pub(crate) accept_loss: bool,
}

impl Opening {
    /// Opens the broker, waiting for a while for one elsewhere to come up.
    ///
    /// # Errors
    /// `InvalidArgument` for credentials that cannot be used as they are; those of the engine.
    pub(crate) async fn open(&self, url: &BrokerUrl) -> Result<SharedBroker> {
        match url {
            BrokerUrl::Embedded(path) => embedded(path, self.accept_loss).await,
            BrokerUrl::Remote(url) => {
                let mut options = RemoteOptions::new(url)?;
                options.credentials =
                    credentials::crossdock(url, self.credentials.as_deref(), self.context.as_deref())?;
                options.ca.clone_from(&self.ca);
                options.plain_credentials = self.insecure;
                options.name.clone_from(&self.name);
                let shown = options.address.to_string();
                patiently(&shown, || Remote::connect(options.clone()))
                    .await
                    .map(|broker| broker as SharedBroker)
            }
            BrokerUrl::Nats(options) => {
                let options = self.nats((**options).clone())?;
                let shown = options.shown();
                patiently(&shown, || Box::pin(JetStream::open(options.clone())))
                    .await
                    .map(|broker| broker as SharedBroker)
            }
        }
    }

    /// The same, with the login of the credentials file.
    pub(crate) fn nats(&self, mut options: JetStreamOptions) -> Result<JetStreamOptions> {
        if let Some(path) = &self.credentials {
            if options.login.is_some() {
                return Err(Error::invalid("the broker's URL and --credentials both say who is asking")
                    .hint("leave one of them out"));
            }
            options.login = Some(credentials::nats(path)?);
        }
        if let Some(host) = options.exposed_to()
            && !self.insecure
        {
            return Err(Error::invalid(format!(
                "the login would be sent to {host} where others can read it"
            ))
            .hint(
                "use tls:// for an encrypted connection; or say --insecure, where the network is your own",
            ));
        }
        options.ca.clone_from(&self.ca);
        options.name.clone_from(&self.name);
        Ok(options)
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

/// Opens a broker elsewhere, waiting for a while for it to come up.
async fn patiently<B>(shown: &str, open: impl AsyncFn() -> Result<B>) -> Result<B> {
    let backoff = Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(3) };
    let deadline = Instant::now() + PATIENCE;
    let mut failures = 0;
    loop {
        match open().await {
            Ok(broker) => return Ok(broker),
            Err(error) if error.code == ErrorCode::Unavailable && Instant::now() < deadline => {
                if failures == 0 {
                    say(&format!("waiting for the broker at {shown}: {error}"));
                }
                failures += 1;
                tokio::time::sleep(backoff.wait(failures, rand::random())).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_broker_here_or_elsewhere() {
        let read = |text: &str| text.parse::<BrokerUrl>();
        assert!(
            matches!(read("rocksdb:data/broker").unwrap(), BrokerUrl::Embedded(path) if path == Path::new("data/broker"))
        );
        for remote in ["crossdock://b:1", "crossdocks://b:1"] {
            assert!(matches!(read(remote).unwrap(), BrokerUrl::Remote(url) if url == remote));
        }
        let BrokerUrl::Nats(nats) = read("nats://u:s3cret@a,b?sync=always").unwrap() else {
            panic!("not NATS")
        };
        assert_eq!((nats.shown().as_str(), nats.sync_always), ("nats://a:4222,b:4222", true));
        assert!(!format!("{nats:?}").contains("s3cret"));
        for wrong in [
            "",
            "rocksdb:",
            "data",
            "http://b:1",
            "nats:b",
            "tls://",
            "crossdock:b",
            "crossdock://u:s3cret@b",
        ] {
            let error = read(wrong).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{wrong}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn a_login_is_refused_where_others_can_read_it() {
        for url in ["nats://u:s3cret@127.0.0.1", "crossdock://u:s3cret@b"] {
            let error = BrokerUrl::given(Some(url)).unwrap_err();
            assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("CROSSDOCK_BROKER")), "{error}");
            assert!(!error.to_string().contains("s3cret"));
        }
        BrokerUrl::given(Some("rocksdb:/srv/a@b")).unwrap();
        let nats = |url: &str| JetStreamOptions::new(url).unwrap();
        let careful = Opening::default();
        assert!(
            careful.nats(nats("nats://u:s3cret@a.example")).unwrap_err().to_string().contains("a.example")
        );
        careful.nats(nats("nats://a.example")).unwrap();
        let twice = Opening { credentials: Some("file".into()), ..careful.clone() };
        assert!(twice.nats(nats("nats://t@127.0.0.1")).unwrap_err().to_string().contains("both"));
        Opening { insecure: true, ..careful }.nats(nats("nats://u:p@a.example")).unwrap();
    }
}
