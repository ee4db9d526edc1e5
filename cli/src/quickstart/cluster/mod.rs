//! A cluster on one machine, for trying it out: three nats-servers and three servers, each a process of its own, which this
//! one starts, keeps running, and stops in order.

mod nats;
mod places;
mod program;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use crossdock_topics::{Error, ErrorCode, Result as Outcome};
use futures::future::{BoxFuture, try_join_all};
use serde::Serialize;
use tokio::sync::watch;

use super::directory::Directory;
use super::{answers, note, own};
use crate::context::{Context, Contexts};
use crate::env;
use crate::failure::{Failure, Result};
use crate::output::say;
use crate::server::admin::{ADMIN, Password};
use crate::server::broker::{BrokerUrl, Opening};
use crate::server::run::lock;
use crate::server::signals::Signals;

use nats::Login;
use places::{Places, SERVERS};
use program::{Phase, Program};

/// How long a server may take to stop: each of its parts has its own, shorter time.
const GRACE: Duration = Duration::from_secs(60);
/// How long all may take to be ready.
const READY: Duration = Duration::from_secs(90);

/// How long nobody needs to be told what is waited for.
const QUIET: Duration = Duration::from_secs(3);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where everything is kept.
    pub(crate) directory: PathBuf,
    /// The first port; 0 for any that are free.
    pub(crate) port_base: u16,
    /// The program nats-server, where it is named.
    pub(crate) nats_server: Option<PathBuf>,
}

/// A cluster that is ready.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// Where everything is kept.
    pub(crate) directory: PathBuf,
    /// The servers, which are equal.
    pub(crate) servers: Vec<ServerAt>,
    /// Where NATS is; the login is in `nats.json` in the directory.
    pub(crate) nats_url: String,
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

/// Where one server is.
#[derive(Debug, Serialize)]
pub(crate) struct ServerAt {
    /// What it is called.
    pub(crate) name: String,
    /// Where messages come and go.
    pub(crate) gateway_url: String,
    /// Where the platform is administered.
    pub(crate) admin_url: String,
    /// Where clients of the wire go.
    pub(crate) broker_url: String,
}

