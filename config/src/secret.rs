//! References to secrets. The secret itself is never stored, shown or exported.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use crossdock_topics::{Error, ErrorCode};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Where a secret is to be found, on the machine that needs it: `env:NAME` or `file:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// An environment variable of the server's process.
    Env(String),
    /// A file that the server can read; one line break at its end is not part of the secret.
    File(PathBuf),
}

impl SecretRef {
    /// The longest secret, in bytes.
    pub const MAX: usize = 64 * 1024;

    /// The secret as it is now. Reads the environment, or the file (blocking, at most [`SecretRef::MAX`]).
    ///
    /// # Errors
    /// `InvalidArgument` when there is none, or it is empty, too long or not UTF-8; the hint says what to do.
    /// The secret is never part of it.
    pub fn resolve(&self) -> Result<SecretString, Error> {
        let secret = match self {
            Self::Env(name) => match std::env::var(name) {
                Ok(secret) => secret,
                Err(std::env::VarError::NotPresent) => {
                    return Err(Error::invalid(format!("the environment variable {name} is not set"))
                        .hint(format!("set {name} where the server is started, or use file:/PATH")));
                }
                Err(std::env::VarError::NotUnicode(_)) => {
                    return Err(Error::invalid(format!("the environment variable {name} is not UTF-8"))
                        .hint("encode the secret as text, such as base64"));
                }
            },
            Self::File(path) => read(path)?,
        };
        if secret.is_empty() {
            return Err(Error::invalid(format!("the secret at {self} is empty")).hint("put the secret there"));
        }
        if secret.len() > Self::MAX {
            return Err(too_long(self));
        }
        Ok(SecretString::from(secret))
    }
}

fn too_long(reference: &SecretRef) -> Error {
    Error::new(
        ErrorCode::TooLarge,
        format!("the secret at {reference} is longer than {} bytes", SecretRef::MAX),
    )
    .hint("is it the right one?")
}

fn read(path: &std::path::Path) -> Result<String, Error> {
    let refuse = |why: &dyn fmt::Display| {
        Error::invalid(format!("the secret file {} cannot be read: {why}", path.display()))
            .hint("make the file on the server's machine, readable for the user that the server runs as")
    };
    let metadata = std::fs::metadata(path).map_err(|cause| refuse(&cause))?;
    // A pipe or a device could keep the server waiting for ever.
    if !metadata.is_file() {
        return Err(refuse(&"it is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(|cause| refuse(&cause))?;
    let mut bytes = Vec::new();
    let limit = SecretRef::MAX as u64 + 3;
    file.take(limit).read_to_end(&mut bytes).map_err(|cause| refuse(&cause))?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    if bytes.len() > SecretRef::MAX {
        return Err(too_long(&SecretRef::File(path.into())));
    }
    String::from_utf8(bytes).map_err(|_| refuse(&"it is not UTF-8"))
}

impl FromStr for SecretRef {
    type Err = Error;

    /// Reads `env:NAME` or `file:/PATH`. The error does not repeat the text: it may be the secret itself.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &'static str| {
            Err(Error::invalid(why).hint(
                "secrets are referred to, never written down: use env:NAME for an environment variable of the \
                 server, or file:/PATH for a file on its machine",
            ))
        };
        if let Some(name) = text.strip_prefix("env:") {
            let fine = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(fine) || name.starts_with(|c: char| c.is_ascii_digit()) {
                return refuse("what follows env: is not the name of an environment variable");
            }
            return Ok(Self::Env(name.into()));
        }
        if let Some(path) = text.strip_prefix("file:") {
            if !path.starts_with('/') || path.contains('\0') {
                return refuse("what follows file: is not an absolute path");
            }
            return Ok(Self::File(path.into()));
        }
        refuse("a secret is written here literally")
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Serialize for SecretRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::export::literally(&self.to_string(), serializer)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The value of an environment variable that a service is given: a word, or a reference to a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// The value itself.
    Literal(String),
    /// Where the value is, when a process of the service starts.
    Secret(SecretRef),
}

impl EnvValue {
    /// The value as it is now.
    ///
    /// # Errors
    /// Those of [`SecretRef::resolve`].
    pub fn resolve(&self) -> Result<SecretString, Error> {
        match self {
            Self::Literal(value) => Ok(SecretString::from(value.clone())),
            Self::Secret(reference) => reference.resolve(),
        }
    }
}

impl FromStr for EnvValue {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.starts_with("env:") || text.starts_with("file:") {
            return text.parse().map(Self::Secret);
        }
        if text.contains('\0') {
            return Err(Error::invalid("the value of an environment variable cannot hold a NUL"));
        }
        Ok(Self::Literal(text.into()))
    }
}

impl fmt::Debug for EnvValue {
    // What stands here should be no secret, but people do write them here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(..)"),
            Self::Secret(reference) => write!(f, "Secret({reference})"),
        }
    }
}

