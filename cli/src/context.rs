//! Where the CLI connects and as whom: saved contexts, and what the environment says instead.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crossdock_access::Credentials;
use crossdock_topics::{Error, ErrorCode};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{env, failure};

/// A place to connect to. It holds a secret, so it is kept in files of mode 0600 and never shown whole.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// The Admin API, such as `http://127.0.0.1:7401`.
    pub(crate) url: String,
    /// The HTTP gateway, such as `http://127.0.0.1:7400`; the Admin API names it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway_url: Option<String>,
    /// The broker's wire, such as `crossdock://127.0.0.1:7402`: messages go straight there where it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) broker_url: Option<String>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    /// An API key, instead of a user and a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
}

impl Context {
    /// Who it says to be.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        match (&self.api_key, &self.user, &self.password) {
            (Some(key), _, _) => Some(Credentials::ApiKey(SecretString::from(key.clone()))),
            (None, Some(user), Some(password)) => Some(Credentials::Basic {
                user: user.clone(),
                password: SecretString::from(password.clone()),
            }),
            _ => None,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

/// All saved contexts: `crossdock/contexts.json` in the user's configuration directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used unless another is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

const FILE: &str = "contexts.json";

impl Contexts {
    /// The saved contexts in this directory; none when there is no file yet.
    ///
    /// # Errors
    /// When the file cannot be read, or is not what we wrote.
    pub(crate) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|cause| {
                Error::invalid(format!("{} is not a list of contexts: {cause}", path.display()))
                    .hint("correct it, or delete it and start `crossdock quickstart` again")
            }),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(failure::file("read", &path, &cause)),
        }
    }

    /// Saves a context under a name and makes it the current one.
    ///
    /// # Errors
    /// When the directory or the file cannot be written.
    pub(crate) fn save(directory: &Path, name: &str, context: Context) -> Result<(), Error> {
        let mut all = Self::load(directory)?;
        all.current = Some(name.to_owned());
        all.contexts.insert(name.to_owned(), context);
        fs::create_dir_all(directory).map_err(|cause| failure::file("make", directory, &cause))?;
        write_secret(&directory.join(FILE), &all)
    }

    /// Makes a saved context the current one.
    ///
    /// # Errors
    /// `NotFound` when none is saved under this name; when the file cannot be written.
    pub(crate) fn choose(directory: &Path, name: &str) -> Result<(), Error> {
        let mut all = Self::load(directory)?;
        if !all.contexts.contains_key(name) {
            return Err(all.unknown(name));
        }
        all.current = Some(name.to_owned());
        write_secret(&directory.join(FILE), &all)
    }

    /// The context that leads to a broker: the one asked for, or any that was saved with this URL.
    ///
    /// # Errors
    /// `NotFound` when none is saved under the name; `InvalidArgument` when it leads to another broker.
    pub(crate) fn for_broker(self, url: &str, asked: Option<&str>) -> Result<Option<Context>, Error> {
        let leads = |context: &Context| context.broker_url.as_deref() == Some(url);
        match asked {
            None => Ok(self.contexts.into_values().find(leads)),
            Some(name) => {
                let context = self.pick(Some(name))?;
                if context.as_ref().is_some_and(leads) {
                    return Ok(context);
                }
                Err(Error::invalid(format!("the context {name} was not saved for the broker at {url}"))
                    .hint("its secret is sent nowhere else: use --credentials, or the environment"))
            }
        }
    }

    /// The saved contexts that lead elsewhere than to `url`, as `NAME (URL)`.
    fn beside(&self, url: &str) -> Vec<String> {
        let others = self.contexts.iter().filter(|(_, context)| context.url != url);
        others.map(|(name, context)| format!("{name} ({})", context.url)).collect()
    }

    fn unknown(&self, name: &str) -> Error {
        let known = self.contexts.keys().cloned().collect::<Vec<_>>().join(", ");
        Error::not_found("saved context", name).hint(if known.is_empty() {
            "none is saved yet: start `crossdock quickstart`".to_owned()
        } else {
            format!("saved are: {known}")
        })
    }

    /// The context to use: the one asked for, or the current one.
    fn pick(mut self, asked: Option<&str>) -> Result<Option<Context>, Error> {
        let Some(name) = asked.or(self.current.as_deref()) else { return Ok(None) };
        let name = name.to_owned();
        if let Some(context) = self.contexts.remove(&name) {
            return Ok(Some(context));
        }
        Err(self.unknown(&name))
    }
}

