//! The layout of a node's data directory. Everything a node needs to come back is here.

use std::path::{Path, PathBuf};

/// Names the files of one data directory.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// What `weft up` reads when it is given no other file.
    pub fn config(&self) -> PathBuf {
        self.0.join("node.yaml")
    }
    /// The admin API for this host's commands.
    pub fn socket(&self) -> PathBuf {
        self.0.join("weft.sock")
    }
    /// The roots of the mesh.
    pub fn roots(&self) -> PathBuf {
        self.0.join("roots.pem")
    }
    /// The node's own certificate and key.
    pub fn node(&self) -> Credential {
        Credential::in_dir(&self.0.join("node"))
    }
    /// The intermediate with which a CA node signs.
    pub fn issuer(&self) -> Credential {
        Credential::in_dir(&self.0.join("issuer"))
    }
    /// The mesh's root, on the node that created it until somebody takes it offline.
    pub fn root(&self) -> Credential {
        Credential::in_dir(&self.0.join("root"))
    }
    /// The operator credential that `weft init` makes.
    pub fn operator(&self) -> Credential {
        Credential::in_dir(&self.0.join("operator"))
    }
    /// The contents of Secrets, encrypted, and the key to them.
    pub fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }
    /// Certificates and keys of the service accounts hosted here, a directory each.
    pub fn workloads(&self) -> PathBuf {
        self.0.join("workloads")
    }
}

/// A certificate chain and its key, side by side.
#[derive(Clone, Debug)]
pub struct Credential {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Credential {
    pub fn in_dir(dir: &Path) -> Self {
        Self { cert: dir.join("cert.pem"), key: dir.join("key.pem") }
    }
    pub fn exists(&self) -> bool {
        self.cert.exists() && self.key.exists()
    }
}
