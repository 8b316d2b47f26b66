//! `weft apply`, `get`, `delete`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustls::pki_types::UnixTime;
use weft_ca::{key::PrivateKey, keyfile, trust::TrustBundle};
use weft_policy::{
    document::{self, MAX_FILE_LEN, ParsedFile},
    kinds::{find_kind, kinds},
};
use weft_wire::{
    document::{DocumentKey, SignedDocument},
    id::{Namespace, SpiffeId},
};

use super::{
    ApplyArgs, Author, Common, DeleteArgs, GetArgs,
    client::Client,
    output::{self, age, data, line},
};
use crate::{
    admin::api::{Document, Draft, Prepare, Prepared, Write, Written},
    dir::{Credential, Dir},
    identity::{der_chain, wall_ms},
};

pub(super) async fn apply(common: &Common, args: ApplyArgs) -> anyhow::Result<()> {
    let (mut drafts, mut noticed) = (Vec::new(), Vec::new());
    for file in files(&args.files)? {
        let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        let ParsedFile { documents, errors, notices } = document::parse_yaml(&read(&file)?, &args.namespace)
            .map_err(|error| anyhow::anyhow!("{}", error.in_file(&name)))?;
        noticed.extend(notices.into_iter().map(|notice| format!("{name}:{}: {}", notice.at, notice.text)));
        match errors.as_slice() {
            [] => {}
            [only] => bail!("{}", only.in_file(&name)),
            [first, rest @ ..] => bail!("{} (and {} more)", first.in_file(&name), rest.len()),
        }
        drafts.extend(documents.into_iter().map(|document| Draft { key: document.key, body: Some(document.json) }));
    }
    if drafts.is_empty() {
        bail!("no documents in {}", args.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "));
    }
    write(common, &args.author, drafts).await?;
    // Of what was refused there is nothing to note.
    noticed.iter().for_each(|notice| eprintln!("weft: {notice}"));
    Ok(())
}

pub(super) async fn delete(common: &Common, args: DeleteArgs) -> anyhow::Result<()> {
    let kind = find_kind(&args.kind).with_context(|| unknown_kind(&args.kind))?;
    let key = DocumentKey {
        group: kind.group.into(),
        kind: kind.kind.into(),
        namespace: kind.namespaced.then_some(args.namespace),
        name: args.name,
    };
    write(common, &args.author, vec![Draft { key, body: None }]).await
}

pub(super) async fn get(common: &Common, args: GetArgs) -> anyhow::Result<()> {
    let kind = match args.kind.as_str() {
        "all" => None,
        name => Some(find_kind(name).with_context(|| unknown_kind(name))?),
    };
    let namespace = match (&args.namespace, &args.name) {
        (None, Some(_)) => Some(Namespace::default_namespace()),
        (namespace, _) => namespace.clone(),
    };
    let mut documents: Vec<Document> = Client::connect(&common.dir).await?.get("/api/v1/documents").await?;
    documents.retain(|document| {
        let key = &document.key;
        kind.is_none_or(|kind| key.group == kind.group && key.kind == kind.kind)
            && args.name.as_ref().is_none_or(|name| key.name == *name)
            && (key.namespace.is_none() || namespace.is_none() || key.namespace == namespace)
    });
    if let (Some(name), true) = (&args.name, documents.is_empty()) {
        let place = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        bail!("{} {name:?} not found{place}: `weft get {}` lists what there is", args.kind, args.kind);
    }
    if common.output != output::Format::Table {
        // As kubectl: the documents themselves, one alone or several as a List, ready to be applied again.
        let mut bodies: Vec<_> = documents.into_iter().map(|document| document.body).collect();
        let value = match (bodies.len(), &args.name) {
            (1, Some(_)) => bodies.remove(0),
            _ => serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": bodies }),
        };
        return data(common.output, &value, &[], |_| vec![]);
    }
    let now = wall_ms();
    data(common.output, &documents, &["KIND", "NAMESPACE", "NAME", "AUTHOR", "UPDATED", "AGE"], |documents| {
        let cells = |document: &Document| {
            vec![
                document.key.kind.clone(),
                document.key.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
                document.key.name.clone(),
                document.author.clone(),
                age(now.saturating_sub(document.updated_millis) / 1_000),
                age(now.saturating_sub(document.created_millis) / 1_000),
            ]
        };
        documents.iter().map(cells).collect()
    })
}

fn unknown_kind(name: &str) -> String {
    let known: Vec<_> = kinds().iter().map(|kind| kind.plural).collect();
    format!("{name:?} is not a kind of document that this version knows; it knows {}", known.join(", "))
}

/// Has the drafts signed, by the operator's key where there is one and else by the node, and hands them to the mesh.
async fn write(common: &Common, author: &Author, drafts: Vec<Draft>) -> anyhow::Result<()> {
    let mut client = Client::connect(&common.dir).await?;
    let written: Vec<Written> = match operator(common, author)? {
        None => client.post("/api/v1/documents", &Write::Drafts(drafts)).await?,
        Some(operator) => {
            let prepare = Prepare { author: operator.id.clone(), drafts };
            let prepared: Vec<Prepared> = client.post("/api/v1/documents/prepare", &prepare).await?;
            let signed = prepared.iter().filter_map(|p| p.document.clone()).map(|d| operator.sign(d)).collect();
            let _: Vec<Written> = client.post("/api/v1/documents", &Write::Signed(signed)).await?;
            let done = prepare.drafts.into_iter().zip(prepared);
            done.map(|(draft, prepared)| Written { key: draft.key, outcome: prepared.outcome }).collect()
        }
    };
    for Written { key, outcome } in &written {
        let name = match &key.namespace {
            Some(namespace) if *namespace != Namespace::default_namespace() => format!("{} -n {namespace}", key.name),
            _ => key.name.clone(),
        };
        line(format_args!("{}/{name} {}", key.kind.to_lowercase(), outcome.as_str()))?;
    }
    Ok(())
}

/// An operator's certificate and key.
struct Operator {
    id: SpiffeId,
    chain: Vec<Vec<u8>>,
    key: PrivateKey,
}

impl Operator {
    fn sign(&self, mut document: SignedDocument) -> SignedDocument {
        document.author = self.id.clone();
        document.chain = self.chain.clone();
        document.signature = self.key.sign(&document.signed_bytes());
        document
    }
}

fn operator(common: &Common, author: &Author) -> anyhow::Result<Option<Operator>> {
    let credential = match &author.credential {
        Some(dir) => Credential::in_dir(dir),
        None => match Dir::new(&common.dir).operator() {
            credential if credential.exists() => credential,
            _ => return Ok(None),
        },
    };
    let chain = keyfile::read_chain(&credential.cert)?;
    let key = keyfile::read_key(&credential.key)?;
    let trust = TrustBundle::new(keyfile::read_chain(&Dir::new(&common.dir).roots())?)?;
    let certificate = trust
        .verify_chain(&chain, UnixTime::now())
        .with_context(|| format!("the operator's certificate in {}", credential.cert.display()))?;
    Ok(Some(Operator { id: certificate.id, chain: der_chain(&chain), key }))
}

/// The files that the arguments name; a directory stands for its documents in order of name.
fn files(arguments: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if !argument.is_dir() {
            files.push(argument.clone());
            continue;
        }
        let entries = std::fs::read_dir(argument).with_context(|| format!("reading {}", argument.display()))?;
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        found.retain(|path| {
            path.is_file() && path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
        });
        found.sort();
        if found.is_empty() {
            bail!("{} holds no .yaml, .yml or .json file", argument.display());
        }
        files.extend(found);
    }
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(MAX_FILE_LEN as u64 + 1).read_to_string(&mut text),
        false => std::fs::File::open(file)
            .with_context(|| format!("cannot open {}", file.display()))?
            .take(MAX_FILE_LEN as u64 + 1)
            .read_to_string(&mut text),
    }
    .with_context(|| format!("cannot read {}", file.display()))?;
    if read > MAX_FILE_LEN {
        bail!("{} is larger than {} MiB: split it", file.display(), MAX_FILE_LEN >> 20);
    }
    Ok(text)
}
