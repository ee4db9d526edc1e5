//! What lies on this server's disk while it runs services. None of it matters: it is made anew.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crossdock_topics::{Error, Result};

/// The Python SDK, one file, as it is given to every process and to whoever writes a service.
pub const PYTHON_SDK: &str = include_str!("../../sdk/python/src/crossdock.py");

/// The run folder: `sdk/` holds the SDK, `code/VERSION/` the source of each version, `work/SERVICE/` is the
/// working directory of a service's processes, and `beacons/` says what they are working on.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    beacons: AtomicU64,
}

impl Folder {
    /// Makes the folder, without what an earlier run has left in it.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let make = || -> io::Result<PathBuf> {
            for part in ["sdk", "code", "beacons"] {
                let path = root.join(part);
                if path.exists() {
                    std::fs::remove_dir_all(&path)?;
                }
                std::fs::create_dir_all(&path)?;
            }
            std::fs::create_dir_all(root.join("work"))?;
            std::fs::write(root.join("sdk/crossdock.py"), PYTHON_SDK)?;
            root.canonicalize()
        };
        match make() {
            Ok(root) => Ok(Self { root, beacons: AtomicU64::new(0) }),
            Err(cause) => Err(Error::internal(format!(
                "the folder {} for running services cannot be made: {cause}",
                root.display()
            ))
            .hint("check who owns it and whether the disk is full")),
        }
    }

    /// Where the SDK lies.
    pub(crate) fn sdk(&self) -> PathBuf {
        self.root.join("sdk")
    }

    /// Writes the source of a version, and gives where. The file has the service's name, for tracebacks.
    pub(crate) fn code(&self, service: &str, version: &str, source: &[u8]) -> Result<PathBuf> {
        let folder = self.root.join("code").join(version);
        let path = folder.join(format!("{}.py", service.replace('.', "_")));
        let write = || -> io::Result<()> {
            if std::fs::read(&path).is_ok_and(|there| there == source) {
                return Ok(());
            }
            std::fs::create_dir_all(&folder)?;
            let part = path.with_extension(format!("part{}", self.beacons.fetch_add(1, Ordering::Relaxed)));
            std::fs::write(&part, source)?;
            std::fs::rename(&part, &path)
        };
        write().map_err(|cause| Error::internal(format!("{} cannot be written: {cause}", path.display())))?;
        Ok(path)
    }

    /// The working directory of a service.
    pub(crate) fn work(&self, service: &str) -> Result<PathBuf> {
        let path = self.root.join("work").join(service);
        std::fs::create_dir_all(&path)
            .map_err(|cause| Error::internal(format!("{} cannot be made: {cause}", path.display())))?;
        Ok(path)
    }

    /// A name for beacons that has not been given before.
    pub(crate) fn beacon(&self) -> PathBuf {
        self.root.join("beacons").join(self.beacons.fetch_add(1, Ordering::Relaxed).to_string())
    }
}
