//! `weft apply`, `diff`, `delete`.

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use rustls::pki_types::UnixTime;
use serde_json::Value;
use weft_ca::{key::PrivateKey, keyfile, trust::TrustBundle};
use weft_policy::document::{self, MAX_FILE_LEN, ParsedDocument, ParsedFile};
use weft_wire::{
    document::{DocumentKey, SignedDocument, VersionId},
    id::{Namespace, SpiffeId},
    secret::SecretPayload,
};

use super::{
    ApplyArgs, Common, DeleteArgs, DiffArgs, DryRun, Writing, analyze,
    client::{Client, Refused},
    output::{self, line},
    select::Selection,
};
use crate::{
    admin::api::{Document, Draft, Outcome, Prepare, Prepared, Write, Written},
    dir::{Credential, Dir},
    drafts::{changes, drafts, hide_content, new_salt, unenforced},
    identity::der_chain,
};

pub(super) async fn apply(common: &Common, args: ApplyArgs) -> anyhow::Result<()> {
    let Sources { files, documents, notices, mut mistakes } = read_all(&args.files, args.recursive, &args.namespace)?;
    if !args.partial {
        refuse(&mistakes)?;
    }
    let mut client = Client::connect(&common.dir).await?;
    let analysis = analyze::of_files(&mut client, &files, &args.namespace).await?;
    let batches: Vec<&[ParsedDocument]> = match args.partial {
        true => documents.chunks(1).collect(),
        false => vec![&documents],
    };
    let mut writer = Writer::new(common, &args.writing).await?;
    for batch in batches {
        match writer.write(drafts(batch)?).await {
            Ok(written) => {
                writer.tell(&written, Outcome::as_str)?;
                batch.iter().filter_map(unenforced).for_each(|text| eprintln!("weft: {text}"));
            }
            // A refusal is about this document; what else goes wrong would with the next one too.
            Err(error) if args.partial && error.is::<Refused>() => mistakes.push(format!("{error:#}")),
            Err(error) => return Err(error),
        }
    }
    // Of what was refused there is nothing to note.
    notices.iter().for_each(|notice| eprintln!("weft: {notice}"));
    analysis.iter().for_each(|message| eprintln!("weft: {message}"));
    if !mistakes.is_empty() {
        mistakes.iter().for_each(|mistake| eprintln!("weft: {mistake}"));
        bail!("{} refused, the rest was applied: correct it and apply it again", counted(mistakes.len(), "mistake"));
    }
    Ok(())
}

