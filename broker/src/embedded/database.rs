//! The database file: how RocksDB is set up, and how a loss is noticed.
//!
//! **Settings.** One writer, so no concurrent memtable inserts. The write-ahead log is flushed by hand: a write
//! lands in a buffer, [`Database::sync`] hands it to the system and to the disk. Old log files are recycled,
//! because overwriting a file costs no journal commit at each sync, and growing one does. All column families
//! are flushed together, so that recovery can cut the log at one point for all of them.
//!
//! **Recovery.** RocksDB replays the log up to the first record that is not whole (`PointInTime`) and drops all
//! after it: right after a crash, when what follows was never acknowledged; silent loss when a disk has
//! damaged the middle. To tell the two apart, the file `acknowledged` holds the sequence number of the last
//! write that was synced: written after each sync and before anything is acknowledged, not synced itself (so
//! after power loss it may be older than the truth, never newer). If recovery ends before it, opening fails.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crossdock_topics::{Error, ErrorCode};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::EmbeddedOptions;

/// The column families, as [`super::keys`] lists them.
const FAMILIES: [&str; 5] = ["log", "segments", "groups", "store", "keys"];

const MIB: usize = 1024 * 1024;

/// The open database.
pub(super) struct Database {
    db: DB,
    acknowledged: File,
    unsynced: WriteOptions,
}

impl Database {
    /// Opens or makes the database in `options.path`.
    pub(super) fn open(options: &EmbeddedOptions) -> Result<Self, Error> {
        let path = &options.path;
        std::fs::create_dir_all(path).map_err(|cause| {
            Error::invalid(format!("cannot make the folder {}: {cause}", path.display()))
                .hint("name a folder that this user may write to")
        })?;
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let family = |name: &str| ColumnFamilyDescriptor::new(name, family_options(name, &cache));
        let families = FAMILIES.iter().map(|name| family(name)).chain([family("default")]);
        let db = DB::open_cf_descriptors(&database_options(), path, families)
            .map_err(|cause| refused(path, &cause))?;
        let acknowledged = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("acknowledged"))
            .map_err(|cause| {
                Error::internal(format!("cannot open {}/acknowledged: {cause}", path.display()))
            })?;
        let database = Self { db, acknowledged, unsynced: WriteOptions::default() };
        database.check_nothing_lost(options)?;
        Ok(database)
    }

    fn check_nothing_lost(&self, options: &EmbeddedOptions) -> Result<(), Error> {
        let mut bytes = [0; 16];
        let whole = self.acknowledged.read_exact_at(&mut bytes, 0).is_ok();
        let (number, check) = bytes.split_at(8);
        // Torn or empty (power loss): it proves nothing, and RocksDB's own checks stand alone.
        if !whole || crc32c::crc32c(number).to_le_bytes() != check[..4] {
            return Ok(());
        }
        let promised = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
        let found = self.db.latest_sequence_number();
        if found >= promised {
            return Ok(());
        }
        let missing = promised - found;
        if options.accept_loss {
            tracing::error!(missing, "acknowledged writes are missing; going on without them as asked");
            return self.acknowledge(found);
        }
        Err(Error::internal(format!(
            "the log in {} ends {missing} writes before the last one that was acknowledged: a file was damaged, cut or removed",
            options.path.display()
        ))
        .hint("restore the folder from a backup, or go on without the missing messages with --accept-loss"))
    }

    fn acknowledge(&self, sequence: u64) -> Result<(), Error> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&sequence.to_le_bytes());
        let check = crc32c::crc32c(&bytes[..8]).to_le_bytes();
        bytes[8..12].copy_from_slice(&check);
        self.acknowledged
            .write_all_at(&bytes, 0)
            .map_err(|cause| Error::internal(format!("cannot write the file `acknowledged`: {cause}")))
    }

    /// A column family by the name it was opened with.
    pub(super) fn family(&self, name: &'static str) -> &ColumnFamily {
        #[allow(clippy::expect_used)] // `open` opened all of them
        self.db.cf_handle(name).expect("every family is opened")
    }

    /// Applies a batch, not yet durable in any way.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        self.db.write_opt(batch, &self.unsynced).map_err(|cause| failed("write", &cause))
    }

    /// Makes everything written before this call durable: on the disk, or just with the operating system.
    pub(super) fn sync(&self, to_disk: bool) -> Result<(), Error> {
        let sequence = self.db.latest_sequence_number();
        self.db.flush_wal(to_disk).map_err(|cause| failed("sync", &cause))?;
        if to_disk { self.acknowledge(sequence) } else { Ok(()) }
    }

    /// Reads one key.
    pub(super) fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.family(family), key).map_err(|cause| failed("read", &cause))
    }

    /// Walks over the keys of a family from `from` on, as long as they begin with `prefix`; stops when `visit`
    /// says `false`.
    pub(super) fn scan(
        &self,
        family: &'static str,
        from: &[u8],
        prefix: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        self.walk(family, from, prefix, false, visit)
    }

    /// The same, beginning with the key at or before `from` if there is one: one look at all of it, whatever is
    /// written meanwhile.
    pub(super) fn scan_around(
        &self,
        family: &'static str,
        from: &[u8],
        prefix: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        self.walk(family, from, prefix, true, visit)
    }

    fn walk(
        &self,
        family: &'static str,
        from: &[u8],
        prefix: &[u8],
        around: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(256 * 1024);
        // Without an end, what was deleted behind the last key is looked through up to the next topic's.
        if let Some(end) = end_of(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family), options);
        if around {
            iterator.seek_for_prev(from);
        }
        if !iterator.key().is_some_and(|key| key.starts_with(prefix)) {
            iterator.status().map_err(|cause| failed("read", &cause))?;
            iterator.seek(from);
        }
        while let Some((key, value)) = iterator.item() {
            if !key.starts_with(prefix) || !visit(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|cause| failed("read", &cause))
    }

    /// Walks back over the values of the keys from `from` down to `to`, until `visit` says `false`.
    pub(super) fn scan_back(
        &self,
        family: &'static str,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_lower_bound(to);
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(family), options);
        iterator.seek_for_prev(from);
        while let Some(value) = iterator.value() {
            if !visit(value)? {
                return Ok(());
            }
            iterator.prev();
        }
        iterator.status().map_err(|cause| failed("read", &cause))
    }

    /// Writes what is in memory to files, so that the next start has little to replay.
    pub(super) fn flush(&self) -> Result<(), Error> {
        let families: Vec<_> =
            FAMILIES.iter().map(|name| self.family(name)).chain([self.family("default")]).collect();
        self.db
            .flush_cfs_opt(&families, &rocksdb::FlushOptions::default())
            .map_err(|cause| failed("flush", &cause))
    }
}

