//! The nats-servers of a cluster on one machine: where the program is, and what each is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

use super::places::Places;
use super::program::Program;
use crate::context::{write_private, write_secret};
use crate::{env, failure};

/// The largest message that its clients may send; as large as NATS recommends at most.
const MAX_PAYLOAD: &str = "8MB";
/// How long one may take to stop.
const GRACE: Duration = Duration::from_secs(20);
const PROGRAM: &str = "nats-server";

/// Who the servers of the platform are to NATS, and the nats-servers to each other.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    /// The one that is kept in this file, or a new one.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) fn kept(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|cause| {
                Error::invalid(format!("{} is damaged: {cause}", path.display()))
                    .hint("delete it: a new one is made, and all who need it are told")
            }),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                let login = Self { user: "crossdock".into(), password: crate::server::admin::generate() };
                write_secret(path, &login)?;
                Ok(login)
            }
            Err(cause) => Err(failure::file("read", path, &cause)),
        }
    }
}

/// Finds the program: as it is named, or on the PATH.
///
/// # Errors
/// `NotFound`, with what to do.
pub(super) fn find(named: Option<PathBuf>) -> Result<PathBuf> {
    let named = match named {
        Some(path) => Some(path),
        None => env::get(env::NATS_SERVER)?.map(PathBuf::from),
    };
    let missing = |message: String| {
        Err(Error::new(ErrorCode::NotFound, message).hint(format!(
            "get nats-server 2.12 or newer (one file, from the releases of nats-io/nats-server), and put it on the PATH, or \
             name it with --nats-server or {}",
            env::NATS_SERVER
        )))
    };
    match named {
        Some(path) if path.is_file() => Ok(path),
        Some(path) => missing(format!("there is no {PROGRAM} at {}", path.display())),
        None => {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&folders)
                .map(|folder| folder.join(PROGRAM))
                .find(|path| path.is_file());
            found.map_or_else(|| missing(format!("there is no {PROGRAM} on the PATH")), Ok)
        }
    }
}

/// One node of the cluster, with its configuration written, for its owner's eyes only.
///
/// # Errors
/// When that cannot be written.
pub(super) fn node(
    binary: &Path,
    folder: &Path,
    number: usize,
    places: &Places,
    login: &Login,
) -> Result<Program> {
    let name = format!("nats-{}", number + 1);
    let folder = folder.join(&name);
    fs::create_dir_all(&folder).map_err(|cause| failure::file("make the directory", &folder, &cause))?;
    let (config, log) = (folder.join("nats.conf"), folder.join("log"));
    write_private(&config, configuration(&name, &folder, &log, number, places, login).as_bytes())?;
    Ok(Program {
        name,
        path: binary.to_owned(),
        arguments: vec!["-c".into(), config.into()],
        log: Some(log),
        grace: GRACE,
    })
}

fn configuration(
    name: &str,
    folder: &Path,
    log: &Path,
    number: usize,
    places: &Places,
    login: &Login,
) -> String {
    let Login { user, password } = login;
    let routes: Vec<String> = (0..places.nats.len())
        .filter(|other| *other != number)
        .map(|other| format!("\"nats://{user}:{password}@127.0.0.1:{}\"", places.nats[other] + 1))
        .collect();
    let port = places.nats[number];
    format!(
        "# Written at each start.\n\
         server_name: {name}\n\
         listen: \"127.0.0.1:{port}\"\n\
         http: \"127.0.0.1:{}\"\n\
         max_payload: {MAX_PAYLOAD}\n\
         log_file: {:?}\nlogfile_size_limit: 10MB\nlogfile_max_num: 3\n\
         jetstream {{ store_dir: {:?} }}\n\
         authorization {{ user: {user}, password: {password:?} }}\n\
         cluster {{\n  name: crossdock\n  listen: \"127.0.0.1:{}\"\n  \
         authorization {{ user: {user}, password: {password:?} }}\n  routes: [{}]\n}}\n",
        port + 2,
        log.display().to_string(),
        folder.join("store").display().to_string(),
        port + 1,
        routes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_said_with_what_to_do() {
        let error = find(Some("/nowhere/nats-server".into())).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert!(error.message.contains("/nowhere") && error.hint.unwrap().contains("--nats-server"));
        assert_eq!(find(Some("/bin/sh".into())).unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn a_login_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nats.json");
        let made = Login::kept(&path).unwrap().password;
        assert_eq!(Login::kept(&path).unwrap().password, made);
        fs::write(&path, "{").unwrap();
        assert!(Login::kept(&path).is_err());
    }
}