/// What the environment says about where to connect.
#[derive(Default)]
pub(crate) struct Overrides {
    pub(crate) url: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) api_key: Option<String>,
}

impl Overrides {
    /// Those of this process.
    ///
    /// # Errors
    /// When a variable is not UTF-8.
    pub(crate) fn from_env() -> Result<Self, Error> {
        Ok(Self {
            url: env::get(env::URL)?,
            user: env::get(env::USER)?,
            password: env::get(env::PASSWORD)?,
            api_key: env::get(env::API_KEY)?,
        })
    }

    /// Lays these over the saved contexts. A saved secret goes to the URL it was saved with and to no other.
    ///
    /// # Errors
    /// `InvalidArgument` for a user without a password; `Unauthenticated` when nobody says who asks; `NotFound`
    /// when there is nowhere to connect to.
    pub(crate) fn over(self, saved: Contexts, asked: Option<&str>) -> Result<Context, Error> {
        let url = self.url.map(|url| url.trim_end_matches('/').to_owned());
        let base = match &url {
            // Another context may have been saved for this URL.
            Some(url) if asked.is_none() => saved.contexts.into_values().find(|context| context.url == *url),
            _ => saved.pick(asked)?.filter(|context| url.as_ref().is_none_or(|url| context.url == *url)),
        };
        let mut context = match (base, url) {
            (Some(context), _) => context,
            (None, Some(url)) => Context {
                url,
                gateway_url: None,
                broker_url: None,
                user: None,
                password: None,
                api_key: None,
            },
            (None, None) => {
                return Err(Error::new(ErrorCode::NotFound, "nothing says where to connect to").hint(
                    "start `crossdock quickstart`, which saves it, or set CROSSDOCK_URL with CROSSDOCK_USER \
                     and CROSSDOCK_PASSWORD, or CROSSDOCK_API_KEY",
                ));
            }
        };
        match (self.api_key, self.user, self.password) {
            (Some(key), _, _) => {
                context.api_key = Some(key);
                (context.user, context.password) = (None, None);
            }
            (None, Some(user), Some(password)) => {
                (context.user, context.password) = (Some(user), Some(password));
                context.api_key = None;
            }
            (None, Some(user), None) => {
                if context.user.as_ref() != Some(&user) || context.password.is_none() {
                    return Err(Error::invalid(format!(
                        "CROSSDOCK_USER is {user}, and no password goes with it"
                    ))
                    .hint("set CROSSDOCK_PASSWORD too"));
                }
            }
            (None, None, Some(password)) => {
                if context.user.is_none() {
                    return Err(Error::invalid("CROSSDOCK_PASSWORD is set, and no user goes with it")
                        .hint("set CROSSDOCK_USER too"));
                }
                context.password = Some(password);
                context.api_key = None;
            }
            (None, None, None) => {}
        }
        if context.api_key.is_none() && (context.user.is_none() || context.password.is_none()) {
            return Err(Error::new(
                ErrorCode::Unauthenticated,
                format!("there are no credentials for {}", context.url),
            )
            .hint("set CROSSDOCK_USER and CROSSDOCK_PASSWORD, or CROSSDOCK_API_KEY"));
        }
        Ok(context)
    }
}

/// The context this command uses, and the saved ones beside it; none when the environment says where to
/// connect.
///
/// # Errors
/// Those of [`Contexts::load`] and [`Overrides::over`].
pub(crate) fn resolve(asked: Option<&str>) -> Result<(Context, Vec<String>), Error> {
    let saved = match env::config_dir() {
        Some(directory) => Contexts::load(&directory)?,
        None => Contexts::default(),
    };
    let overrides = Overrides::from_env()?;
    let elsewhere = overrides.url.is_some();
    let context = overrides.over(saved.clone(), asked)?;
    let others = if elsewhere { Vec::new() } else { saved.beside(&context.url) };
    Ok((context, others))
}

/// Writes a file that only its owner can read, in one step: whoever reads it sees the old or the new.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_secret(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|cause| Error::internal(format!("cannot write {}: {cause}", path.display())))?;
    text.push(b'\n');
    write_private(path, &text)
}

