//! A whole platform in one process: broker, services, gateway and Admin API.

pub(crate) mod cluster;
mod directory;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossdock_broker::remote::ServeOptions;
use crossdock_topics::{Error, ErrorCode, SharedBroker, Store};
use serde::Serialize;

use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::env;
use crate::failure::{Failure, Result};
use crate::output::say;
use crate::server::admin::{ADMIN, Admin, Password};
use crate::server::ports::{Place, Ports};
use crate::server::signals::Signals;
use crate::server::{self, GRACE, Parts, Server};

use directory::Directory;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where everything is kept.
    pub(crate) directory: PathBuf,
    /// The first port; 0 for any that are free.
    pub(crate) port_base: u16,
    /// Go on without acknowledged messages that were lost.
    pub(crate) accept_loss: bool,
}

/// A platform that is ready.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// Where everything is kept.
    pub(crate) directory: PathBuf,
    /// Where messages come and go.
    pub(crate) gateway_url: String,
    /// Where the platform is administered.
    pub(crate) admin_url: String,
    /// Where its broker is reached over the wire.
    pub(crate) broker_url: Option<String>,
    /// Who may do everything.
    pub(crate) user: String,
    /// The password, if it was made just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    /// What is to be known about the password otherwise.
    #[serde(skip)]
    pub(crate) password_note: Option<String>,
    /// How long the start took, in milliseconds.
    pub(crate) ready_in_ms: u64,
}

/// Runs until it is told to stop. `ready` is called once, when requests are answered.
///
/// # Errors
/// When something does not start, or ends before it was told to; `Conflict` when the directory or a port is in
/// use.
pub(crate) async fn run(options: Options, ready: impl FnOnce(&Ready) -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let signals = Signals::listen()?;
    let directory = Directory::open(&options.directory)?;
    if directory.nats_login().exists() {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!("{} is a cluster's", directory.path().display()),
        )
        .hint("start it with --cluster, or name another directory")
        .into());
    }
    let broker = open(&directory, options.accept_loss).await?;
    let started = async {
        let ports = Ports::bind(Place::local(options.port_base)).await?;
        let (gateway_url, admin_url) = ports.urls(None)?;
        let broker_url = ports.broker_url(None, false)?;
        let context = Context {
            url: admin_url.clone(),
            gateway_url: Some(gateway_url.clone()),
            broker_url: broker_url.clone(),
            user: None,
            password: None,
            api_key: None,
        };
        let (context, password) = own(&directory, &*broker, context).await?;
        let parts = Parts {
            name: server::machine(),
            broker: broker.clone(),
            services: directory.services(),
            ports,
            gateway_url,
            broker_url,
            wire: ServeOptions::default(),
        };
        let server = Server::start(parts).await?;
        answers(&context, READY).await?;
        Ok::<_, Error>((server, context, password))
    };
    let (server, context, password) = match started.await {
        Ok(started) => started,
        Err(error) => {
            let _ = tokio::time::timeout(GRACE, broker.close()).await;
            return Err(error.into());
        }
    };
    let note = note(&password, &directory);
    ready(&Ready {
        directory: directory.path().to_owned(),
        gateway_url: context.gateway_url.unwrap_or_default(),
        admin_url: context.url,
        broker_url: context.broker_url,
        user: ADMIN.into(),
        password: if let Password::Made(password) = password { Some(password) } else { None },
        password_note: note,
        ready_in_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
    // Nobody has to read it.
    .or_else(|failure| if matches!(failure, Failure::OutputClosed) { Ok(()) } else { Err(failure) })?;

    server.until_told(signals).await
}

/// Makes the user `admin` of the platform that is reached so, and saves how: in the directory, and for the command line.
///
/// # Errors
/// Those of the store, and of the directory's files.
async fn own(
    directory: &Directory,
    store: &dyn Store,
    reached: Context,
) -> Result<(Context, Password), Error> {
    let saved = directory.context()?;
    let admin = Admin::load(store).await?;
    let password = admin.decide(saved.and_then(|context| context.password), env::admin_password()?);
    let known = password.known().map(str::to_owned);
    let context = Context { user: Some(ADMIN.into()), password: known, ..reached };
    // Before the store knows the password: whatever happens in between, it is not lost.
    directory.save(&context)?;
    let before = admin.exists();
    if let Some(permission) = admin.permit(store).await?.filter(|_| before) {
        say(&format!("the user {ADMIN} was no administrator any more: made permission {permission}"));
    }
    admin.set(store, &password).await?;
    save(directory, &context);
    Ok((context, password))
}

async fn open(directory: &Directory, accept_loss: bool) -> Result<SharedBroker, Error> {
    server::broker::embedded(&directory.broker(), accept_loss).await.map_err(|error| match error.code {
        ErrorCode::Conflict => Error::new(
            ErrorCode::Conflict,
            format!("{} is in use by another process", directory.path().display()),
        )
        .hint(
            "it runs already: use it, stop it first, or start this one in another directory with other ports",
        ),
        _ => error,
    })
}

/// Makes the command line work at once. Where there is no home to save to, the directory's own context and
/// the environment are left.
fn save(directory: &Directory, context: &Context) {
    let name = directory.path().display().to_string();
    let saved = match env::config_dir() {
        Some(config) => Contexts::save(&config, &name, context.clone()),
        None => Err(Error::invalid("neither XDG_CONFIG_HOME nor HOME is set")),
    };
    if let Err(error) = saved {
        say(&format!(
            "the command line will not find this platform by itself ({error}): set CROSSDOCK_URL, \
             CROSSDOCK_USER and CROSSDOCK_PASSWORD as in {}",
            directory.context_file().display()
        ));
    }
}

/// How long a server may take to answer.
const READY: Duration = Duration::from_secs(10);

/// Resolves once both faces answer.
async fn answers(context: &Context, within: Duration) -> Result<(), Error> {
    let client = Client::new(context.clone(), None)?;
    let gateway = client.at(context.gateway_url.as_deref().unwrap_or(&context.url))?;
    let deadline = Instant::now() + within;
    loop {
        let asked = async {
            client.drained(client.api(reqwest::Method::GET, &["health"])).await?;
            gateway.drained(gateway.request(reqwest::Method::GET, &["health"])).await
        };
        match asked.await {
            Ok(()) => return Ok(()),
            Err(error) if error.code == ErrorCode::Unavailable && Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn note(password: &Password, directory: &Directory) -> Option<String> {
    match password {
        Password::Made(_) => None,
        Password::Given(_) => Some(format!("as given in {}", env::ADMIN_PASSWORD)),
        Password::Kept(Some(_)) => Some(format!("as before, in {}", directory.context_file().display())),
        Password::Kept(None) => {
            Some(format!("as before; not known here any more: set {} to give a new one", env::ADMIN_PASSWORD))
        }
    }
}
