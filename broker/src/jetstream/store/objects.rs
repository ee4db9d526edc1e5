//! Values that are too large for a message: they lie in an object store of NATS, where `nats object` shows them.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::object_store::{GetErrorKind, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream;
use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode, Result};
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::jetstream::connection::Connection;

/// How long it may take to write or read one: 16 MiB.
const PATIENCE: Duration = Duration::from_secs(60);
/// What nobody refers to is removed when it is older: nobody is still about to.
const LEFT: Duration = Duration::from_secs(3600);

/// The objects.
#[derive(Clone)]
pub(super) struct Objects {
    store: ObjectStore,
    stream: stream::Stream,
    bucket: String,
}

impl Objects {
    /// Finds the object store, or makes it.
    pub(super) async fn open(connection: &Connection) -> Result<Self> {
        let bucket = format!("{}-objects", connection.prefix());
        // As NATS lays out every object store.
        let config = stream::Config {
            name: format!("OBJ_{bucket}"),
            description: Some("Large values of what the servers of a Crossdock cluster share".into()),
            subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
            discard: stream::DiscardPolicy::New,
            storage: stream::StorageType::File,
            num_replicas: connection.replicas(),
            allow_rollup: true,
            allow_direct: true,
            ..Default::default()
        };
        let stream = connection.stream(config).await?;
        let store = connection.context.get_object_store(&bucket).await;
        let store = store.map_err(|error| unavailable(&bucket, &error))?;
        Ok(Self { store, stream, bucket })
    }

    /// How many servers keep them, as it was found.
    pub(super) fn replicas(&self) -> usize {
        self.stream.cached_info().config.num_replicas
    }

    /// Writes one, and gives it a name of its own.
    pub(super) async fn put(&self, key: &str, value: &Bytes) -> Result<String> {
        let name = format!("{key}@{:016x}", rand::random::<u64>());
        let meta = ObjectMetadata { name: name.clone(), ..Default::default() };
        let mut reader: &[u8] = value;
        match timeout(PATIENCE, self.store.put(meta, &mut reader)).await {
            Ok(Ok(_)) => Ok(name),
            Ok(Err(error)) => Err(unavailable(&name, &error)),
            Err(_) => Err(unavailable(&name, &"it takes too long")),
        }
    }

    /// Reads one; `None` when it is gone, as the leader of the objects says.
    ///
    /// # Errors
    /// `Unavailable`; also when it is not as it was written.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let reading = async {
            let mut object = match self.store.get(name).await {
                Ok(object) => object,
                // Another server may have answered, that does not know of it yet.
                Err(error) if error.kind() == GetErrorKind::NotFound => return self.is_gone(name).await,
                Err(error) => return Err(unavailable(name, &error)),
            };
            let size = object.info().size;
            let mut value = Vec::with_capacity(size.min(32 << 20));
            object.read_to_end(&mut value).await.map_err(|error| unavailable(name, &error))?;
            if value.len() != size {
                return Err(unavailable(name, &"it is cut off"));
            }
            Ok(Some(Bytes::from(value)))
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(unavailable(name, &"it takes too long")))
    }

    /// Nothing, if it is gone.
    async fn is_gone(&self, name: &str) -> Result<Option<Bytes>> {
        match self.stream.get_last_raw_message_by_subject(&self.note(name)).await {
            Ok(_) => Err(unavailable(name, &"it is not there yet")),
            Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(name, &error)),
        }
    }

    /// Where the note of an object lies.
    fn note(&self, name: &str) -> String {
        let name = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, name);
        format!("$O.{}.M.{name}", self.bucket)
    }

    /// Removes one that nobody refers to any more. What fails here is left for [`Objects::sweep`].
    pub(super) async fn remove(&self, name: &str) {
        // Deleting it through the object store would leave a note of it for ever.
        let removing = async {
            let info = self.store.info(name).await.ok()?;
            self.stream.purge().filter(format!("$O.{}.C.{}", self.bucket, info.nuid)).await.ok()?;
            self.stream.purge().filter(self.note(name)).await.ok()
        };
        if !matches!(timeout(PATIENCE, removing).await, Ok(Some(_))) {
            tracing::debug!(name, "an object that nobody needs could not be removed yet");
        }
    }

    /// Removes those that nobody refers to and that were not written lately.
    pub(super) async fn sweep(&self, needed: impl Fn() -> HashSet<String>) {
        let Ok(Ok(mut list)) = timeout(PATIENCE, self.store.list()).await else { return };
        let now = std::time::SystemTime::now();
        let mut left = Vec::new();
        while let Ok(Some(Ok(info))) = timeout(PATIENCE, list.next()).await {
            let written = info.modified.and_then(|at| u64::try_from(at.unix_timestamp()).ok());
            let written = written.map(|seconds| std::time::UNIX_EPOCH + Duration::from_secs(seconds));
            let age = written.and_then(|written| now.duration_since(written).ok());
            if age.is_some_and(|age| age > LEFT) {
                left.push(info.name);
            }
        }
        // Asked for after the list: what was referred to meanwhile is too young to be in it.
        let needed = needed();
        for name in left.iter().filter(|name| !needed.contains(*name)) {
            self.remove(name).await;
        }
    }
}

fn unavailable(name: &str, why: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorCode::Unavailable,
        format!("the large value {name} cannot be written or read in NATS: {why}"),
    )
    .hint("see `nats object info` and `nats stream report`; try again")
}