impl Serialize for EnvValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Literal(value) => crate::export::literally(value, serializer),
            Self::Secret(reference) => reference.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EnvValue {
    /// Reads a text; nothing is the empty value.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.unwrap_or_default().parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn file(holds: &[u8]) -> (tempfile::TempDir, SecretRef) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, holds).unwrap();
        (directory, SecretRef::File(path))
    }

    #[test]
    fn a_file_holds_a_secret_without_its_last_line_break() {
        for (holds, secret) in [
            (&b"s3cret"[..], "s3cret"),
            (b"s3cret\n", "s3cret"),
            (b"s3cret\r\n", "s3cret"),
            (b"two\nlines\n\n", "two\nlines\n"),
            (b" spaces ", " spaces "),
        ] {
            let (_directory, reference) = file(holds);
            assert_eq!(reference.resolve().unwrap().expose_secret(), secret);
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_with_what_to_do() {
        let (directory, _) = file(b"");
        let long = vec![b'x'; SecretRef::MAX + 1];
        for reference in [
            SecretRef::File(directory.path().join("absent")),
            SecretRef::File(directory.path().into()),
            SecretRef::File("/dev/zero".into()),
            SecretRef::Env("CROSSDOCK_TEST_NO_SUCH_VARIABLE".into()),
        ] {
            let error = reference.resolve().unwrap_err();
            assert!(error.hint.is_some(), "{error}");
        }
        for (holds, why) in [(&long[..], "longer than"), (b"\n", "empty"), (b"\xff\xfe", "UTF-8")] {
            let (_directory, reference) = file(holds);
            let error = reference.resolve().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("xxx"), "{error}");
        }
        let exact = vec![b'x'; SecretRef::MAX];
        let (_directory, reference) = file(&[&exact[..], b"\n"].concat());
        assert_eq!(reference.resolve().unwrap().expose_secret().len(), SecretRef::MAX);
    }

    #[test]
    fn the_environment_holds_secrets() {
        // PATH is there wherever tests run.
        assert!(!SecretRef::Env("PATH".into()).resolve().unwrap().expose_secret().is_empty());
    }

    #[test]
    fn a_literal_secret_is_refused_and_not_repeated() {
        for literal in ["hunter2", "env:", "env:A-hunter2", "env:1hunter2", "file:hunter2", "file:/hunter2\0"]
        {
            let error = literal.parse::<SecretRef>().unwrap_err();
            assert!(error.hint.is_some() && !format!("{error:?}").contains("hunter2"), "{error}");
        }
        for reference in ["env:A_1", "file:/run/secrets/a b"] {
            assert_eq!(reference.parse::<SecretRef>().unwrap().to_string(), reference);
        }
    }

    #[test]
    fn values_are_shown_in_no_log() {
        let value: EnvValue = "hunter2".parse().unwrap();
        assert!(!format!("{value:?}").contains("hunter2"));
        let resolved = value.resolve().unwrap();
        assert_eq!(resolved.expose_secret(), "hunter2");
        assert!(!format!("{resolved:?}").contains("hunter2"));
    }
}
