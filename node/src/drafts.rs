//! From documents as they were read to what is written to the mesh, and what that changes: for `weft apply` and `weft
//! diff`, and for the console's editor.

use serde_json::Value;
use similar::TextDiff;
use weft_policy::document::{ParsedDocument, not_enforced};
use weft_wire::{
    document::DocumentKey,
    secret::{SecretBytes, SecretPayload},
};

use crate::admin::api::Draft;

/// What a diff shows of a Secret's content: that there is one, and whether it is another one.
const HIDDEN: &str = "***";
const HIDDEN_CHANGE: &str = "*** (changed)";

/// The documents to write. A Secret is sealed: what is stored commits to its content, which goes another way.
///
/// # Errors
/// The JSON of a Secret is not what the reader of documents makes.
pub fn drafts(documents: &[ParsedDocument]) -> anyhow::Result<Vec<Draft>> {
    let draft = |document: &ParsedDocument| {
        let (body, content) = document.seal(new_salt())?;
        Ok(Draft { key: document.key.clone(), body: Some(body), content, if_version: document.version })
    };
    documents.iter().map(draft).collect()
}

/// What the author of a document should hear of it, if not all of it is done.
pub fn unenforced(document: &ParsedDocument) -> Option<String> {
    Some(format!("{} {}: {}", document.key.kind, document.key.name, not_enforced(&document.pending)?))
}

pub fn new_salt() -> SecretBytes {
    SecretBytes::new(rand::random::<[u8; SecretPayload::SALT_LEN]>().to_vec())
}

/// Hides the content of a Secret that is shown, before and after a change.
pub fn hide_content(before: &mut Value, after: &mut Value, is_same: bool) {
    before["content"]["digest"] = HIDDEN.into();
    after["content"]["digest"] = if is_same { HIDDEN } else { HIDDEN_CHANGE }.into();
}

/// A unified diff of two versions of a document; empty if they are the same.
///
/// # Errors
/// YAML cannot say one of them.
pub fn changes(key: &DocumentKey, before: Option<&Value>, after: &Value) -> anyhow::Result<String> {
    let before = before.map(serde_saphyr::to_string).transpose()?.unwrap_or_default();
    let after = serde_saphyr::to_string(after)?;
    let place = key.namespace.as_ref().map_or_else(String::new, |namespace| format!("{namespace}/"));
    let name = format!("{place}{}", reference(key));
    let diff = TextDiff::from_lines(&before, &after);
    Ok(diff.unified_diff().header(&format!("live/{name}"), &format!("new/{name}")).to_string())
}

/// As kubectl names things: `virtualservice.networking.istio.io/reviews`, `service/reviews`.
pub fn reference(key: &DocumentKey) -> String {
    let kind = key.kind.to_ascii_lowercase();
    match key.group.as_str() {
        "" => format!("{kind}/{}", key.name),
        group => format!("{kind}.{group}/{}", key.name),
    }
}