/// Writes a file that its owner alone can read, or leaves the old one.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> Result<(), Error> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        // A part left over by a process of the same number keeps its mode when it is opened again.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|cause| {
        let _ = fs::remove_file(&part);
        failure::file("write", path, &cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(url: &str, password: &str) -> Context {
        Context {
            url: url.into(),
            gateway_url: None,
            broker_url: None,
            user: Some("admin".into()),
            password: Some(password.into()),
            api_key: None,
        }
    }

    fn saved() -> Contexts {
        let contexts = [("home", context("http://h:1", "hp")), ("work", context("http://w:1", "wp"))];
        Contexts {
            current: Some("home".into()),
            contexts: contexts.into_iter().map(|(name, context)| (name.to_owned(), context)).collect(),
        }
    }

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn what_is_saved_is_found_again_and_nobody_else_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("a/b");
        assert_eq!(Contexts::load(&directory).unwrap(), Contexts::default());
        Contexts::save(&directory, "home", context("http://h:1", "hp")).unwrap();
        Contexts::save(&directory, "work", context("http://w:1", "wp")).unwrap();
        let all = Contexts::load(&directory).unwrap();
        assert_eq!(all.current.as_deref(), Some("work"));
        assert_eq!(all.contexts.len(), 2);
        let mode = fs::metadata(directory.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "no part is left over");
    }

    #[test]
    fn another_one_is_made_the_current_one() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(Contexts::choose(directory, "home").unwrap_err().code, ErrorCode::NotFound);
        Contexts::save(directory, "home", context("http://h:1", "hp")).unwrap();
        Contexts::save(directory, "work", context("http://w:1", "wp")).unwrap();
        Contexts::choose(directory, "home").unwrap();
        assert_eq!(Contexts::load(directory).unwrap(), saved());
        assert!(Contexts::choose(directory, "moon").unwrap_err().to_string().contains("home, work"));
        assert_eq!(saved().beside("http://h:1"), ["work (http://w:1)"]);
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "{").unwrap();
        let error = Contexts::load(directory.path()).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.contains(FILE), "{error}");
    }

    #[test]
    fn the_current_context_is_used_unless_another_is_asked_for() {
        assert_eq!(Overrides::default().over(saved(), None).unwrap().url, "http://h:1");
        assert_eq!(Overrides::default().over(saved(), Some("work")).unwrap().url, "http://w:1");
        let error = Overrides::default().over(saved(), Some("moon")).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.to_string().contains("home, work"), "{error}");
    }

    #[test]
    fn the_environment_goes_before_what_is_saved() {
        let over = Overrides { user: text("bob"), password: text("pw"), ..Overrides::default() };
        let context = over.over(saved(), None).unwrap();
        assert_eq!((context.url.as_str(), context.user.as_deref()), ("http://h:1", Some("bob")));

        let over = Overrides { api_key: text("ci.123"), ..Overrides::default() };
        let context = over.over(saved(), None).unwrap();
        assert_eq!((context.api_key.as_deref(), context.password), (Some("ci.123"), None));

        let over = Overrides { url: text("http://w:1/"), ..Overrides::default() };
        assert_eq!(over.over(saved(), None).unwrap().password.as_deref(), Some("wp"));
    }

    #[test]
    fn a_saved_password_is_never_sent_to_another_url() {
        for asked in [None, Some("home")] {
            let over = Overrides { url: text("http://elsewhere:1"), ..Overrides::default() };
            assert_eq!(over.over(saved(), asked).unwrap_err().code, ErrorCode::Unauthenticated);
        }
    }

    #[test]
    fn half_of_the_credentials_is_refused() {
        let over = Overrides { user: text("bob"), ..Overrides::default() };
        assert_eq!(over.over(saved(), None).unwrap_err().code, ErrorCode::InvalidArgument);
        let over = Overrides { url: text("http://x:1"), password: text("p"), ..Overrides::default() };
        assert_eq!(over.over(saved(), None).unwrap_err().code, ErrorCode::InvalidArgument);
        let error = Overrides::default().over(Contexts::default(), None).unwrap_err();
        assert!(error.to_string().contains("quickstart"), "{error}");
    }

    #[test]
    fn a_context_does_not_show_its_secrets() {
        let shown = format!("{:?}", context("http://h:1", "geheim"));
        assert!(!shown.contains("geheim"), "{shown}");
    }
}
