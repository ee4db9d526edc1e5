//! `crossdock server`: gateway, workers and Admin API on a broker of one's own or of another process.

use std::fs::{DirBuilder, File};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crossdock_broker::remote::{ServeOptions, ServerTls};
use crossdock_topics::{Error, ErrorCode, Store};
use serde::Serialize;

use super::admin::{ADMIN, Admin, Password};
use super::broker::{BrokerUrl, Opening};
use super::ports::{self, Place, Ports};
use super::signals::Signals;
use super::{GRACE, Parts, Server, machine};
use crate::env;
use crate::failure::{self, Failure, Result};
use crate::output::say;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Which broker it works on.
    pub(crate) broker: BrokerUrl,
    /// Its own directory: services are run from it.
    pub(crate) directory: PathBuf,
    /// What it is called.
    pub(crate) name: Option<String>,
    /// Where it listens.
    pub(crate) place: Place,
    /// The host under which others reach it, if that is another one.
    pub(crate) advertise: Option<String>,
    /// The certificate with its chain, and its key, that encrypt the wire.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// How the broker is opened; what is insecure there is so for listeners too.
    pub(crate) opening: Opening,
}

/// A server that is ready.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// What it is called.
    pub(crate) name: String,
    /// Where messages come and go.
    pub(crate) gateway_url: String,
    /// Where the platform is administered.
    pub(crate) admin_url: String,
    /// Where its broker is reached over the wire.
    pub(crate) broker_url: Option<String>,
    /// How long the start took, in milliseconds.
    pub(crate) ready_in_ms: u64,
}

/// Runs until it is told to stop. `ready` is called once, when requests are answered.
///
/// # Errors
/// When something does not start, or ends before it was told to.
pub(crate) async fn run(options: Options, ready: impl FnOnce(&Ready) -> Result<()>) -> Result<()> {
    let began = Instant::now();
    options.check()?;
    let tls =
        options.tls.as_ref().map(|(certificate, key)| ServerTls::from_files(certificate, key)).transpose()?;
    let mut signals = Signals::listen()?;
    let _lock = lock(&options.directory)?;
    let opened = tokio::select! {
        opened = options.opening.open(&options.broker) => opened?,
        // Waiting for a broker that does not come.
        () = signals.next() => return Ok(()),
    };
    let started = async {
        options.admit(&*opened).await?;
        let ports = Ports::bind(options.place).await?;
        let host = options.advertise.as_deref();
        let (gateway_url, admin_url) = ports.urls(host)?;
        let broker_url = match &options.broker {
            BrokerUrl::Embedded(_) | BrokerUrl::Nats(_) => ports.broker_url(host, options.encrypted())?,
            BrokerUrl::Remote(url) => Some(url.clone()),
        };
        let name = match &options.name {
            Some(name) => name.clone(),
            None => format!("{}-{}", machine(), ports::address(&ports.gateway)?.port()),
        };
        let ready = Ready {
            name: name.clone(),
            gateway_url: gateway_url.clone(),
            admin_url,
            broker_url: broker_url.clone(),
            ready_in_ms: 0,
        };
        let parts = Parts {
            name,
            broker: opened.clone(),
            services: options.directory.join("services"),
            ports,
            gateway_url,
            broker_url,
            wire: ServeOptions { tls, ..ServeOptions::default() },
        };
        Ok::<_, Error>((Server::start(parts).await?, ready))
    };
    let (server, told) = match started.await {
        Ok(started) => started,
        Err(error) => {
            let _ = tokio::time::timeout(GRACE, opened.close()).await;
            return Err(error.into());
        }
    };
    let ready_in_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    ready(&Ready { ready_in_ms, ..told })
        // Nobody has to read it.
        .or_else(|failure| if matches!(failure, Failure::OutputClosed) { Ok(()) } else { Err(failure) })?;
    server.until_told(signals).await
}

impl Options {
    /// Refuses what others could listen to without anybody having wanted it.
    fn check(&self) -> Result<(), Error> {
        let open = |ip: IpAddr| !ip.is_loopback() && !self.opening.insecure;
        let refuse = |what: &str, ip: IpAddr, hint: &str| {
            let message =
                format!("{what} would be reached from other machines on {ip}, and is not encrypted");
            Err(Error::invalid(message).hint(hint.to_owned()))
        };
        if open(self.place.http) {
            return refuse(
                "HTTP, with users' passwords,",
                self.place.http,
                "put something that speaks TLS in front of it, on this machine; or say --insecure, where the network is \
                 your own",
            );
        }
        match self.place.wire {
            Some(ip) if open(ip) && !self.encrypted() => refuse(
                "the broker's wire",
                ip,
                "give it --tls-cert and --tls-key; or say --insecure, where the network is your own",
            ),
            _ => Ok(()),
        }
    }

    /// Makes the password of the user `admin` as the environment says, where no other process of ours has the broker.
    async fn admit(&self, broker: &dyn Store) -> Result<(), Error> {
        if let BrokerUrl::Remote(_) = self.broker {
            return Ok(());
        }
        let given = env::admin_password()?;
        loop {
            let admin = Admin::load(broker).await?;
            match given.clone() {
                Some(given) => {
                    admin.permit(broker).await?;
                    match admin.set(broker, &Password::Given(given)).await {
                        // Another server of the cluster was faster: what it has made is looked at.
                        Err(error) if error.code == ErrorCode::Conflict => {}
                        done => return done,
                    }
                }
                None => {
                    if !admin.exists() {
                        let variable = env::ADMIN_PASSWORD;
                        say(&format!(
                            "there is no user {ADMIN} yet: set {variable} to make one, who may do everything"
                        ));
                    }
                    return Ok(());
                }
            }
        }
    }

    fn encrypted(&self) -> bool {
        self.tls.is_some()
    }
}

/// Makes the directory and takes it: two servers in one would sweep away each other's services.
///
/// # Errors
/// `Conflict` when another process has it.
pub(crate) fn lock(directory: &Path) -> Result<File, Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|cause| failure::file("make the directory", directory, &cause))?;
    let path = directory.join("lock");
    let file = File::create(&path).map_err(|cause| failure::file("make", &path, &cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorCode::Conflict,
            format!("{} belongs to another server that runs", directory.display()),
        )
        .hint("give each its own with --dir")),
        Err(std::fs::TryLockError::Error(cause)) => Err(failure::file("lock", &path, &cause)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn options(http: IpAddr, wire: Option<IpAddr>, insecure: bool) -> Options {
        Options {
            broker: BrokerUrl::Embedded("data".into()),
            directory: "server".into(),
            name: None,
            place: Place { base: 0, http, wire },
            advertise: None,
            tls: None,
            opening: Opening { insecure, ..Opening::default() },
        }
    }

    #[test]
    fn what_is_not_encrypted_stays_on_this_machine_unless_that_is_wanted() {
        let (here, everywhere) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into());
        options(here, Some(here), false).check().unwrap();
        options(here, None, false).check().unwrap();
        for (http, wire) in [(everywhere, None), (here, Some(everywhere))] {
            let error = options(http, wire, false).check().unwrap_err();
            assert!(error.hint.unwrap().contains("--insecure"));
            options(http, wire, true).check().unwrap();
        }
        let tls = Some(("cert.pem".into(), "key.pem".into()));
        Options { tls, ..options(here, Some(everywhere), false) }.check().unwrap();
    }

    #[test]
    fn a_directory_belongs_to_one_server() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("server");
        let held = lock(&path).unwrap();
        assert_eq!(lock(&path).unwrap_err().code, ErrorCode::Conflict);
        drop(held);
        lock(&path).unwrap();
    }
}
