//! `weft init`, `weft join`, `weft leave`: how a host becomes part of a mesh, and ceases to be.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, bail};
use http::Method;
use rustls::pki_types::{CertificateDer, UnixTime};
use weft_ca::{csr, init, issuer::Issuer, key::PrivateKey, keyfile, token::JoinToken, trust::TrustBundle};
use weft_wire::{
    frame::{JoinRequest, MESH_PORT},
    id::Role,
};

use super::{CellArgs, Common, InitArgs, JoinArgs, LeaveArgs, client::Client, output::line};
use crate::{
    config::{Config, Seed},
    dir::{Credential, Dir},
    identity::NodeIdentity,
    peer::{self, join::JoinError},
};

pub(super) fn init(common: &Common, args: InitArgs) -> anyhow::Result<()> {
    let dir = new_dir(&common.dir)?;
    let mesh = init::create_mesh(&args.trust_domain, &args.name, UnixTime::now())?;
    let root = mesh.root.certificate().clone();
    write(&dir.root(), mesh.root.key(), std::slice::from_ref(&root))?;
    write(&dir.issuer(), mesh.issuer.key(), mesh.issuer.chain())?;
    write(&dir.operator(), &mesh.operator.key, &mesh.operator.chain)?;
    write_config(&dir, &Config::starter(&args.name, args.advertise, &[], args.cell.cell.as_ref(), args.cell.relay))?;
    keyfile::write_chain(&dir.roots(), std::slice::from_ref(&root))?;
    // Last: whatever breaks off before leaves no identity, and the command can be repeated.
    write(&dir.node(), &mesh.node.key, &mesh.node.chain)?;
    let shown = common.dir.display();
    line(format_args!("mesh {} created; this host is its first node, {}", mesh.root.mesh_id(), args.name))?;
    line(format_args!("next:"))?;
    line(format_args!("  weft up --dir {shown}                     run the node"))?;
    line(format_args!("  weft token create --dir {shown}           let another host in"))?;
    line(format_args!("keep {} safe: it is the mesh; it may be taken offline", dir.root().key.display()))?;
    Ok(())
}

pub(super) async fn join(common: &Common, args: JoinArgs) -> anyhow::Result<()> {
    let token: JoinToken = args.token.parse()?;
    let dir = new_dir(&common.dir)?;
    let seeds = resolve(&args.seed).await?;
    let key = joining_key(&dir.node())?;
    let issuer_key = match token.claims().grant.role {
        Role::Ca => Some(PrivateKey::generate()?),
        Role::Member | Role::Admin => None,
    };
    let request = JoinRequest {
        token: token.to_string(),
        name: args.name.to_string(),
        csr: csr::create(&key)?,
        issuer_csr: issuer_key.as_ref().map(csr::create).transpose()?,
    };
    let (welcome, trust) = match peer::join::join(seeds, &token, request).await {
        Ok(joined) => joined,
        Err(error) => {
            // Nothing was certified with it; unless the answer was lost, and then the next try needs the same key.
            if !matches!(error, JoinError::NoAnswer { .. }) {
                forget_joining_key(&dir.node());
            }
            return Err(error.into());
        }
    };
    let chain: Vec<_> = welcome.chain.into_iter().map(CertificateDer::from).collect();
    check(&args, &key, &chain, &trust)?;
    if let (Some(key), Some(chain)) = (issuer_key, welcome.issuer_chain) {
        let issuer = Issuer::open(key, chain.into_iter().map(CertificateDer::from).collect())?;
        issuer.verify(&trust, UnixTime::now()).context("the intermediate that the mesh sent")?;
        write(&dir.issuer(), issuer.key(), issuer.chain())?;
    }
    let peers = welcome.peers.iter().map(|peer| Seed { host: peer.ip().to_string(), port: peer.port() });
    let mut seeds = vec![args.seed.clone()];
    seeds.extend(peers.filter(|peer| *peer != args.seed && peer.host != args.advertise.to_string()));
    let CellArgs { cell, relay } = &args.cell;
    write_config(&dir, &Config::starter(&args.name, args.advertise, &seeds, cell.as_ref(), *relay))?;
    keyfile::write_chain(&dir.roots(), trust.roots())?;
    write(&dir.node(), &key, &chain)?;
    line(format_args!("joined mesh {} as {}", trust.mesh_id(), args.name))?;
    line(format_args!("next: weft up --dir {}", common.dir.display()))?;
    Ok(())
}