/// Runs until it is told to stop. `ready` is called once, when every server answers.
///
/// # Errors
/// When something does not start, or ends again and again; `NotFound` without nats-server; `Conflict` when the directory
/// or a port is in use; [`Failure::Interrupted`] at a second signal.
pub(crate) async fn run(options: Options, ready: impl FnOnce(&Ready) -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let mut signals = Signals::listen()?;
    let binary = nats::find(options.nats_server)?;
    let directory = Directory::open(&options.directory)?;
    let _lock = lock(directory.path())?;
    if directory.broker().exists() {
        return Err(Error::new(
            ErrorCode::Conflict,
            format!("{} is a quickstart's without --cluster", directory.path().display()),
        )
        .hint("name another directory; `crossdock migrate` moves what is in this one")
        .into());
    }
    let places = Places::find(options.port_base)?;
    let login_file = directory.nats_login();
    let login = Login::kept(&login_file)?;
    let nodes: Outcome<Vec<_>> =
        (0..SERVERS).map(|number| nats::node(&binary, directory.path(), number, &places, &login)).collect();
    let (nodes, broker) = (nodes?, places.nats_url());
    let programs = servers(directory.path(), &places, &broker, &login_file)?;

    // All of it is awaited here, on the first thread: see `Program::keep`.
    let mut nats = Group::of(&nodes);
    let admin = async {
        let opening = Opening {
            name: "quickstart".into(),
            credentials: Some(login_file.clone()),
            ..Opening::default()
        };
        let url = BrokerUrl::given(Some(&broker))?;
        let opened = opening.open(&url);
        tokio::pin!(opened);
        let broker = tokio::select! {
            opened = &mut opened => opened?,
            () = tokio::time::sleep(QUIET) => {
                say("waiting for NATS to elect its leaders: up to ten seconds after a stop");
                opened.await?
            }
        };
        let first = context(&at(&places, 0));
        let owned = own(&directory, &*broker, first).await;
        broker.close().await;
        owned
    };
    let Some(owned) = nats.beside(&mut signals, Box::pin(admin)).await? else {
        return nats.stop(&mut signals).await;
    };
    let (first, password) = owned;
    nats.go_on();
    save(&directory, &places, &first);

    let mut group = Group::of(&programs);
    let answering = async {
        for number in 0..SERVERS {
            let context = Context {
                user: first.user.clone(),
                password: first.password.clone(),
                ..context(&at(&places, number))
            };
            answers(&context, READY).await?;
        }
        Ok(())
    };
    let started = {
        let watched = group.beside(&mut signals, Box::pin(answering));
        tokio::select! {
            started = watched => started?,
            failed = nats.ended() => return Err(failed),
        }
    };
    if started.is_some() {
        group.go_on();
        let note = note(&password, &directory);
        ready(&Ready {
            directory: directory.path().to_owned(),
            servers: (0..SERVERS).map(|number| at(&places, number)).collect(),
            nats_url: broker.clone(),
            user: ADMIN.into(),
            password: if let Password::Made(password) = password { Some(password) } else { None },
            password_note: note,
            ready_in_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
        // Nobody has to read it.
        .or_else(|failure| if matches!(failure, Failure::OutputClosed) { Ok(()) } else { Err(failure) })?;
        tokio::select! {
            failed = nats.ended() => return Err(failed),
            failed = group.ended() => return Err(failed),
            () = signals.next() => {}
        }
    }
    say("stopping: the servers finish what is under way, then NATS stops. Ctrl-C again ends all at once");
    tokio::select! {
        stopped = group.stop(&mut signals) => stopped?,
        failed = nats.ended() => return Err(failed),
    }
    nats.stop(&mut signals).await
}

/// Programs that are kept running together.
struct Group<'a> {
    phase: watch::Sender<Phase>,
    all: BoxFuture<'a, Outcome<()>>,
}

impl<'a> Group<'a> {
    fn of(programs: &'a [Program]) -> Self {
        let (phase, seen) = watch::channel(Phase::Starting);
        let all = try_join_all(programs.iter().map(|program| program.keep(seen.clone())).collect::<Vec<_>>());
        Self { phase, all: Box::pin(async { all.await.map(drop) }) }
    }

    /// Does something while they run; gives nothing when it was told to stop first.
    async fn beside<T>(
        &mut self,
        signals: &mut Signals,
        doing: Pin<Box<impl Future<Output = Outcome<T>>>>,
    ) -> Result<Option<T>> {
        tokio::select! {
            failed = self.ended() => Err(failed),
            () = signals.next() => Ok(None),
            done = doing => Ok(Some(done?)),
        }
    }

    /// From now on one that ends is started again.
    fn go_on(&self) {
        self.phase.send_replace(Phase::Running);
    }

    /// Resolves when one of them cannot be kept running.
    async fn ended(&mut self) -> Failure {
        match (&mut self.all).await {
            Err(error) => error.into(),
            Ok(()) => Error::internal("a program stopped that was not told to").into(),
        }
    }

    /// Stops all of them.
    async fn stop(&mut self, signals: &mut Signals) -> Result<()> {
        self.phase.send_replace(Phase::Stopping);
        tokio::select! {
            stopped = &mut self.all => Ok(stopped?),
            () = signals.next() => Err(Failure::Interrupted),
        }
    }
}

/// The servers: this program again, each with a directory of its own.
fn servers(directory: &Path, places: &Places, broker: &str, login: &Path) -> Outcome<Vec<Program>> {
    let path = std::env::current_exe()
        .map_err(|cause| Error::internal(format!("cannot find this program: {cause}")))?;
    let server = |number: usize| {
        let name = name(number);
        let port = places.servers[number].to_string();
        let own = directory.join(&name);
        let mut arguments: Vec<std::ffi::OsString> = vec!["server".into(), "--broker".into(), broker.into()];
        arguments.extend(["--credentials".into(), login.into(), "--dir".into(), own.into()]);
        arguments.extend(["--name".into(), name.clone().into(), "--port-base".into(), port.into()]);
        Program { name, path: path.clone(), arguments, log: None, grace: GRACE }
    };
    Ok((0..SERVERS).map(server).collect())
}

fn name(number: usize) -> String {
    format!("server-{}", number + 1)
}

fn at(places: &Places, number: usize) -> ServerAt {
    let port = places.servers[number];
    ServerAt {
        name: name(number),
        gateway_url: format!("http://127.0.0.1:{port}"),
        admin_url: format!("http://127.0.0.1:{}", port + 1),
        broker_url: format!("crossdock://127.0.0.1:{}", port + 2),
    }
}

fn context(at: &ServerAt) -> Context {
    Context {
        url: at.admin_url.clone(),
        gateway_url: Some(at.gateway_url.clone()),
        broker_url: Some(at.broker_url.clone()),
        user: None,
        password: None,
        api_key: None,
    }
}

/// Makes the command line find the other servers too, under the directory's name and their own. The first one was saved
/// under the directory's name, and stays the current one.
fn save(directory: &Directory, places: &Places, first: &Context) {
    let Some(config) = env::config_dir() else { return };
    let name = directory.path().display().to_string();
    let others = (1..SERVERS).map(|number| {
        let at = at(places, number);
        let context = Context { user: first.user.clone(), password: first.password.clone(), ..context(&at) };
        (format!("{name}/{}", at.name), context)
    });
    let saved = others.collect::<Vec<_>>().into_iter().chain([(name, first.clone())]);
    for (name, context) in saved {
        // Why it does not work was said about the first one.
        let _ = Contexts::save(&config, &name, context);
    }
}