/// Prints what `apply` would change. As with kubectl and diff, the code is 0 without differences and 1 with some.
pub(super) async fn diff(common: &Common, args: DiffArgs) -> anyhow::Result<ExitCode> {
    let Sources { documents, mistakes, .. } = read_all(&args.files, args.recursive, &args.namespace)?;
    refuse(&mistakes)?;
    let mut client = Client::connect(&common.dir).await?;
    let live: Vec<Document> = client.get("/api/v1/documents").await?;
    let mut code = ExitCode::SUCCESS;
    for document in documents {
        let before = live.iter().find(|live| live.key == document.key);
        let mut after: Value = serde_json::from_str(&document.json)?;
        let before = match before {
            Some(live) if document.secret.is_some() => {
                let mut before = live.body.clone();
                let is_same = has_same_content(&mut client, live, &document).await?;
                hide_content(&mut before, &mut after, is_same);
                Some(before)
            }
            before => before.map(|live| live.body.clone()),
        };
        let changes = changes(&document.key, before.as_ref(), &after)?;
        if !changes.is_empty() {
            output::print(&changes)?;
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Whether a Secret would keep its content. The node knows, if it has it: the content itself is not told to anybody.
async fn has_same_content(client: &mut Client, live: &Document, new: &ParsedDocument) -> anyhow::Result<bool> {
    let (_, Some(content)) = new.seal(new_salt())? else { return Ok(false) };
    let mut body = live.body.clone();
    body["content"]["digest"] = content.digest().to_string().into();
    let draft = Draft { key: live.key.clone(), body: Some(body.to_string()), content: Some(content), if_version: None };
    // Nothing is written, so whose name stands there has no meaning.
    let prepare = Prepare { author: Some(live.author.parse()?), drafts: vec![draft] };
    let prepared: Vec<Prepared> = client.post("/api/v1/documents/prepare", &prepare).await?;
    Ok(prepared.iter().all(|prepared| prepared.outcome == Outcome::Unchanged))
}

pub(super) async fn delete(common: &Common, args: DeleteArgs) -> anyhow::Result<()> {
    let held: Vec<Document> = Client::connect(&common.dir).await?.get("/api/v1/documents").await?;
    let (wanted, missing): (Vec<(DocumentKey, Option<VersionId>)>, Vec<String>) = match args.files.is_empty() {
        false => {
            let namespace = args.scope.namespace().context("-f names each document: give -n, not -A")?;
            let Sources { documents, mistakes, .. } = read_all(&args.files, args.recursive, namespace)?;
            refuse(&mistakes)?;
            let wanted = documents.into_iter().map(|document| (document.key, document.version));
            let (wanted, missing): (Vec<_>, Vec<_>) =
                wanted.partition(|(key, _)| held.iter().any(|held| held.key == *key));
            (wanted, missing.iter().map(|(key, _)| key.to_string()).collect())
        }
        true => {
            let is_narrow = args.all || args.selector.is_some();
            let selection = Selection::new(&args.what, args.scope.namespace(), args.selector)?;
            ensure!(selection.is_by_name() || is_narrow, "name what to delete, select it with -l, or say --all");
            let (found, missing) = selection.find(&held);
            if found.is_empty() && missing.is_empty() {
                eprintln!("weft: no documents found{}", selection.place());
            }
            let version = args.resource_version;
            ensure!(
                version.is_none() || selection.is_one(),
                "--resource-version is of one document: name it, as KIND NAME"
            );
            (found.into_iter().map(|document| (document.key, version)).collect(), missing)
        }
    };
    if !wanted.is_empty() {
        let drafts = wanted.into_iter().map(|(key, if_version)| Draft { key, body: None, content: None, if_version });
        let mut writer = Writer::new(common, &args.writing).await?;
        let written = writer.write(drafts.collect()).await?;
        writer.tell(&written, Outcome::as_str)?;
    }
    if !missing.is_empty() && !args.ignore_not_found {
        let verb = if missing.len() == 1 { "does" } else { "do" };
        bail!("{} {verb} not exist: `weft get all -A` lists what there is", missing.join(", "));
    }
    Ok(())
}

/// What files hold.
#[derive(Default)]
struct Sources {
    /// Name and text of each.
    files: Vec<(String, String)>,
    documents: Vec<ParsedDocument>,
    notices: Vec<String>,
    /// Why the other documents are refused.
    mistakes: Vec<String>,
}

fn read_all(arguments: &[PathBuf], recursive: bool, namespace: &Namespace) -> anyhow::Result<Sources> {
    let mut sources = Sources::default();
    for file in files(arguments, recursive)? {
        let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        let text = read(&file)?;
        match document::parse_yaml(&text, namespace) {
            Ok(ParsedFile { documents, errors, notices }) => {
                sources.documents.extend(documents);
                sources.notices.extend(notices.iter().map(|notice| format!("{name}:{}: {}", notice.at, notice.text)));
                sources.mistakes.extend(errors.iter().map(|error| error.in_file(&name).to_string()));
            }
            Err(error) => sources.mistakes.push(error.in_file(&name).to_string()),
        }
        sources.files.push((name, text));
    }
    if sources.documents.is_empty() && sources.mistakes.is_empty() {
        let names: Vec<String> = arguments.iter().map(|file| file.display().to_string()).collect();
        bail!("no documents in {}", names.join(", "));
    }
    Ok(sources)
}

/// A line for each mistake, if there are any, as the commands print errors.
fn refuse(mistakes: &[String]) -> anyhow::Result<()> {
    const SHOWN: usize = 20;
    let (shown, rest) = mistakes.split_at(mistakes.len().min(SHOWN));
    let mut lines = shown.to_vec();
    if !rest.is_empty() {
        lines.push(format!("and {} more", rest.len()));
    }
    if lines.is_empty() { Ok(()) } else { bail!(lines.join("\nweft: ")) }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Gives documents to the mesh, signed by the operator's key where there is one and else by the node; or only says
/// what that would do.
pub(super) struct Writer {
    client: Client,
    operator: Option<Operator>,
    is_dry: bool,
}

impl Writer {
    pub(super) async fn new(common: &Common, writing: &Writing) -> anyhow::Result<Self> {
        let client = Client::connect(&common.dir).await?;
        Ok(Self {
            client,
            operator: operator(common, writing.credential.as_ref())?,
            is_dry: writing.dry_run != DryRun::None,
        })
    }

    /// Writes all drafts or none.
    pub(super) async fn write(&mut self, drafts: Vec<Draft>) -> anyhow::Result<Vec<Written>> {
        let keys: Vec<DocumentKey> = drafts.iter().map(|draft| draft.key.clone()).collect();
        let written: Vec<Written> = if self.operator.is_none() && !self.is_dry {
            self.client.post("/api/v1/documents", &Write::Drafts(drafts)).await?
        } else {
            let author = self.operator.as_ref().map(|operator| operator.id.clone());
            let contents: Vec<_> = drafts.iter().filter_map(|draft| draft.content.clone()).collect();
            let versions: Vec<_> =
                drafts.iter().filter_map(|draft| Some((draft.key.clone(), draft.if_version?))).collect();
            let prepare = Prepare { author, drafts };
            let prepared: Vec<Prepared> = self.client.post("/api/v1/documents/prepare", &prepare).await?;
            if let (Some(operator), false) = (&self.operator, self.is_dry) {
                let documents: Vec<SignedDocument> =
                    prepared.iter().filter_map(|p| p.document.clone()).map(|d| operator.sign(d)).collect();
                let is_written = |content: &SecretPayload| {
                    let digest = content.digest().to_string();
                    documents.iter().any(|one| one.body.as_ref().is_some_and(|body| body.contains(&digest)))
                };
                let contents = contents.into_iter().filter(is_written).collect();
                let changed: BTreeSet<&DocumentKey> = documents.iter().map(|document| &document.key).collect();
                let if_versions = versions.into_iter().filter(|(key, _)| changed.contains(key)).collect();
                let write = Write::Signed { documents, contents, if_versions };
                let _: Vec<Written> = self.client.post("/api/v1/documents", &write).await?;
            }
            keys.into_iter().zip(prepared).map(|(key, prepared)| Written { key, outcome: prepared.outcome }).collect()
        };
        Ok(written)
    }

    /// Prints what became of each document.
    pub(super) fn tell(&self, written: &[Written], what: impl Fn(Outcome) -> &'static str) -> anyhow::Result<()> {
        for Written { key, outcome } in written {
            let place = match &key.namespace {
                Some(namespace) if *namespace != Namespace::default_namespace() => format!(" -n {namespace}"),
                _ => String::new(),
            };
            let note = if self.is_dry { " (dry run)" } else { "" };
            let (kind, name) = (key.kind.to_lowercase(), &key.name);
            line(format_args!("{kind}/{name}{place} {}{note}", what(*outcome)))?;
        }
        Ok(())
    }
}

/// An operator's certificate and key.
pub(super) struct Operator {
    pub(super) id: SpiffeId,
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) key: PrivateKey,
}

impl Operator {
    fn sign(&self, mut document: SignedDocument) -> SignedDocument {
        document.author = self.id.clone();
        document.chain = self.chain.clone();
        document.signature = self.key.sign(&document.signed_bytes());
        document
    }
}

/// The operator's credential: of that directory, or else the node's own one if there is one.
pub(super) fn operator(common: &Common, credential: Option<&PathBuf>) -> anyhow::Result<Option<Operator>> {
    let credential = match credential {
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

/// The files that the arguments name; a directory stands for its documents in order of name, and, if `recursive`, for
/// those of the directories in it.
pub(super) fn files(arguments: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if !argument.is_dir() {
            files.push(argument.clone());
            continue;
        }
        let before = files.len();
        add_directory(argument, recursive, &mut files)?;
        if files.len() == before {
            let hint = if recursive { "" } else { "; -R looks into its directories too" };
            bail!("{} holds no .yaml, .yml or .json file{hint}", argument.display());
        }
    }
    Ok(files)
}

fn add_directory(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut entries: Vec<std::fs::DirEntry> = entries.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let is_document = || path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        // Not by a link: it may lead back.
        if recursive && entry.file_type()?.is_dir() {
            add_directory(&path, recursive, files)?;
        } else if path.is_file() && is_document() {
            files.push(path);
        }
    }
    Ok(())
}

pub(super) fn read(file: &Path) -> anyhow::Result<String> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_diff_shows_what_changes_and_nothing_where_nothing_does() {
        let key = DocumentKey {
            group: "networking.istio.io".into(),
            kind: "VirtualService".into(),
            namespace: Some("prod".parse().unwrap()),
            name: "a".into(),
        };
        let before = json!({ "kind": "VirtualService", "spec": { "hosts": ["a"] } });
        let after = json!({ "kind": "VirtualService", "spec": { "hosts": ["b"] } });
        assert_eq!(changes(&key, Some(&before), &before).unwrap(), "");
        let head =
            "--- live/prod/virtualservice.networking.istio.io/a\n+++ new/prod/virtualservice.networking.istio.io/a\n";
        assert_eq!(
            changes(&key, Some(&before), &after).unwrap(),
            format!("{head}@@ -1,4 +1,4 @@\n kind: VirtualService\n spec:\n   hosts:\n-  - a\n+  - b\n")
        );
        let created = changes(&key, None, &after).unwrap();
        assert_eq!(created, format!("{head}@@ -0,0 +1,4 @@\n+kind: VirtualService\n+spec:\n+  hosts:\n+  - b\n"));
    }

    #[test]
    fn a_directory_stands_for_its_documents_and_for_those_in_it_if_asked() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "c.txt", "sub/d.yml", "sub/sub/e.yaml"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("sub/back")).unwrap();
        let found = |recursive: bool| -> Vec<String> {
            let found = files(&[root.path().to_owned()], recursive).unwrap();
            let relative = found.iter().map(|path| path.strip_prefix(root.path()).unwrap());
            relative.map(|path| path.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(found(false), ["a.json", "b.yaml"]);
        assert_eq!(found(true), ["a.json", "b.yaml", "sub/d.yml", "sub/sub/e.yaml"]);
        std::fs::create_dir(root.path().join("empty")).unwrap();
        assert!(files(&[root.path().join("empty")], false).unwrap_err().to_string().contains("-R looks into"));
    }

    #[test]
    fn each_mistake_has_its_line_and_there_are_not_too_many() {
        let mistakes = |count: usize| -> Vec<String> { (0..count).map(|i| format!("mistake {i}")).collect() };
        assert!(refuse(&mistakes(0)).is_ok());
        assert_eq!(refuse(&mistakes(1)).unwrap_err().to_string(), "mistake 0");
        assert_eq!(refuse(&mistakes(2)).unwrap_err().to_string(), "mistake 0\nweft: mistake 1");
        let many = refuse(&mistakes(25)).unwrap_err().to_string();
        assert!(many.lines().count() == 21 && many.ends_with("weft: mistake 19\nweft: and 5 more"), "{many}");
    }
}
