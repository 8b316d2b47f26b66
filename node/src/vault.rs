//! The contents of Secrets on disk, in `DIR/secrets`: one file for each version, encrypted with a key that never
//! leaves this directory, so that a copy of the store, of a snapshot without `secrets/key`, or of a single file tells
//! nothing. A file's name is the digest of what is in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow, ensure};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use weft_ca::keyfile;
use weft_wire::{
    codec,
    document::DocumentKey,
    secret::{MAX_SECRET_LEN, SecretDigest, SecretPayload},
};
use zeroize::Zeroizing;

const KEY_FILE: &str = "key";
const KEY_LEN: usize = 32;
/// Longest file: a content with its key, salt, nonce and tag.
const MAX_FILE_LEN: usize = 2 * MAX_SECRET_LEN;

/// Cheap to clone. The calls block until the disk has the data.
#[derive(Clone)]
pub struct Vault(Arc<Opened>);

struct Opened {
    dir: PathBuf,
    key: RandomizedNonceKey,
}

/// What one file holds.
#[derive(Debug)]
pub struct Stored {
    pub key: DocumentKey,
    pub content: SecretPayload,
}

impl Vault {
    /// Opens `dir`, or makes it, with a key of its own.
    ///
    /// # Errors
    /// If the directory or its key cannot be used, such as a key that others can read.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        keyfile::create_private_dir(dir)?;
        let path = dir.join(KEY_FILE);
        if !path.exists() {
            let mut key = Zeroizing::new([0; KEY_LEN]);
            rand::fill(&mut *key).map_err(|_| anyhow!("no random numbers to make {} of", path.display()))?;
            keyfile::write_secret(&path, &*key)?;
        }
        let key = keyfile::read_secret(&path, KEY_LEN as u64)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key);
        let key = key.map_err(|_| anyhow!("{} is no key: it must have {KEY_LEN} bytes", path.display()))?;
        Ok(Self(Arc::new(Opened { dir: dir.to_owned(), key })))
    }

    fn path(&self, digest: SecretDigest) -> PathBuf {
        self.0.dir.join(digest.to_string())
    }

    /// Keeps a content, on disk before it returns.
    pub fn save(&self, key: &DocumentKey, content: &SecretPayload) -> anyhow::Result<()> {
        let digest = content.digest();
        let mut bytes = Zeroizing::new(codec::encode(&(key, content), MAX_FILE_LEN)?);
        let (nonce, tag) = self
            .0
            .key
            .seal_in_place_separate_tag(Aad::from(bound_to(digest)), &mut bytes)
            .map_err(|_| anyhow!("{key} cannot be encrypted"))?;
        let file = [&nonce.as_ref()[..], &bytes, tag.as_ref()].concat();
        keyfile::write_secret(&self.path(digest), &file)?;
        Ok(())
    }

    /// Reads all that is kept. What cannot be read is left out, and logged: it may be another key's.
    pub fn load(&self) -> Vec<Stored> {
        let entries = fs::read_dir(&self.0.dir).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<SecretDigest>().ok());
        let mut all = Vec::new();
        for digest in files {
            match self.read(digest) {
                Ok(stored) => all.push(stored),
                Err(error) => tracing::warn!(%digest, error = format!("{error:#}"), "a Secret on disk cannot be read"),
            }
        }
        all
    }

    fn read(&self, digest: SecretDigest) -> anyhow::Result<Stored> {
        let file = keyfile::read_secret(&self.path(digest), MAX_FILE_LEN as u64)?;
        let (nonce, sealed) = file.split_first_chunk::<NONCE_LEN>().context("the file is too short")?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = self
            .0
            .key
            .open_in_place(Nonce::from(nonce), Aad::from(bound_to(digest)), &mut sealed)
            .map_err(|_| anyhow!("it was changed, or encrypted with another key than secrets/key"))?;
        let (key, content): (DocumentKey, SecretPayload) = codec::decode(opened, MAX_FILE_LEN)?;
        ensure!(content.digest() == digest, "its content has another digest than its name says");
        Ok(Stored { key, content })
    }

    /// Forgets a content: overwrites its file, as far as the file system does that in place, and removes it.
    pub fn remove(&self, digest: SecretDigest) -> io::Result<()> {
        let path = self.path(digest);
        let overwritten = OpenOptions::new().write(true).open(&path).and_then(|mut file| {
            let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(MAX_FILE_LEN);
            file.write_all(&vec![0; len])?;
            file.sync_all()
        });
        match overwritten.and(fs::remove_file(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.0.dir)?.sync_all(),
        }
    }
}

/// What a file's encryption is bound to besides its key.
fn bound_to(digest: SecretDigest) -> Vec<u8> {
    codec::signing_bytes("weft/secret-file/1", &digest)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

    use weft_wire::secret::SecretBytes;

    use super::*;

    fn key(name: &str) -> DocumentKey {
        let namespace = Some("default".parse().unwrap());
        DocumentKey { group: String::new(), kind: "Secret".into(), namespace, name: name.into() }
    }

    fn content(value: &str) -> SecretPayload {
        let data = BTreeMap::from([("password".to_owned(), SecretBytes::new(value.into()))]);
        SecretPayload { salt: SecretBytes::new(vec![7; SecretPayload::SALT_LEN]), data }
    }

    fn kept(vault: &Vault) -> Vec<(DocumentKey, SecretPayload)> {
        vault.load().into_iter().map(|stored| (stored.key, stored.content)).collect()
    }

    #[test]
    fn what_is_kept_is_read_back_and_its_bytes_are_nowhere_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        Vault::open(&path).unwrap().save(&key("a"), &content("hunter2")).unwrap();
        assert_eq!(kept(&Vault::open(&path).unwrap()), [(key("a"), content("hunter2"))]);
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
            let bytes = fs::read(&file).unwrap();
            for plain in [&b"hunter2"[..], b"password", b"Secret"] {
                assert!(!bytes.windows(plain.len()).any(|window| window == plain), "{}", file.display());
            }
        }
    }

    #[test]
    fn a_file_that_was_changed_moved_or_is_another_keys_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        vault.save(&key("a"), &content("one")).unwrap();
        let file = vault.path(content("one").digest());
        let bytes = fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            keyfile::write_secret(&file, &changed).unwrap();
            assert!(vault.load().is_empty(), "byte {at}");
        }
        keyfile::write_secret(&file, &bytes[..3]).unwrap();
        assert!(vault.load().is_empty());
        keyfile::write_secret(&vault.path(content("two").digest()), &bytes).unwrap();
        assert!(vault.load().is_empty(), "an old version is not taken for a new one");
        keyfile::write_secret(&file, &bytes).unwrap();
        assert_eq!(kept(&vault).len(), 1);
        fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        assert!(Vault::open(dir.path()).unwrap().load().is_empty());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Vault::open(dir.path()).unwrap();
        fs::set_permissions(dir.path().join(KEY_FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let error = Vault::open(dir.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_removed_is_gone_and_may_be_removed_again() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        vault.save(&key("a"), &content("one")).unwrap();
        vault.save(&key("a"), &content("two")).unwrap();
        vault.remove(content("one").digest()).unwrap();
        vault.remove(content("one").digest()).unwrap();
        assert_eq!(kept(&vault), [(key("a"), content("two"))]);
    }
}
