//! Who a server is to the broker it works on. Never as the command line says, which others can read.

use std::fs;
use std::path::Path;

use crossdock_access::Credentials;
use crossdock_broker::jetstream::NatsLogin;
use crossdock_topics::{Error, Result};
use secrecy::SecretString;
use serde::Deserialize;

use crate::context::{Context, Contexts};
use crate::{env, failure};

/// Who asks a Crossdock broker: as the environment says, or a file, or the saved context that leads to that broker.
///
/// # Errors
/// `InvalidArgument` for half of the credentials; when a file cannot be read.
pub(super) fn crossdock(
    url: &str,
    file: Option<&Path>,
    context: Option<&str>,
) -> Result<Option<Credentials>> {
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

/// Who is asking NATS, as a file says: the kind that NATS' own tools make, or a few words of JSON, which are a part of a
/// nats-server's configuration too.
pub(super) fn nats(path: &Path) -> Result<NatsLogin> {
    #[derive(Deserialize)]
    #[serde(untagged, deny_unknown_fields)]
    enum Words {
        Password { user: String, password: String },
        Token { token: String },
    }
    let text = fs::read(path).map_err(|cause| failure::file("read", path, &cause))?;
    if text.starts_with(b"-----BEGIN NATS USER JWT") {
        return Ok(NatsLogin::File(path.to_owned()));
    }
    match serde_json::from_slice(&text) {
        Ok(Words::Password { user, password }) => Ok(NatsLogin::Password(user, password.into())),
        Ok(Words::Token { token }) => Ok(NatsLogin::Token(token.into())),
        // What is in it is not shown.
        Err(_) => Err(Error::invalid(format!("{} has no credentials for NATS", path.display())).hint(
            r#"it is {"user": "...", "password": "..."} or {"token": "..."}, or a file that nsc makes"#,
        )),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn nats_knows_its_users_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let nats = || nats(file.path());
        fs::write(file.path(), r#"{"user": "crossdock", "password": "s3cret"}"#).unwrap();
        let login = nats().unwrap();
        assert!(
            matches!(login, NatsLogin::Password(user, word) if user == "crossdock" && word.expose_secret() == "s3cret")
        );
        fs::write(file.path(), r#"{"token": "s3cret"}"#).unwrap();
        assert!(matches!(nats().unwrap(), NatsLogin::Token(_)));
        fs::write(file.path(), "-----BEGIN NATS USER JWT-----\n").unwrap();
        assert!(matches!(nats().unwrap(), NatsLogin::File(path) if path == file.path()));
        fs::write(file.path(), "crossdock:s3cret").unwrap();
        let error = nats().unwrap_err();
        assert!(!error.to_string().contains("s3cret") && error.hint.is_some());
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
