//! `weft history`, `rollback`, `diff --nodes`.

use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use weft_policy::secrets::Reference;
use weft_wire::document::DocumentKey;

use super::{
    Common, HistoryArgs, RollbackArgs,
    client::Client,
    documents::Writer,
    output::{self, data},
    select::named,
};
use crate::{
    admin::{
        api::{Draft, shorten_digest},
        compare::{Comparison, NodeDocuments},
        history::{Event, History, Version},
    },
    drafts::reference,
};

pub(super) async fn history(common: &Common, args: HistoryArgs) -> anyhow::Result<()> {
    let key = named(&args.document.what, &args.document.namespace)?;
    let mut history = ask(common, &key).await?;
    history.versions.iter_mut().filter_map(|version| version.body.as_mut()).for_each(shorten_digest);
    let Some(revision) = &args.revision else {
        let header = ["VERSION", "TIME", "AUTHOR", "NODE", "EVENT"];
        return data(&common.output, &history, &header, |history| history.versions.iter().map(row).collect());
    };
    let version = find(&history.versions, revision)?;
    let body = version.body.as_ref();
    let body = body.with_context(|| format!("version {} is the deletion of {key}", version.version))?;
    match common.output.is_for_people() {
        true => Ok(output::print(&output::yaml(body)?)?),
        false => data(&common.output, body, &[], |_| Vec::new()),
    }
}

pub(super) async fn rollback(common: &Common, args: RollbackArgs) -> anyhow::Result<()> {
    let key = named(&args.document.what, &args.document.namespace)?;
    ensure!(
        Reference::of_secret(&key).is_none(),
        "{key} cannot be rolled back: of earlier versions only digests are kept, not the values; apply it again"
    );
    let History { versions, .. } = ask(common, &key).await?;
    let (present, before) = versions.split_first().context("it has no version")?;
    let target = match &args.to_revision {
        Some(revision) => find(&versions, revision)?,
        None => before
            .iter()
            .find(|version| version.body.is_some() && version.body != present.body)
            .with_context(|| format!("no other version of {key} is kept: `weft history` lists those that are"))?,
    };
    let body = target.body.as_ref().map(Value::to_string);
    ensure!(body.is_some(), "version {} is the deletion of {key}: `weft delete` deletes it", target.version);
    ensure!(target.body != present.body, "{key} says already what version {} says", target.version);
    let if_version = present.body.is_some().then_some(present.version);
    let mut writer = Writer::new(common, &args.writing).await?;
    let written = writer.write(vec![Draft { key, body, content: None, if_version }]).await?;
    writer.tell(&written, |_| "rolled back")
}

async fn ask(common: &Common, key: &DocumentKey) -> anyhow::Result<History> {
    let history: History = Client::connect(&common.dir).await?.post("/api/v1/documents/history", key).await?;
    if !history.silent.is_empty() {
        let silent = history.silent.join(", ");
        eprintln!("weft: these nodes do not answer, and versions that only they have kept are missing: {silent}");
    }
    ensure!(
        !history.versions.is_empty(),
        "no version of {} is known: `weft get all -A` lists what there is",
        reference(key)
    );
    Ok(history)
}

/// Prints what each node holds, against the newest that any of them holds.
pub(super) async fn diff_nodes(common: &Common) -> anyhow::Result<ExitCode> {
    let found: Comparison = Client::connect(&common.dir).await?.post("/api/v1/documents/compare", &()).await?;
    let header = ["NODE", "DIGEST", "DOCUMENT", "STATE", "VERSION", "NEWEST"];
    data(&common.output, &found, &header, |found| found.nodes.iter().flat_map(rows).collect())?;
    if !found.silent.is_empty() {
        eprintln!("weft: these nodes do not answer, and what they hold is not known: {}", found.silent.join(", "));
    }
    let is_same = found.nodes.iter().all(|node| node.differences.is_empty() && node.digest == found.nodes[0].digest);
    Ok(match (is_same, found.silent.is_empty()) {
        (false, _) => ExitCode::FAILURE,
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::from(2),
    })
}

fn rows(node: &NodeDocuments) -> Vec<Vec<String>> {
    let row = |document: String, state: &str, version: String, newest: String| {
        vec![node.node.clone(), node.digest.clone(), document, state.to_owned(), version, newest]
    };
    let none = || "-".to_owned();
    if node.differences.is_empty() {
        return vec![row(none(), "current", none(), none())];
    }
    let differences = node.differences.iter().map(|one| {
        let version = one.version.map_or_else(none, |version| version.to_string());
        row(one.document.to_string(), one.what.as_str(), version, one.newest.to_string())
    });
    differences.collect()
}

/// The version whose name begins so.
fn find<'v>(versions: &'v [Version], revision: &str) -> anyhow::Result<&'v Version> {
    let mut found = versions.iter().filter(|version| version.version.to_string().starts_with(revision));
    match (found.next(), found.next()) {
        (Some(version), None) if !revision.is_empty() => Ok(version),
        (None, _) => bail!("no version {revision:?} is kept: `weft history` lists those that are"),
        _ => bail!("several versions begin with {revision:?}: write more of the one that is meant"),
    }
}

fn row(version: &Version) -> Vec<String> {
    let event = match (version.event, version.same_as) {
        (Event::Created | Event::Configured, Some(same)) => format!("{}, as in {same}", version.event.as_str()),
        (event, _) => event.as_str().to_owned(),
    };
    let node = version.node.clone().unwrap_or_else(|| "-".into());
    vec![version.version.to_string(), version.time.clone(), version.author.clone(), node, event]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_as_much_of_it_as_tells_it_from_others() {
        let version = |text: &str| Version {
            version: text.parse().unwrap(),
            time: String::new(),
            author: String::new(),
            node: None,
            event: Event::Configured,
            same_as: None,
            body: None,
        };
        let versions = ["300.1-00000001", "300.0-00000002", "200.0-00000003"].map(version);
        let found = |revision: &str| find(&versions, revision).map(|found| found.version.to_string());
        assert_eq!(found("2").unwrap(), "200.0-00000003");
        assert_eq!(found("300.1").unwrap(), "300.1-00000001");
        for wrong in ["", "300", "1", "200.0-00000003x"] {
            found(wrong).unwrap_err();
        }
    }
}
