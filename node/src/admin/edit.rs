//! Documents as somebody writes them in the console: checked as they are typed, shown as a change, written.

use anyhow::ensure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_policy::document::{self, DocumentError, ParsedDocument, ParsedFile, Position};
use weft_wire::{
    document::{DocumentKey, VersionId},
    id::Namespace,
};

use super::api::{Outcome, Prepare, Write};
use crate::{
    actors::Handles,
    drafts::{changes, drafts, hide_content, unenforced},
};

/// Body of `POST /api/v1/documents/text`
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Edit {
    /// YAML, as files for `weft apply` hold it.
    pub text: String,
    /// Of documents that name none.
    pub namespace: Namespace,
    /// Only says what would come of it.
    #[serde(default = "yes")]
    pub dry_run: bool,
    /// The version that this is a change of, if the text is one document: refused where the mesh has another one.
    #[serde(default)]
    pub if_version: Option<VersionId>,
}

fn yes() -> bool {
    true
}

/// Answer to `POST /api/v1/documents/text`
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Edited {
    pub documents: Vec<EditedDocument>,
    /// If one of them is an error, nothing is written.
    pub problems: Vec<TextProblem>,
    pub written: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct EditedDocument {
    pub key: DocumentKey,
    pub outcome: Outcome,
    /// Unified, of YAML; empty if nothing changes.
    pub diff: String,
}

/// What is wrong with a text, or deserves a word.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TextProblem {
    /// From 1.
    pub line: u64,
    pub column: u64,
    /// `error` or `warning`.
    pub severity: &'static str,
    pub message: String,
}

impl TextProblem {
    fn error(error: &DocumentError) -> Self {
        let (text, at) = (error.to_string(), error.at);
        // Its place is told beside it.
        let message = text.strip_prefix(&format!("{at}: ")).unwrap_or(&text).to_owned();
        Self { line: at.line.max(1), column: at.column.max(1), severity: "error", message }
    }

    fn warning(at: Position, message: String) -> Self {
        Self { line: at.line.max(1), column: at.column.max(1), severity: "warning", message }
    }
}

/// What there is to write, and what is wrong.
fn read(edit: &Edit) -> anyhow::Result<(Vec<ParsedDocument>, Vec<TextProblem>)> {
    let ParsedFile { mut documents, errors, notices } = match document::parse_yaml(&edit.text, &edit.namespace) {
        Ok(file) => file,
        Err(error) => return Ok((Vec::new(), vec![TextProblem::error(&error)])),
    };
    let mut problems: Vec<TextProblem> = errors.iter().map(TextProblem::error).collect();
    problems.extend(notices.into_iter().map(|notice| TextProblem::warning(notice.at, notice.text)));
    let pending = documents.iter().filter_map(unenforced);
    problems.extend(pending.map(|text| TextProblem::warning(Position::default(), text)));
    if edit.if_version.is_some() {
        ensure!(documents.len() <= 1, "`if_version` is of one document, and the text has {}", documents.len());
        documents.iter_mut().for_each(|document| document.version = edit.if_version);
    }
    Ok((documents, problems))
}

impl Handles {
    /// # Errors
    /// The mesh refuses what is to be written: such as another version than it is a change of, or an author who may not.
    pub async fn edit(&self, edit: Edit) -> anyhow::Result<Edited> {
        let (documents, problems) = read(&edit)?;
        let is_wrong = problems.iter().any(|problem| problem.severity == "error");
        let drafts = drafts(&documents)?;
        let live = self.documents();
        let outcomes: Vec<Outcome> = if edit.dry_run || is_wrong {
            let prepared = self.prepare(Prepare { author: None, drafts }).await?;
            prepared.into_iter().map(|prepared| prepared.outcome).collect()
        } else {
            self.write(Write::Drafts(drafts)).await?.into_iter().map(|written| written.outcome).collect()
        };
        let told = documents.iter().zip(outcomes).map(|(document, outcome)| {
            let mut before = live.iter().find(|live| live.key == document.key).map(|live| live.body.clone());
            let mut after: Value = serde_json::from_str(&document.json)?;
            if document.secret.is_some() {
                let mut nothing = Value::Null;
                let before = before.as_mut().unwrap_or(&mut nothing);
                hide_content(before, &mut after, outcome == Outcome::Unchanged);
            }
            let diff = changes(&document.key, before.as_ref(), &after)?;
            Ok(EditedDocument { key: document.key.clone(), outcome, diff })
        });
        let documents = told.collect::<anyhow::Result<_>>()?;
        Ok(Edited { documents, problems, written: !edit.dry_run && !is_wrong })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(text: &str) -> Edit {
        serde_json::from_value(serde_json::json!({ "text": text, "namespace": "default" })).unwrap()
    }

    #[test]
    fn nothing_is_written_unless_that_is_said() {
        assert!(edit("").dry_run);
    }

    #[test]
    fn problems_say_where_they_are() {
        let wrong = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  \
                     hosts: [reviews]\n  http:\n  - timeuot: 2s\n    route: [{destination: {host: reviews}}]\n";
        let (documents, problems) = read(&edit(wrong)).unwrap();
        assert!(documents.is_empty());
        assert_eq!((problems[0].line, problems[0].severity), (7, "error"));
        assert!(problems[0].message.starts_with("VirtualService reviews: spec.http[0].timeuot"), "{problems:?}");

        let (documents, problems) = read(&edit("a: [")).unwrap();
        assert_eq!((documents.len(), problems.len(), problems[0].severity), (0, 1, "error"));

        let (documents, problems) = read(&edit(&wrong.replace("timeuot", "timeout"))).unwrap();
        assert_eq!((documents.len(), problems.len()), (1, 0));
    }

    #[test]
    fn a_version_is_of_one_document() {
        let version: VersionId = "1795973342217.3-f96b3107".parse().unwrap();
        let one = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n";
        let with = |text: &str| Edit { if_version: Some(version), ..edit(text) };
        assert_eq!(read(&with(one)).unwrap().0[0].version, Some(version));
        read(&with(&format!("{one}---\n{}", one.replace("name: a", "name: b")))).unwrap_err();
    }
}
