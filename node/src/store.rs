//! What a node keeps on disk, in `DIR/store.redb`: every document with its last versions, the last facts, the peers it
//! knew, and the two counters that must never go back (incarnation, and the highest stamp seen).
//!
//! The calls block: they end when the disk has the data. Actors use [`Store::call`]. A row that cannot be read is left
//! out, counted and logged; peers send it again.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    fs::{self, File, OpenOptions, Permissions},
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{
    Database, DatabaseError, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition, Value, WriteTransaction, backends::FileBackend,
};
use serde::{Serialize, de::DeserializeOwned};
use weft_wire::{
    codec,
    document::{DocumentKey, DocumentVersion, KeptVersion, MAX_VERSIONS, SignedDocument, Stamp},
    fact::{FactKind, SignedFact},
    frame::MAX_FRAME_LEN,
    id::NodeName,
};

/// Encoded [`DocumentKey`] → encoded [`SignedDocument`].
const DOCUMENTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("documents");
/// (Encoded [`DocumentKey`], [`place_of`] a version) → encoded [`KeptVersion`]; the present version is among them.
const VERSIONS: TableDefinition<(&[u8], &[u8]), &[u8]> = TableDefinition::new("versions");
/// Encoded [`DocumentKey`] → encoded stamp, build and reason: a version that was found not to be usable.
const HELD_BACK: TableDefinition<&[u8], &[u8]> = TableDefinition::new("held-back");
/// Encoded [`DocumentKey`] → encoded [`SignedDocument`]: deletions that all members know.
const ARCHIVE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("deleted");
/// (Owner, kind) → encoded [`SignedFact`].
const FACTS: TableDefinition<(&str, u16), &[u8]> = TableDefinition::new("facts");
/// Addresses.
const PEERS: TableDefinition<&str, ()> = TableDefinition::new("remembered-peers");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Keys of [`META`].
const INCARNATION: &str = "incarnation";
const HIGH_WATER_MILLIS: &str = "high-water-millis";
const HIGH_WATER_COUNTER: &str = "high-water-counter";

/// Pages kept in memory. The store is written often and read once, at the start.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another weft node is running on {0}; stop it first, or use another --dir")]
    InUse(PathBuf),
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} cannot be read ({source}); move it away and start again: the node gets its documents and facts from \
         its peers, and keeps its identity"
    )]
    Unreadable { path: PathBuf, source: redb::Error },
    #[error("cannot read or write the node's store: {0}")]
    Database(#[from] redb::Error),
    #[error("a row does not fit into the store: {0}")]
    Encode(#[from] weft_wire::codec::WireError),
    #[error("the store's task was cancelled, because the node ends")]
    Cancelled,
}

/// Says what cannot be written, once: a full disk must not end a node that serves from memory, nor fill its log.
#[derive(Debug)]
pub struct DiskReport {
    what: &'static str,
    failed: bool,
}

impl DiskReport {
    /// `what` is the plural of what is written.
    pub fn new(what: &'static str) -> Self {
        Self { what, failed: false }
    }

    pub fn note(&mut self, written: &Result<(), StoreError>) {
        let failed_before = std::mem::replace(&mut self.failed, written.is_err());
        match written {
            Err(error) if !failed_before => {
                tracing::error!(%error, "{} cannot be written to disk; going on from memory", self.what);
            }
            Ok(()) if failed_before => tracing::info!("{} are written to disk again", self.what),
            _ => {}
        }
    }
}

/// The rows of a table that could be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    pub rows: Vec<T>,
    /// Rows that could not.
    pub skipped: usize,
}

/// The open store of one node. Cheap to clone; the file stays locked until the last clone is gone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    open: Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>,
    /// `None` after an error: redb then refuses everything, also when the disk has room again, until it is opened anew.
    database: Mutex<Option<Arc<Database>>>,
}

impl Store {
    /// The store's file in the node's directory.
    pub const FILE_NAME: &str = "store.redb";

