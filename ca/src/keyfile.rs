//! Keys and certificates on disk. A file is whole or absent: written beside its place, synced, then renamed onto it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::{CaError, key::PrivateKey, pem};

/// A P-256 key is 241 bytes of PEM; other kinds are refused anyway.
const MAX_KEY_FILE_LEN: u64 = 16 * 1024;
const MAX_CHAIN_FILE_LEN: u64 = 256 * 1024;
const OWNER_ONLY: u32 = 0o600;
const WORLD_READABLE: u32 = 0o644;

/// Makes a directory that only its owner can enter (0700), and those above it. One that exists is left as it is.
///
/// # Errors
/// [`CaError::Io`].
pub fn create_private_dir(path: &Path) -> Result<(), CaError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

/// Writes a private key, readable by its owner only (0600), in a directory made by [`create_private_dir`].
///
/// # Errors
/// [`CaError::Io`].
pub fn write_key(path: &Path, key: &PrivateKey) -> Result<(), CaError> {
    write_atomically(path, key.to_pem().as_bytes(), OWNER_ONLY)
}

/// Reads a private key.
///
/// # Errors
/// [`CaError::OpenKeyFile`] if others than the owner can read the file, [`CaError::Io`], or that it is no key.
pub fn read_key(path: &Path) -> Result<PrivateKey, CaError> {
    PrivateKey::from_pem(&read_secret(path, MAX_KEY_FILE_LEN)?).map_err(in_file(path))
}

/// Writes bytes for their owner only (0600), in a directory made by [`create_private_dir`].
///
/// # Errors
/// [`CaError::Io`].
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), CaError> {
    write_atomically(path, bytes, OWNER_ONLY)
}

/// Reads at most `limit` bytes that are for their owner only.
///
/// # Errors
/// [`CaError::OpenKeyFile`] if others than the owner can read the file, [`CaError::FileTooLarge`], [`CaError::Io`].
pub fn read_secret(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    // Of the open file, not of the path, which may be another file by now.
    let mode = file.metadata().map_err(io_error("read", path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CaError::OpenKeyFile { path: path.into(), mode });
    }
    read_bounded(file, path, limit)
}

/// Writes certificates as PEM, in their order, readable by everybody.
///
/// # Errors
/// [`CaError::Io`].
pub fn write_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), CaError> {
    let text: String = chain.iter().map(|certificate| pem::encode("CERTIFICATE", certificate).to_string()).collect();
    write_atomically(path, text.as_bytes(), WORLD_READABLE)
}

/// Reads one or more PEM certificates. Whether they are any good is for [`crate::trust`].
///
/// # Errors
/// [`CaError::Io`], or that there is no certificate or a damaged one.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let text = read_bounded(file, path, MAX_CHAIN_FILE_LEN)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| CaError::BadPem("a CERTIFICATE block is damaged"))
        .map_err(in_file(path))?;
    if chain.is_empty() {
        return Err(in_file(path)(CaError::BadPem("there is no CERTIFICATE block")));
    }
    Ok(chain)
}

fn read_bounded(file: File, path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    file.take(limit + 1).read_to_end(&mut text).map_err(io_error("read", path))?;
    if text.len() as u64 > limit {
        return Err(CaError::FileTooLarge { path: path.into(), limit });
    }
    Ok(text)
}

fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let temporary = parent.join(name);
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path))
        // The rename itself is only on disk when the directory is.
        .and_then(|()| File::open(parent)?.sync_all());
    if written.is_err() {
        // Best effort: after a failed rename it holds a key that nobody will use.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(io_error("write", path))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // With its mode from the first moment, so that no other user can open it in between.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    move |source| CaError::Io { action, path: path.into(), source }
}

fn in_file(path: &Path) -> impl Fn(CaError) -> CaError {
    move |source| CaError::File { path: path.into(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::init;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_kept_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("a/keys");
        create_private_dir(&keys).unwrap();
        assert_eq!((mode_of(&keys), mode_of(&dir.path().join("a"))), (0o700, 0o700));
        let (path, key) = (keys.join("node.key"), PrivateKey::generate().unwrap());
        write_key(&path, &key).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(read_key(&path).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        write_key(&path, &PrivateKey::generate().unwrap()).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_key(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
    }

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        write_key(&path, &PrivateKey::generate().unwrap()).unwrap();
        // Whatever mode the old file had, the new one has its own.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let key = PrivateKey::generate().unwrap();
        write_key(&path, &key).unwrap();
        assert_eq!(read_key(&path).unwrap().public_key(), key.public_key());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_directory_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("by a directory")).unwrap();
        let error = write_key(&path, &PrivateKey::generate().unwrap()).unwrap_err();
        assert!(matches!(error, CaError::Io { action: "write", .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_chain_reads_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.crt");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let mesh = init::create_mesh(&"cluster.local".parse().unwrap(), &"seed".parse().unwrap(), now).unwrap();
        write_chain(&path, &mesh.node.chain).unwrap();
        assert_eq!(read_chain(&path).unwrap(), mesh.node.chain);
    }

    #[test]
    fn files_of_another_kind_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.pem");
        let key = pem::encode("PRIVATE KEY", b"short");
        let huge = "x".repeat(300 * 1024);
        for text in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n", key.as_str(), huge.as_str()] {
            write_atomically(&path, text.as_bytes(), OWNER_ONLY).unwrap();
            for error in [read_key(&path).unwrap_err(), read_chain(&path).unwrap_err()] {
                assert!(error.to_string().contains("file.pem"), "{error}");
            }
        }
        let missing = read_key(&dir.path().join("absent.key")).unwrap_err().to_string();
        assert!(missing.contains("cannot read") && missing.contains("absent.key"), "{missing}");
    }
}
