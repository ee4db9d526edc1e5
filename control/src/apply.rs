//! Making a cluster what a document says.

use std::time::Duration;

use crossdock_access::{hash_api_key, hash_password, matches};
use crossdock_config::{
    Action, Document, Kind, SecretRef, ServiceRecord, ServiceSpec, ServiceState, State, Step, UserRecord,
    UserSpec, keys, plan,
};
use crossdock_topics::{Error, ErrorCode, Expect, Result, ServiceName, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::deploy::Order;
use crate::server::Server;
use crate::{administrators, records, rollout};

/// How long all services together may take to run after they were deployed.
const ROLLOUT: Duration = Duration::from_secs(30);

const NO_CREDENTIALS: &str = "without a password or API key: nobody can log in as it until one is applied";

/// What the cluster is now, without the services' code.
pub(crate) async fn current(store: &dyn Store) -> Result<State> {
    let mut state = State::default();
    for prefix in State::PREFIXES.into_iter().filter(|prefix| *prefix != keys::CODE) {
        for entry in store.list(prefix).await?.0 {
            state.put(&entry)?;
        }
    }
    Ok(state)
}

/// The cluster as a document, in YAML.
pub(crate) async fn export(store: &dyn Store) -> Result<String> {
    let mut state = current(store).await?;
    let running: Vec<String> = state.services.values().map(|service| service.current.clone()).collect();
    for version in running {
        if let Some(entry) = store.get(&keys::code(&version)).await? {
            state.put(&entry)?;
        }
    }
    state.export().to_yaml()
}

/// The steps there are to do. Reads the secrets that users' definitions refer to, and checks them against the
/// hashes: blocking.
pub(crate) fn steps(state: &State, document: &Document) -> Result<Vec<Step>> {
    for user in &document.users {
        for secret in [&user.password, &user.api_key].into_iter().flatten() {
            secret.resolve().map_err(|error| about(Kind::User, &user.name, error))?;
        }
    }
    administrators::after_applying(state, document)?;
    let mut check = |secret: &SecretRef, hash: &str| Ok(matches(&secret.resolve()?, hash));
    let mut steps = plan(state, document, &mut check)?;
    // An export holds no credentials: applied elsewhere it makes users that nobody can be.
    let made = steps.iter_mut().filter(|step| step.kind == Kind::User);
    for (step, user) in made.zip(&document.users) {
        if step.action == Action::Create && user.password.is_none() && user.api_key.is_none() {
            step.detail = Some(NO_CREDENTIALS.into());
        }
    }
    Ok(steps)
}

/// What was done before an error ended it.
pub(crate) struct Interrupted {
    pub(crate) error: Error,
    pub(crate) done: Vec<Step>,
}

/// Does the steps, one after another; then waits for the services that were deployed, and adds to their steps
/// what became of them.
pub(crate) async fn execute(
    server: &Server,
    document: Document,
    steps: Vec<Step>,
    by: &str,
) -> Result<Vec<Step>, Interrupted> {
    let mut wanted = Wanted::from(document);
    let mut done: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps {
        let kind = step.kind;
        match wanted.next(kind) {
            Some(thing) if step.action != Action::Unchanged => {
                if let Err(error) = make(server, thing, by).await {
                    return Err(Interrupted { error: about(kind, &step.name, error), done });
                }
            }
            Some(_) => {}
            None => {
                let error = Error::internal(format!("the plan has a {kind} that the document has not"));
                return Err(Interrupted { error, done });
            }
        }
        done.push(step);
    }
    let deadline = Instant::now() + ROLLOUT;
    for step in &mut done {
        if step.kind == Kind::Service && step.action != Action::Unchanged {
            let outcome = outcome(server, &step.name, deadline).await;
            step.detail =
                Some(step.detail.take().map_or(outcome.clone(), |detail| format!("{detail}; {outcome}")));
        }
    }
    Ok(done)
}

/// One thing as the document has it.
enum Thing {
    Topic(crossdock_topics::Topic),
    Subscription(crossdock_topics::Subscription),
    Service(ServiceSpec),
    User(UserSpec),
    Permission(crossdock_config::Permission),
    RestChannel(crossdock_config::RestChannel),
}

/// The things of a document, each kind in the order of the document, which is the order of the plan.
struct Wanted {
    topics: std::vec::IntoIter<crossdock_topics::Topic>,
    subscriptions: std::vec::IntoIter<crossdock_topics::Subscription>,
    services: std::vec::IntoIter<ServiceSpec>,
    users: std::vec::IntoIter<UserSpec>,
    permissions: std::vec::IntoIter<crossdock_config::Permission>,
    rest_channels: std::vec::IntoIter<crossdock_config::RestChannel>,
}

impl From<Document> for Wanted {
    fn from(document: Document) -> Self {
        Self {
            topics: document.topics.into_iter(),
            subscriptions: document.subscriptions.into_iter(),
            services: document.services.into_iter(),
            users: document.users.into_iter(),
            permissions: document.permissions.into_iter(),
            rest_channels: document.rest_channels.into_iter(),
        }
    }
}

impl Wanted {
    fn next(&mut self, kind: Kind) -> Option<Thing> {
        match kind {
            Kind::Topic => self.topics.next().map(Thing::Topic),
            Kind::Subscription => self.subscriptions.next().map(Thing::Subscription),
            Kind::Service => self.services.next().map(Thing::Service),
            Kind::User => self.users.next().map(Thing::User),
            Kind::Permission => self.permissions.next().map(Thing::Permission),
            Kind::RestChannel => self.rest_channels.next().map(Thing::RestChannel),
        }
    }
}

async fn make(server: &Server, thing: Thing, by: &str) -> Result<()> {
    let store = server.store();
    match thing {
        Thing::Topic(topic) => server.broker.put_topic(topic, Expect::Any).await.map(drop),
        Thing::Subscription(subscription) => {
            server.broker.put_subscription(subscription, Expect::Any).await.map(drop)
        }
        Thing::Service(service) => deploy(server, service, by).await,
        Thing::User(user) => put_user(store, user).await,
        Thing::Permission(permission) => put(store, &keys::permission(&permission.name), permission).await,
        Thing::RestChannel(channel) => put(store, &keys::rest_channel(&channel.name), channel).await,
    }
}

/// Writes a record that is wholly the document's.
async fn put<T: Serialize + DeserializeOwned + Clone>(store: &dyn Store, key: &str, value: T) -> Result<()> {
    records::update(store, key, |_: Option<&T>| Ok(Some(value.clone()))).await.map(drop)
}

async fn deploy(server: &Server, service: ServiceSpec, by: &str) -> Result<()> {
    let settings = service.settings();
    let source = match service.code {
        Some(code) => code,
        None => running_code(server.store(), &service.name).await?,
    };
    let order = Order { name: &service.name, source: &source, settings: &settings, by };
    order.send(&*server.broker).await.map(drop)
}

/// The code that runs, for a service of which only the settings change.
async fn running_code(store: &dyn Store, name: &ServiceName) -> Result<String> {
    let gone = || {
        Error::new(ErrorCode::Conflict, "the code that runs is not in the store any more")
            .hint("name its file as source, and apply again")
    };
    let record = records::get::<ServiceRecord>(store, &keys::service(name)).await?;
    let (record, _) = record.ok_or_else(|| Error::not_found("service", name))?;
    let code = store.get(&keys::code(&record.current)).await?.ok_or_else(gone)?;
    String::from_utf8(code.value.into()).map_err(|_| gone())
}

/// Writes what the document says of a user; what it does not mention stays as it is.
async fn put_user(store: &dyn Store, user: UserSpec) -> Result<()> {
    let name = user.name.clone();
    let hashes = tokio::task::spawn_blocking(move || hashes(&user)).await;
    let (password, api_key) = hashes.map_err(|_| Error::internal("hashing a secret was broken off"))??;
    records::update(store, &keys::user(&name), |old: Option<&UserRecord>| {
        Ok(Some(UserRecord {
            name: name.clone(),
            password: password.clone().or_else(|| old?.password.clone()),
            api_key: api_key.clone().or_else(|| old?.api_key.clone()),
        }))
    })
    .await
    .map(drop)
}

fn hashes(user: &UserSpec) -> Result<(Option<String>, Option<String>)> {
    let password = user.password.as_ref().map(|secret| hash_password(&secret.resolve()?)).transpose()?;
    let key = |secret: &SecretRef| hash_api_key(&user.name, &secret.resolve()?);
    Ok((password, user.api_key.as_ref().map(key).transpose()?))
}

/// What became of a service that was deployed, in words.
async fn outcome(server: &Server, name: &str, deadline: Instant) -> String {
    let wait = deadline.saturating_duration_since(Instant::now());
    let rollout = match name.parse() {
        Ok(name) => rollout::wait(server, &name, true, wait).await,
        Err(error) => Err(error),
    };
    let rollout = match rollout {
        Ok(rollout) => rollout,
        Err(error) => return format!("how it stands is not known: {error}"),
    };
    if rollout.ready {
        return "it runs".into();
    }
    let failing = rollout.statuses.iter().filter(|status| status.state != ServiceState::Running);
    let told = failing.map(|status| {
        let reason = status.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} on {}{reason}", status.state, status.server)
    });
    told.collect::<Vec<_>>().join(", ")
}

/// The same error, saying what it is about.
fn about(kind: Kind, name: impl std::fmt::Display, mut error: Error) -> Error {
    error.message = format!("{kind} {name}: {}", error.message).into();
    error
}