/// The first key after all that begin with `prefix`; there is none when it is empty.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_recycle_log_file_num(4);
    options.set_manual_wal_flush(true);
    options.set_atomic_flush(true);
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 * MIB);
    options.set_db_write_buffer_size(128 * MIB);
    options
}

fn family_options(name: &str, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(6);
    // A block of the log is large already; the rest is small and read by key.
    table.set_block_size(if name == "log" { 64 * 1024 } else { 8 * 1024 });
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    if name == "log" {
        options.set_write_buffer_size(64 * MIB);
        options.set_target_file_size_base(128 * MIB as u64);
        options.set_max_bytes_for_level_base(512 * MIB as u64);
    } else {
        options.set_write_buffer_size(16 * MIB);
    }
    options
}

fn refused(path: &Path, cause: &rocksdb::Error) -> Error {
    let text = cause.to_string();
    // "Corruption: block checksum mismatch" speaks of a block.
    if text.starts_with("IO error") && text.contains("LOCK") {
        return Error::new(ErrorCode::Conflict, format!("another process is using {}", path.display()))
            .hint("stop it, or name another folder");
    }
    let error = Error::internal(format!("cannot open the data in {}: {text}", path.display()));
    if text.contains("No space left") {
        return error.hint("free some space on that disk and start again; nothing was changed");
    }
    error.hint("if a file was damaged, restore the folder from a backup; nothing was changed")
}

fn failed(what: &str, cause: &rocksdb::Error) -> Error {
    let text = cause.to_string();
    let error = Error::internal(format!("the disk refused to {what}: {text}"));
    if text.contains("No space left") || text.contains("File too large") {
        return error.hint("free some space, then restart");
    }
    error.hint("look at the disk, then restart")
}
