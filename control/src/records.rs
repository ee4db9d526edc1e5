//! The store's values as the structs they are.

use std::time::Duration;

use crossdock_topics::{Error, ErrorCode, Expect, Result, Revision, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How often a change is tried again when somebody else was faster.
const TRIES: u32 = 10;

/// The value of a key, and when it was written.
pub(crate) async fn get<T: DeserializeOwned>(store: &dyn Store, key: &str) -> Result<Option<(T, Revision)>> {
    let Some(entry) = store.get(key).await? else { return Ok(None) };
    Ok(Some((read(&entry.key, &entry.value)?, entry.revision)))
}

/// All values below a prefix, in the order of their keys, and the revision they are as of.
pub(crate) async fn list<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<(Vec<(T, Revision)>, Revision)> {
    let (entries, revision) = store.list(prefix).await?;
    let values = entries.iter().map(|entry| Ok((read(&entry.key, &entry.value)?, entry.revision)));
    Ok((values.collect::<Result<_>>()?, revision))
}

/// Changes a value in place, again when somebody else changed it meanwhile. `change` gives the new value, or
/// none when it is to stay as it is. The answer is the value as it is then, and its revision.
///
/// # Errors
/// Those of `change`, which gets no value when there is none; `Conflict` when others were faster each time.
pub(crate) async fn update<T, F>(store: &dyn Store, key: &str, mut change: F) -> Result<(T, Revision)>
where
    T: DeserializeOwned + Serialize,
    F: FnMut(Option<&T>) -> Result<Option<T>>,
{
    for attempt in 0..TRIES {
        let old = get::<T>(store, key).await?;
        let expect = old.as_ref().map_or(Expect::Absent, |(_, revision)| Expect::At(*revision));
        let new = match (change(old.as_ref().map(|(value, _)| value))?, old) {
            (Some(new), _) => new,
            (None, Some(old)) => return Ok(old),
            (None, None) => return Err(Error::internal(format!("{key} was neither there nor made"))),
        };
        match store.put(key, write(key, &new)?, expect, None).await {
            Ok(revision) => return Ok((new, revision)),
            Err(error) if error.code == ErrorCode::Conflict => {
                // Different waits for different writers: the time of day is random enough between them.
                let jitter =
                    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos() % 5_000);
                tokio::time::sleep(Duration::from_micros(u64::from(attempt * 2_000 + jitter))).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorCode::Conflict, format!("{key} is being changed by others all the time"))
        .hint("try again"))
}

/// The value as JSON.
pub(crate) fn write(key: &str, value: &impl Serialize) -> Result<bytes::Bytes> {
    serde_json::to_vec(value)
        .map(Into::into)
        .map_err(|cause| Error::internal(format!("{key} cannot be written: {cause}")))
}

fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|cause| {
        Error::internal(format!("{key} in the store cannot be read: {cause}"))
            .hint("was it written by a newer version? run the same version on all servers")
    })
}
