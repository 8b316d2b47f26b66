//! What TLS to places outside of the mesh needs, gathered whenever a view is made: certificates and keys from files of this
//! host, from Secrets and ConfigMaps, and the host's own list of authorities.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use rustls::RootCertStore;
use weft_policy::{
    origination::{Authorities, ClientIdentity, Origination},
    secrets::Credentials,
};
use weft_proxy::{
    origination::{Material, Originator, Trust},
    ports::{OriginationPublisher, OriginationTable},
};
use zeroize::Zeroizing;

/// Of a file with certificates, a key or revocation lists.
const MAX_FILE: u64 = 1 << 20;

/// Keeps the proxy's table of what TLS needs.
pub struct Originations {
    publisher: OriginationPublisher,
    made: BTreeMap<Arc<Origination>, Made>,
    /// What the last view wanted: requests that have read it may be under way.
    before: BTreeSet<Arc<Origination>>,
    wanted: BTreeSet<Arc<Origination>>,
    /// Read when they are first needed.
    system: Option<Arc<RootCertStore>>,
}

struct Made {
    /// Of all that it was made from.
    digest: Vec<u8>,
    originator: Result<Arc<Originator>, Arc<str>>,
}

/// The bytes that an origination refers to.
struct Gathered {
    roots: Option<Arc<RootCertStore>>,
    authorities: Vec<Zeroizing<Vec<u8>>>,
    revoked: Option<Zeroizing<Vec<u8>>>,
    identity: Option<[Zeroizing<Vec<u8>>; 2]>,
}

impl Originations {
    pub fn new(publisher: OriginationPublisher) -> Self {
        Self { publisher, made: BTreeMap::new(), before: BTreeSet::new(), wanted: BTreeSet::new(), system: None }
    }

    /// Makes what a view wants; to be called before the view is published.
    pub fn follow(&mut self, wanted: BTreeSet<Arc<Origination>>, credentials: &Credentials) {
        if wanted != self.wanted {
            self.before = std::mem::replace(&mut self.wanted, wanted);
        }
        self.refresh(credentials);
    }

    /// Whether anything may change without a new view.
    pub fn reads_files(&self) -> bool {
        self.wanted.iter().any(|origination| origination.reads_files())
    }

    /// Looks again at everything that is wanted.
    pub fn refresh(&mut self, credentials: &Credentials) {
        if self.wanted.is_empty() && self.made.is_empty() {
            return;
        }
        let (wanted, before) = (&self.wanted, &self.before);
        self.made.retain(|known, _| wanted.contains(known) || before.contains(known));
        for origination in &self.wanted.clone() {
            let gathered = self.gather(origination, credentials);
            let digest = match &gathered {
                Ok(gathered) => gathered.digest(),
                Err(why) => why.as_bytes().to_vec(),
            };
            if self.made.get(origination).is_some_and(|known| known.digest == digest) {
                continue;
            }
            let made = gathered.and_then(|gathered| Originator::new(origination, &gathered.material()));
            if let Err(why) = &made {
                tracing::warn!(why, "places outside of the mesh that want TLS cannot be called");
            }
            let originator = made.map(Arc::new).map_err(Into::into);
            self.made.insert(origination.clone(), Made { digest, originator });
        }
        let table = self.made.iter().map(|(origination, made)| (origination.clone(), made.originator.clone()));
        let table: OriginationTable = table.collect();
        self.publisher.publish(table);
    }

    fn gather(&mut self, origination: &Origination, credentials: &Credentials) -> Result<Gathered, String> {
        let mut gathered = Gathered { roots: None, authorities: Vec::new(), revoked: None, identity: None };
        match &origination.authorities {
            Authorities::System => gathered.roots = Some(self.system_roots()?),
            Authorities::File(path) => gathered.authorities.push(read("caCertificates", path)?),
            Authorities::ConfigMaps(config_maps) => {
                let mut wrong = Vec::new();
                for config_map in config_maps {
                    match credentials.usable_bundle(config_map) {
                        Ok(bundle) => gathered.authorities.push(Zeroizing::new(bundle.to_vec())),
                        Err(why) => wrong.push(why),
                    }
                }
                if gathered.authorities.is_empty() {
                    return Err(wrong.join("; "));
                }
            }
            Authorities::Named(name) => {
                let found = credentials.authorities(name);
                let found = found.ok_or_else(|| format!("this node has no ca.crt of {name}"))?;
                gathered.authorities.push(Zeroizing::new(found.to_vec()));
            }
            Authorities::Anybody => {}
        }
        if let Some(path) = &origination.revoked {
            gathered.revoked = Some(read("caCrl", path)?);
        }
        gathered.identity = match &origination.identity {
            None => None,
            Some(ClientIdentity::Files { certificates, key }) => {
                Some([read("clientCertificate", certificates)?, read("privateKey", key)?])
            }
            Some(ClientIdentity::Secret(secret)) => {
                let pair = credentials.key_pair(secret);
                let pair =
                    pair.ok_or_else(|| format!("this node has no certificate with its key of Secret {secret}"))?;
                Some([pair.certificates, pair.key].map(|value| Zeroizing::new(value.expose().to_vec())))
            }
        };
        Ok(gathered)
    }

    fn system_roots(&mut self) -> Result<Arc<RootCertStore>, String> {
        if let Some(roots) = &self.system {
            return Ok(roots.clone());
        }
        let roots = system_roots().map_err(|error| error.to_string())?;
        Ok(self.system.insert(roots).clone())
    }
}