/// The key to join with, on disk before anybody is asked: should the answer be lost, the CA node lets the same key in
/// again without a second use of the token.
fn joining_key(node: &Credential) -> anyhow::Result<PrivateKey> {
    if node.key.exists() {
        return Ok(keyfile::read_key(&node.key)?);
    }
    let key = PrivateKey::generate()?;
    write_key(node, &key)?;
    Ok(key)
}

/// Leaves the host as it was before [`joining_key`].
fn forget_joining_key(node: &Credential) {
    // A key that stays is only used by the next try.
    let _ = std::fs::remove_file(&node.key);
    if let Some(dir) = node.key.parent() {
        let _ = std::fs::remove_dir(dir);
    }
}

/// Checks that the certificate is the one that was asked for, before anything is written.
fn check(args: &JoinArgs, key: &PrivateKey, chain: &[CertificateDer<'_>], trust: &TrustBundle) -> anyhow::Result<()> {
    let certificate = trust.verify_chain(chain, UnixTime::now()).context("the certificate that the mesh sent")?;
    if certificate.id.as_node() != Some(&args.name) || certificate.public_key != key.public_key() {
        bail!("the mesh sent a certificate for {} or for another key", certificate.id);
    }
    Ok(())
}

pub(super) async fn leave(common: &Common, args: LeaveArgs) -> anyhow::Result<()> {
    let dir = Dir::new(&common.dir);
    let name = NodeIdentity::load(&dir)?.name;
    let identity = common.dir.join("node");
    let mut client = Client::connect(&common.dir).await.with_context(|| {
        format!("{name} cannot tell the mesh that it leaves (to leave without a word, remove {})", identity.display())
    })?;
    client.send(Method::POST, &format!("/api/v1/leave?force={}", args.force), None::<&()>).await?;
    client.closed().await;
    // The node removes its identity when it has said goodbye and stopped.
    let gone = async {
        while dir.node().exists() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.is_err() {
        if dir.socket().exists() {
            bail!("the node does not stop: see its log, and end its process");
        }
        bail!(
            "the node has left, but its identity is still here: see its log for why, and remove {}",
            identity.display()
        );
    }
    line(format_args!("{name} has left the mesh; its identity is removed from {}", common.dir.display()))?;
    Ok(())
}

/// The directory of a node that is to be made.
///
/// # Errors
/// If a node is there: its identity is never overwritten.
fn new_dir(path: &Path) -> anyhow::Result<Dir> {
    let dir = Dir::new(path);
    if dir.node().exists() {
        bail!(
            "{} holds a node's identity already: `weft up` runs it; name another directory with --dir, or `weft leave` \
             its mesh first",
            path.display()
        );
    }
    if dir.root().key.exists() {
        bail!(
            "{} holds the root key of a mesh: name another directory with --dir, or move {} away",
            path.display(),
            dir.root().key.display()
        );
    }
    keyfile::create_private_dir(path)?;
    Ok(dir)
}

fn write(credential: &Credential, key: &PrivateKey, chain: &[CertificateDer<'_>]) -> anyhow::Result<()> {
    write_key(credential, key)?;
    Ok(keyfile::write_chain(&credential.cert, chain)?)
}

fn write_key(credential: &Credential, key: &PrivateKey) -> anyhow::Result<()> {
    if let Some(dir) = credential.key.parent() {
        keyfile::create_private_dir(dir)?;
    }
    Ok(keyfile::write_key(&credential.key, key)?)
}

/// Writes the configuration of a new node, unless the operator has put one there.
fn write_config(dir: &Dir, text: &str) -> anyhow::Result<()> {
    let path = dir.config();
    if path.exists() {
        return Ok(());
    }
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// The addresses of a seed, which may be a name.
async fn resolve(seed: &Seed) -> anyhow::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((seed.host.as_str(), seed.port))
        .await
        .with_context(|| format!("cannot find the seed {seed} (a node listens on port {MESH_PORT})"))?;
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_joins_again_uses_the_key_that_it_has() {
        let files = tempfile::tempdir().unwrap();
        let node = Dir::new(files.path()).node();
        let first = joining_key(&node).unwrap().public_key();
        assert_eq!(joining_key(&node).unwrap().public_key(), first);
        assert!(new_dir(files.path()).is_ok(), "a key alone is no identity");
        forget_joining_key(&node);
        assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 0);
        assert_ne!(joining_key(&node).unwrap().public_key(), first);
    }
}
