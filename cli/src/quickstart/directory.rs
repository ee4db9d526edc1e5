//! The directory a quickstart lives in.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crossdock_topics::Error;

use crate::context::{Context, write_secret};
use crate::failure;

/// `DIR`, with what the command line needs in `DIR/context.json`, and the broker's data in `DIR/broker`, or a cluster's in
/// `DIR/nats-1` and so on.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes it, for its owner alone, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .and_then(|()| path.canonicalize())
            .map(Self)
            .map_err(|cause| failure::file("make the directory", path, &cause))
    }

    /// Its whole path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the broker keeps its files.
    pub(super) fn broker(&self) -> PathBuf {
        self.0.join("broker")
    }

    /// Where a cluster keeps its login to NATS.
    pub(super) fn nats_login(&self) -> PathBuf {
        self.0.join("nats.json")
    }

    /// Where services are run; made anew at each start.
    pub(super) fn services(&self) -> PathBuf {
        self.0.join("services")
    }

    /// Where the context is.
    pub(super) fn context_file(&self) -> PathBuf {
        self.0.join("context.json")
    }

    /// The context an earlier start has written.
    ///
    /// # Errors
    /// When it cannot be read, or is not what we wrote.
    pub(super) fn context(&self) -> Result<Option<Context>, Error> {
        let path = self.context_file();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|cause| {
                Error::invalid(format!("{} is damaged: {cause}", path.display()))
                    .hint("delete it, and set CROSSDOCK_ADMIN_PASSWORD to give the user admin a new password")
            }),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(failure::file("read", &path, &cause)),
        }
    }

    /// Writes the context, for the owner's eyes only.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn save(&self, context: &Context) -> Result<(), Error> {
        write_secret(&self.context_file(), context)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_for_its_owner_alone_and_opened_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/data");
        for _ in 0..2 {
            let directory = Directory::open(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
            assert_eq!(directory.context().unwrap(), None);
        }
    }

    #[test]
    fn a_file_in_its_place_and_a_damaged_context_are_refused_by_name() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Directory::open(&file).unwrap_err().message.contains("file"));
        let directory = Directory::open(parent.path()).unwrap();
        fs::write(directory.context_file(), "{").unwrap();
        assert!(directory.context().unwrap_err().to_string().contains("CROSSDOCK_ADMIN_PASSWORD"));
    }
}
