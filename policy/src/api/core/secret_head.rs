//! A Secret as all nodes know it: everything but its content, to which it commits by a digest.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_wire::secret::{SecretDigest, SecretPayload};

use super::{Secret, credential};
use crate::{document::Checker, kinds::Resource};

/// The field that stands in a stored Secret in place of `data`.
pub(crate) const CONTENT: &str = "content";

/// What is stored and spread of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretHead {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub immutable: Option<bool>,
    pub content: ContentHead,
}

/// What may be known of a Secret's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContentHead {
    /// Of [`SecretPayload::digest`]. Absent until the Secret is sealed, so never in what is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub digest: Option<SecretDigest>,
    /// The length of each key's value in bytes.
    pub keys: BTreeMap<String, u64>,
    /// If it has what a certificate and its key are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialHead>,
}

/// What may be known of a certificate and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CredentialHead {
    /// When the certificate begins and ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    /// Why it is none that can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl ContentHead {
    /// What may be said of a Secret, all but the digest.
    pub fn of(secret: &Secret) -> Self {
        let keys = secret.content().iter().map(|(key, value)| (key.clone(), value.expose().len() as u64)).collect();
        let credential = credential::of(|key| secret.get(key)).map(|read| match read {
            Ok((not_before, not_after)) => {
                CredentialHead { not_before: Some(not_before), not_after: Some(not_after), problem: None }
            }
            Err(problem) => CredentialHead { problem: Some(problem), ..CredentialHead::default() },
        });
        Self { digest: None, keys, credential }
    }

    /// Whether this is the content that was meant.
    pub fn describes(&self, content: &SecretPayload) -> bool {
        let lens = content.data.iter().map(|(key, value)| (key, value.expose().len() as u64));
        content.is_bounded()
            && self.digest == Some(content.digest())
            && lens.eq(self.keys.iter().map(|(key, len)| (key, *len)))
    }

    /// What keeps it from being certificate and key at any time.
    pub fn credential_problem(&self) -> Option<String> {
        match &self.credential {
            None => Some("it needs tls.crt and tls.key, or cert and key".into()),
            Some(CredentialHead { problem, .. }) => problem.clone(),
        }
    }

    /// What keeps a gateway from using it; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Why, in words for a person.
    pub fn check_credential(&self, now: i64) -> Result<(), String> {
        match (self.credential_problem(), &self.credential) {
            (Some(problem), _) => Err(problem),
            (None, Some(CredentialHead { not_before, not_after, .. })) => {
                credential::check_validity(*not_before, *not_after, now)
            }
            (None, None) => Ok(()),
        }
    }
}

impl Resource for SecretHead {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.field(CONTENT, |checker| checker.require("digest", self.content.digest.is_some()));
    }
}
