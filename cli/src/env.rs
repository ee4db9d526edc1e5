//! Every environment variable the binary reads, in one place.

use std::env::VarError;
use std::path::PathBuf;

use crossdock_topics::Error;

use crate::failure;

/// The Admin API's URL, instead of the saved context's.
pub(crate) const URL: &str = "CROSSDOCK_URL";
/// The user to come as, together with [`PASSWORD`].
pub(crate) const USER: &str = "CROSSDOCK_USER";
/// The user's password.
pub(crate) const PASSWORD: &str = "CROSSDOCK_PASSWORD";
/// An API key, instead of a user and a password.
pub(crate) const API_KEY: &str = "CROSSDOCK_API_KEY";
/// Which saved context to use, as with `--context`.
pub(crate) const CONTEXT: &str = "CROSSDOCK_CONTEXT";
/// The certificates to trust, as with `--ca`.
pub(crate) const CA_FILE: &str = "CROSSDOCK_CA_FILE";
/// The broker a server works on, as with `--broker`; here its URL may hold a login.
pub(crate) const BROKER: &str = "CROSSDOCK_BROKER";
/// The password of the user `admin` that whoever starts a broker makes or changes.
pub(crate) const ADMIN_PASSWORD: &str = "CROSSDOCK_ADMIN_PASSWORD";
/// A file with that password instead, as container platforms hand out secrets.
pub(crate) const ADMIN_PASSWORD_FILE: &str = "CROSSDOCK_ADMIN_PASSWORD_FILE";
/// The program nats-server, as with `quickstart --nats-server`.
pub(crate) const NATS_SERVER: &str = "CROSSDOCK_NATS_SERVER";
/// The editor that a dead letter is mended in; goes before [`EDITOR`].
pub(crate) const VISUAL: &str = "VISUAL";
/// The same, by its older name.
pub(crate) const EDITOR: &str = "EDITOR";
/// What is logged, such as `debug` or `crossdock_gateway=debug`; goes before [`RUST_LOG`].
pub(crate) const LOG: &str = "CROSSDOCK_LOG";
/// The same, by the name that Rust programs share.
pub(crate) const RUST_LOG: &str = "RUST_LOG";
/// Turns colours off when it is set to anything.
pub(crate) const NO_COLOR: &str = "NO_COLOR";
/// Where configuration is kept; `$HOME/.config` without it.
pub(crate) const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// The user's home.
pub(crate) const HOME: &str = "HOME";

/// A variable's value; an empty one counts as not set.
///
/// # Errors
/// When it is not UTF-8, or has a line break or another control character, which no value here can have and
/// which comes of reading a file carelessly. The value is not shown: it may be a secret.
pub(crate) fn get(name: &str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => plain(name, value).map(Some),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Error::invalid(format!("the environment variable {name} is not UTF-8")))
        }
    }
}

/// The password of the user `admin`, if one is given: as it is, or in a file, of which a last line break is left out.
///
/// # Errors
/// Those of [`get`], of reading the file, and `InvalidArgument` when both are given.
pub(crate) fn admin_password() -> Result<Option<String>, Error> {
    match (get(ADMIN_PASSWORD)?, get(ADMIN_PASSWORD_FILE)?) {
        (given, None) => Ok(given),
        (None, Some(path)) => {
            let path = PathBuf::from(path);
            let text =
                std::fs::read_to_string(&path).map_err(|cause| failure::file("read", &path, &cause))?;
            match text.trim_end_matches(['\n', '\r']) {
                "" => Err(Error::invalid(format!(
                    "{}, which {ADMIN_PASSWORD_FILE} names, is empty",
                    path.display()
                ))),
                password => plain(ADMIN_PASSWORD_FILE, password.to_owned()).map(Some),
            }
        }
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("{ADMIN_PASSWORD} and {ADMIN_PASSWORD_FILE} are both set"))
                .hint("leave one of them out"))
        }
    }
}

fn plain(name: &str, value: String) -> Result<String, Error> {
    let Some(wrong) = value.chars().find(|c| c.is_control()) else { return Ok(value) };
    let what = if wrong == '\n' || wrong == '\r' { "a line break" } else { "a control character" };
    Err(Error::invalid(format!("the environment variable {name} has {what} in it")).hint(format!(
        "set it again without; {name}=\"$(cat FILE)\" leaves out the last line break of a file"
    )))
}

/// The directory of our own configuration: `$XDG_CONFIG_HOME/crossdock`, or `$HOME/.config/crossdock`.
/// As the XDG rules say, a relative `XDG_CONFIG_HOME` counts as not set.
pub(crate) fn config_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(XDG_CONFIG_HOME).or_else(|| Some(absolute(HOME)?.join(".config")))?;
    Some(base.join("crossdock"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_value_with_a_line_break_is_refused_and_not_shown() {
        assert_eq!(super::plain("CROSSDOCK_API_KEY", "ci.123".into()).unwrap(), "ci.123");
        for (value, what) in [("geheim\n", "line break"), ("geheim\u{1b}[2J", "control character")] {
            let error = super::plain("CROSSDOCK_API_KEY", value.into()).unwrap_err();
            assert_eq!(error.code, crossdock_topics::ErrorCode::InvalidArgument);
            let text = error.to_string();
            assert!(text.contains("CROSSDOCK_API_KEY") && text.contains(what), "{text}");
            assert!(!text.contains("geheim"), "{text}");
        }
    }

    #[test]
    fn every_variable_is_documented() {
        let documented = include_str!("../../docs/CLI.md");
        let named = include_str!("env.rs").lines().filter(|line| line.starts_with("pub(crate) const"));
        let names: Vec<&str> = named.filter_map(|line| line.split('"').nth(1)).collect();
        assert!(names.len() > 8, "{names:?}");
        for name in names {
            assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/CLI.md");
        }
    }
}