impl Gathered {
    fn material(&self) -> Material<'_> {
        Material {
            authorities: match (&self.roots, &self.authorities[..]) {
                (Some(roots), _) => Trust::Roots(roots.clone()),
                (None, []) => Trust::Anybody,
                (None, files) => Trust::Pem(files.iter().map(|file| &file[..]).collect()),
            },
            revoked: self.revoked.as_ref().map(|file| &file[..]),
            identity: self.identity.as_ref().map(|[certificates, key]| (&certificates[..], &key[..])),
        }
    }

    fn digest(&self) -> Vec<u8> {
        let mut whole = Context::new(&SHA256);
        let files = self.authorities.iter().chain(&self.revoked).chain(self.identity.iter().flatten());
        for file in files {
            whole.update(&(file.len() as u64).to_be_bytes());
            whole.update(file);
        }
        Digest::as_ref(&whole.finish()).to_vec()
    }
}

/// The certificates of authorities that this host believes.
///
/// # Errors
/// It has none.
pub fn system_roots() -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        anyhow::bail!("this host has no root certificates: install ca-certificates, or name a file in SSL_CERT_FILE");
    }
    Ok(Arc::new(roots))
}

/// A file that a document names in `field`.
fn read(field: &str, path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{field} {path}: {why}");
    if !Path::new(path).is_absolute() {
        return Err(failed(&"is no absolute path"));
    }
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(|error| failed(&error))?.is_file() {
        return Err(failed(&"is no file"));
    }
    let file = File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(&"is larger than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use weft_policy::{
        compile::{Inputs, compile},
        secrets::Reference,
    };
    use weft_proxy::ports::originations;
    use weft_wire::{
        id::Namespace,
        secret::{SecretBytes, SecretPayload},
    };

    use super::*;

    #[test]
    fn a_file_is_read_whole_and_only_if_it_is_one_of_reasonable_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        fs::write(path("good"), "text").unwrap();
        fs::write(path("most"), vec![b'a'; MAX_FILE as usize]).unwrap();
        fs::write(path("large"), vec![b'a'; MAX_FILE as usize + 1]).unwrap();
        assert_eq!(*read("caCrl", &path("good")).unwrap(), b"text");
        assert!(read("caCrl", &path("most")).is_ok());
        for (path, expected) in [
            (path("large"), "is larger than 1 MiB"),
            (path("none"), "No such file"),
            (path(""), "is no file"),
            ("good".to_owned(), "is no absolute path"),
        ] {
            let error = read("caCrl", &path).unwrap_err();
            assert!(error.starts_with(&format!("caCrl {path}: ")) && error.contains(expected), "{error}");
        }
    }

    /// What documents refer to where the Secret `default/a` has these values.
    fn credentials(values: &[(&str, &str)]) -> Arc<Credentials> {
        let data = values.iter().map(|(key, value)| ((*key).to_owned(), SecretBytes::new((*value).into())));
        let payload = SecretPayload { salt: SecretBytes::default(), data: data.collect() };
        let inputs = Inputs {
            trust_domain: &"cluster.local".parse().unwrap(),
            this_node: &"here".parse().unwrap(),
            nodes: &[],
            documents: &[],
            local: &BTreeMap::new(),
            secrets: &Arc::new([(secret(), Arc::new(payload))].into()),
            names: &Default::default(),
        };
        compile(&inputs, None).credentials
    }

    fn secret() -> Reference {
        Reference::new(&Namespace::default_namespace(), "a")
    }

    #[test]
    fn a_secret_has_authorities_certificate_and_key_or_it_is_said_what_it_lacks() {
        let wanted = Arc::new(Origination {
            authorities: Authorities::Named(secret()),
            revoked: None,
            identity: Some(ClientIdentity::Secret(secret())),
            server_name: None,
            names: Vec::new(),
        });
        let (publisher, _) = originations();
        let mut originations = Originations::new(publisher);
        for (values, expected) in [
            (&[][..], "this node has no ca.crt of default/a"),
            (&[("ca.crt", "text")][..], "this node has no certificate with its key of Secret default/a"),
            (&[("ca.crt", "text"), ("tls.crt", "text"), ("tls.key", "text")][..], "there is no client certificate"),
        ] {
            originations.follow([wanted.clone()].into(), &credentials(values));
            let table = originations.publisher.table();
            let Some(Err(why)) = table.get(&wanted) else { panic!("{values:?}") };
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn what_has_not_changed_is_not_made_again_and_what_nobody_wants_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca").to_string_lossy().into_owned();
        let wanted = Arc::new(Origination {
            authorities: Authorities::File(file.clone()),
            revoked: None,
            identity: None,
            server_name: None,
            names: Vec::new(),
        });
        let (publisher, _) = originations();
        let mut originations = Originations::new(publisher);
        let made = |originations: &Originations| match originations.publisher.table().get(&wanted) {
            Some(Err(why)) => Some(why.clone()),
            _ => None,
        };
        let none = Credentials::default();
        originations.follow([wanted.clone()].into(), &none);
        assert!(originations.reads_files());
        assert!(made(&originations).unwrap().contains("No such file"));
        fs::write(&file, "nothing").unwrap();
        originations.refresh(&none);
        let first = made(&originations).unwrap();
        assert_eq!(&*first, "there is no certificate among the authorities'");
        originations.refresh(&none);
        assert!(Arc::ptr_eq(&first, &made(&originations).unwrap()));
        originations.follow(BTreeSet::new(), &none);
        assert!(made(&originations).is_some(), "a request may still have the last view");
        originations
            .follow([Arc::new(Origination { names: vec!["a".into()], ..Origination::clone(&wanted) })].into(), &none);
        assert!(made(&originations).is_none());
    }
}