    /// Opens `dir/store.redb`, or makes it, with `dir` for the owner alone.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process has it open, [`StoreError::Unreadable`] if it is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(at(dir))?;
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(at(dir))?;
        let dir = dir.to_owned();
        Self::opened_by(Box::new(move || open_database(&dir, FileBackend::new)))
    }

    fn opened_by(open: Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>) -> Result<Self, StoreError> {
        let database = Mutex::new(Some(Arc::new(open()?)));
        let store = Self(Arc::new(Shared { open, database }));
        // All tables exist from here on, so that readers need not expect their absence.
        store.write(|transaction| {
            transaction.open_table(DOCUMENTS)?;
            transaction.open_table(VERSIONS)?;
            transaction.open_table(HELD_BACK)?;
            transaction.open_table(ARCHIVE)?;
            transaction.open_table(FACTS)?;
            transaction.open_table(PEERS)?;
            transaction.open_table(META)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// Runs blocking work on the store outside of the runtime's workers.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError::Cancelled`] when the runtime ends. A caller that is dropped meanwhile does
    /// not stop `work`.
    pub async fn call<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or(Err(StoreError::Cancelled))
    }

    /// The number of this start of the node: higher than all before it and at least `floor`, and on disk before it is
    /// returned.
    pub fn next_incarnation(&self, floor: u64) -> Result<u64, StoreError> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let next = (meta.get(INCARNATION)?.map_or(0, |row| row.value()) + 1).max(floor);
            meta.insert(INCARNATION, next)?;
            Ok(next)
        })
    }

    /// The highest stamp that was ever saved with documents.
    pub fn high_water(&self) -> Result<Stamp, StoreError> {
        self.read(|transaction| high_water(&transaction.open_table(META)?))
    }

    /// Saves versions of documents in one transaction, over the versions that are there, of which the last
    /// [`MAX_VERSIONS`] are kept. The high water only rises.
    pub fn save_documents(&self, saved: &[KeptVersion], stamp: Stamp) -> Result<(), StoreError> {
        let row = |kept: &KeptVersion| {
            let encoded = [encode(&kept.document.key)?, encode(&kept.document)?, encode(kept)?];
            Ok((encoded, place_of(&kept.document.version())))
        };
        let rows: Vec<_> = saved.iter().map(row).collect::<Result<_, StoreError>>()?;
        self.write(|transaction| {
            let mut table = transaction.open_table(DOCUMENTS)?;
            let mut versions = transaction.open_table(VERSIONS)?;
            let mut held_back = transaction.open_table(HELD_BACK)?;
            let mut archive = transaction.open_table(ARCHIVE)?;
            for ([key, document, kept], place) in &rows {
                held_back.remove(key.as_slice())?;
                archive.remove(key.as_slice())?;
                table.insert(key.as_slice(), document.as_slice())?;
                versions.insert((key.as_slice(), place.as_slice()), kept.as_slice())?;
                let places = versions.range(all_places(key))?.rev().skip(MAX_VERSIONS);
                let places: Vec<_> =
                    places.map(|row| Ok(row?.0.value().1.to_vec())).collect::<Result<_, StorageError>>()?;
                for place in places {
                    versions.remove((key.as_slice(), place.as_slice()))?;
                }
            }
            let mut meta = transaction.open_table(META)?;
            let stamp = stamp.max(high_water(&meta)?);
            meta.insert(HIGH_WATER_MILLIS, stamp.millis)?;
            meta.insert(HIGH_WATER_COUNTER, u64::from(stamp.counter))?;
            Ok(())
        })
    }

    /// Forgets which version of a document holds, not that it was there.
    pub fn take_out(&self, key: &DocumentKey) -> Result<(), StoreError> {
        let key = encode(key)?;
        self.write(|transaction| {
            transaction.open_table(DOCUMENTS)?.remove(key.as_slice())?;
            Ok(())
        })
    }

    /// The versions of a document that are kept, the oldest first.
    pub fn load_versions(&self, key: &DocumentKey) -> Result<Vec<KeptVersion>, StoreError> {
        let key = encode(key)?;
        self.read(|transaction| {
            let versions = transaction.open_table(VERSIONS)?;
            let rows = versions.range(all_places(&key))?;
            let mut kept = Vec::new();
            for row in rows {
                kept.extend(decode::<KeptVersion>(row?.1.value()));
            }
            Ok(kept)
        })
    }

    /// Moves deletions to the archive, and drops others from there, with all that was kept of their documents.
    pub fn forget_deleted(&self, archived: &[Arc<SignedDocument>], dropped: &[DocumentKey]) -> Result<(), StoreError> {
        let row = |document: &Arc<SignedDocument>| Ok((encode(&document.key)?, encode(&**document)?));
        let rows: Vec<_> = archived.iter().map(row).collect::<Result<_, StoreError>>()?;
        let dropped: Vec<_> = dropped.iter().map(encode).collect::<Result<_, _>>()?;
        self.write(|transaction| {
            let mut archive = transaction.open_table(ARCHIVE)?;
            let mut documents = transaction.open_table(DOCUMENTS)?;
            for (key, row) in &rows {
                documents.remove(key.as_slice())?;
                archive.insert(key.as_slice(), row.as_slice())?;
            }
            let mut versions = transaction.open_table(VERSIONS)?;
            for key in &dropped {
                archive.remove(key.as_slice())?;
                versions.retain_in(all_places(key), |_, _| false)?;
            }
            Ok(())
        })
    }

    pub fn load_archive(&self) -> Result<Loaded<SignedDocument>, StoreError> {
        self.load(ARCHIVE, |_, row| decode::<SignedDocument>(row))
    }

    /// Deletions from the archive; those that are not there are left out.
    pub fn load_archived(&self, keys: &[DocumentKey]) -> Result<Vec<SignedDocument>, StoreError> {
        let keys: Vec<_> = keys.iter().map(encode).collect::<Result<_, _>>()?;
        self.read(|transaction| {
            let archive = transaction.open_table(ARCHIVE)?;
            let mut found = Vec::new();
            for key in &keys {
                found.extend(archive.get(key.as_slice())?.and_then(|row| decode(row.value())));
            }
            Ok(found)
        })
    }

    /// Notes that a build cannot use the version of a document with this stamp, until another one is saved.
    pub fn hold_back(&self, key: &DocumentKey, stamp: Stamp, build: &str, why: &str) -> Result<(), StoreError> {
        let (key, row) = (encode(key)?, encode(&(key, stamp, build, why))?);
        self.write(|transaction| {
            transaction.open_table(HELD_BACK)?.insert(key.as_slice(), row.as_slice())?;
            Ok(())
        })
    }

    /// What this build cannot use, and why.
    pub fn load_held_back(&self, build: &str) -> Result<Vec<(DocumentKey, Stamp, String)>, StoreError> {
        let loaded = self.load(HELD_BACK, |_, row| decode::<(DocumentKey, Stamp, String, String)>(row))?;
        let rows = loaded.rows.into_iter().filter(|(_, _, noted_by, _)| noted_by == build);
        Ok(rows.map(|(key, stamp, _, why)| (key, stamp, why)).collect())
    }

    pub fn load_documents(&self) -> Result<Loaded<SignedDocument>, StoreError> {
        self.load(DOCUMENTS, |_, row| decode::<SignedDocument>(row))
    }

    /// Saves facts in one transaction, over the ones of the same owner and kind.
    pub fn save_facts<F>(&self, facts: &[F]) -> Result<(), StoreError>
    where
        F: Borrow<SignedFact> + Serialize,
    {
        let rows = encoded(facts, |fact| Ok((fact.borrow().owner.clone(), fact.borrow().kind.0)))?;
        self.write(|transaction| {
            let mut table = transaction.open_table(FACTS)?;
            for ((owner, kind), row) in &rows {
                table.insert((owner.as_str(), *kind), row.as_slice())?;
            }
            Ok(())
        })
    }

    /// Forgets what a node said, because it has left: all but how often join tokens were used, which must not become
    /// good again.
    pub fn forget_facts(&self, owner: &NodeName) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(FACTS)?;
            table.retain_in((owner.as_str(), 0)..=(owner.as_str(), u16::MAX), |(_, kind), _| {
                kind == FactKind::SPENT_TOKENS.0
            })?;
            Ok(())
        })
    }

    pub fn load_facts(&self) -> Result<Loaded<SignedFact>, StoreError> {
        self.load(FACTS, |_, row| decode::<SignedFact>(row))
    }

    /// Remembers these peers, and no others.
    pub fn save_peers(&self, peers: &BTreeSet<SocketAddr>) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(PEERS)?;
            table.retain(|_, ()| false)?;
            for address in peers {
                table.insert(address.to_string().as_str(), ())?;
            }
            Ok(())
        })
    }

    pub fn load_peers(&self) -> Result<Loaded<SocketAddr>, StoreError> {
        self.load(PEERS, |address, ()| address.parse().ok())
    }

    fn load<K: Key + 'static, V: Value + 'static, T>(
        &self,
        definition: TableDefinition<K, V>,
        row: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> Option<T>,
    ) -> Result<Loaded<T>, StoreError> {
        let loaded = self.read(|transaction| {
            let table: ReadOnlyTable<K, V> = transaction.open_table(definition)?;
            let mut loaded = Loaded { rows: Vec::new(), skipped: 0 };
            for entry in table.iter()? {
                let (key, value) = entry?;
                match row(key.value(), value.value()) {
                    Some(row) => loaded.rows.push(row),
                    None => loaded.skipped += 1,
                }
            }
            Ok(loaded)
        })?;
        if loaded.skipped > 0 {
            tracing::warn!(table = %definition, skipped = loaded.skipped, "rows of the store cannot be read");
        }
        Ok(loaded)
    }

    fn read<R>(&self, work: impl FnOnce(&ReadTransaction) -> Result<R, redb::Error>) -> Result<R, StoreError> {
        self.on_database(|database| work(&database.begin_read()?))
    }

    /// One transaction: all of `work` is on disk when this returns, or none of it ever.
    fn write<R>(&self, work: impl FnOnce(&WriteTransaction) -> Result<R, redb::Error>) -> Result<R, StoreError> {
        self.on_database(|database| {
            let transaction = database.begin_write()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn on_database<R>(&self, work: impl FnOnce(&Database) -> Result<R, redb::Error>) -> Result<R, StoreError> {
        let database = {
            let mut open = self.0.database.lock();
            match &*open {
                Some(database) => database.clone(),
                None => open.insert(Arc::new((self.0.open)()?)).clone(),
            }
        };
        work(&database).map_err(|error| {
            self.0.database.lock().take_if(|open| Arc::ptr_eq(open, &database));
            error.into()
        })
    }
}

/// Opens the database in `dir`, or makes it.
fn open_database<B: StorageBackend>(
    dir: &Path,
    backend: impl FnOnce(File) -> Result<B, DatabaseError>,
) -> Result<Database, StoreError> {
    let path = dir.join(Store::FILE_NAME);
    let file = open_private(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
    let unusable = |error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(dir.to_owned()),
        error => StoreError::Unreadable { path: path.clone(), source: error.into() },
    };
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        // Without the check, redb may panic over a file that something else has changed.
        .set_check_integrity_on_open(true)
        .create_with_backend(backend(file).map_err(unusable)?)
        .map_err(unusable)
}

/// Opens a file that only its owner may read, however it came to be.
fn open_private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn high_water(meta: &impl ReadableTable<&'static str, u64>) -> Result<Stamp, redb::Error> {
    let value = |key| Ok::<u64, redb::Error>(meta.get(key)?.map_or(0, |row| row.value()));
    // The counter was written from a u16; whatever else is there must not lower the mark.
    let counter = u16::try_from(value(HIGH_WATER_COUNTER)?).unwrap_or(u16::MAX);
    Ok(Stamp { millis: value(HIGH_WATER_MILLIS)?, counter })
}

/// Values with their keys, as rows.
fn encoded<T: Serialize, K>(
    values: &[T],
    key: impl Fn(&T) -> Result<K, codec::WireError>,
) -> Result<Vec<(K, Vec<u8>)>, StoreError> {
    values.iter().map(|value| Ok((key(value)?, codec::encode(value, MAX_FRAME_LEN)?))).collect()
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    Ok(codec::encode(value, MAX_FRAME_LEN)?)
}

/// Bytes that order a document's versions as they are ordered, but for authors that stamp alike, of whom the hash
/// decides.
fn place_of(version: &DocumentVersion) -> Vec<u8> {
    let Stamp { millis, counter } = version.stamp;
    [&millis.to_be_bytes()[..], &counter.to_be_bytes(), &version.hash].concat()
}

/// The rows of all versions of a document.
fn all_places(key: &[u8]) -> RangeInclusive<(&[u8], &[u8])> {
    // Longer than any.
    const LAST: &[u8] = &[u8::MAX; 32];
    (key, &[])..=(key, LAST)
}

fn decode<T: DeserializeOwned>(row: &[u8]) -> Option<T> {
    codec::decode(row, MAX_FRAME_LEN).ok()
}

#[cfg(test)]
pub(crate) mod tests;
