//! What shells complete. The script that a shell reads asks weft itself for each word, which asks the node that runs here:
//! so kinds, names of documents, services, namespaces and nodes are completed too. Who gets no answer, gets no
//! candidates: a shell has no place for errors.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Command;
use clap_complete::{
    Shell,
    engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate},
    env::{CompleteEnv, Shells},
};
use serde::de::DeserializeOwned;
use weft_policy::kinds::{Kind, find_kind, kinds};
use weft_wire::id::Namespace;

use super::{DEFAULT_DIR, DIR_VARIABLE, client::Client};
use crate::admin::api::{Document, Member, Service};

/// Set to the shell's name by its script.
const ASKED_BY: &str = "WEFT_COMPLETE";
/// Whoever has typed half a word does not wait for longer.
const DEADLINE: Duration = Duration::from_secs(1);

/// Answers a shell that asks how a line goes on, and ends the process then.
pub(super) fn answer(weft: fn() -> Command) {
    // As kubectl: whoever has typed nothing yet is offered options only where there is nothing else.
    let asked = move || if Line::read().word.is_empty() { with_options_last(weft()) } else { weft() };
    CompleteEnv::with_factory(asked).var(ASKED_BY).bin("weft").complete();
}

fn with_options_last(command: Command) -> Command {
    let command = command.disable_help_flag(true).disable_version_flag(true);
    let command = command.mut_args(|arg| if arg.is_positional() { arg } else { arg.hide(true) });
    command.mut_subcommands(with_options_last)
}

/// The script for a shell.
///
/// # Errors
/// It is not UTF-8, or the shell is unknown.
pub(super) fn script(shell: Shell) -> anyhow::Result<String> {
    let shell = shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&shell).with_context(|| format!("no script is known for {shell}"))?;
    let mut script = Vec::new();
    shell.write_registration(ASKED_BY, "weft", "weft", "weft", &mut script)?;
    Ok(String::from_utf8(script)?)
}

/// A line that somebody types.
struct Line {
    /// The words before the one that is completed.
    before: Vec<String>,
    word: String,
    /// Of all questions about it together.
    deadline: Instant,
}

impl Line {
    fn read() -> Self {
        // Scripts call `weft -- WORDS`; some of them with the words after the cursor too, and its place besides.
        let words = env::args_os().map(|word| word.to_string_lossy().into_owned());
        let mut before: Vec<String> = words.skip_while(|word| word != "--").skip(1).collect();
        let index = env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
        let mut after = before.split_off(index.unwrap_or(usize::MAX).min(before.len().saturating_sub(1)));
        let word = if after.is_empty() { String::new() } else { after.swap_remove(0) };
        Self { before, word, deadline: Instant::now() + DEADLINE }
    }

    /// The value of an option, the last if there are several.
    fn option(&self, names: &[&str]) -> Option<&str> {
        let after = self.before.windows(2).filter(|pair| names.contains(&&*pair[0])).map(|pair| &*pair[1]);
        let within =
            self.before.iter().filter_map(|word| word.split_once('=')).filter(|(name, _)| names.contains(name));
        after.chain(within.map(|(_, value)| value)).last()
    }

    /// The kind whose documents it names.
    fn kind(&self) -> Option<&'static Kind> {
        self.before.iter().find_map(|word| find_kind(word))
    }

    fn is_of_all_namespaces(&self) -> bool {
        self.before.iter().any(|word| word == "-A" || word == "--all-namespaces")
    }

    fn namespace(&self) -> String {
        let named = self.option(&["-n", "--namespace"]).map(str::to_owned);
        named.unwrap_or_else(|| Namespace::default_namespace().to_string())
    }

    /// What the node says that the line is about, within the deadline.
    fn ask<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let named = self.option(&["--dir"]).map(PathBuf::from);
        let dir = named.or_else(|| env::var_os(DIR_VARIABLE).map(PathBuf::from));
        let dir = dir.unwrap_or_else(|| DEFAULT_DIR.into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let asked = async { Client::connect(&dir).await.ok()?.get(path).await.ok() };
        runtime.block_on(async { tokio::time::timeout_at(self.deadline.into(), asked).await.ok()? })
    }

    /// The names of the documents of a kind that the line could mean.
    fn names(&self, kind: &Kind) -> BTreeSet<String> {
        let documents: Vec<Document> = self.ask("/api/v1/documents").unwrap_or_default();
        let (of_all, wanted) = (self.is_of_all_namespaces(), self.namespace());
        let is_meant = |document: &&Document| {
            let namespace = document.key.namespace.as_ref();
            let is_there = of_all || namespace.is_none_or(|namespace| namespace.as_str() == wanted);
            document.key.group == kind.group && document.key.kind == kind.kind && is_there
        };
        documents.iter().filter(is_meant).map(|document| document.key.name.to_string()).collect()
    }
}

/// Kinds, then names of their documents; or both in one word.
pub(super) fn documents() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| {
        let line = Line::read();
        let word = word.to_str().unwrap_or_default();
        let all: BTreeSet<String> = match (word.split_once('/'), line.kind()) {
            (Some((kind, _)), _) => {
                let names = find_kind(kind).map(|kind| line.names(kind)).unwrap_or_default();
                names.into_iter().map(|name| format!("{kind}/{name}")).collect()
            }
            (None, Some(kind)) => line.names(kind),
            (None, None) => plurals().map(str::to_owned).collect(),
        };
        all.into_iter().filter(|one| one.starts_with(word)).map(CompletionCandidate::new).collect()
    })
}

pub(super) fn kind_names() -> ArgValueCandidates {
    ArgValueCandidates::new(|| plurals().map(CompletionCandidate::new).collect())
}

fn plurals() -> impl Iterator<Item = &'static str> {
    // Gateways are of two groups; the word alone is the one that `find_kind` takes.
    let plurals: BTreeSet<&'static str> = kinds().iter().map(|kind| kind.plural).collect();
    plurals.into_iter()
}

/// Services, those of other namespaces than the line's as `NAME.NAMESPACE`.
pub(super) fn services() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let line = Line::read();
        let known: Vec<Service> = line.ask("/api/v1/services").unwrap_or_default();
        let namespace = line.namespace();
        let name = |service: &Service| match service.namespace == namespace {
            true => service.name.clone(),
            false => format!("{}.{}", service.name, service.namespace),
        };
        known.iter().map(name).map(CompletionCandidate::new).collect()
    })
}

/// Namespaces in which there are documents or services.
pub(super) fn namespaces() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let line = Line::read();
        let documents: Vec<Document> = line.ask("/api/v1/documents").unwrap_or_default();
        let services: Vec<Service> = line.ask("/api/v1/services").unwrap_or_default();
        let of_documents = documents.into_iter().filter_map(|document| document.key.namespace).map(|it| it.to_string());
        let all: BTreeSet<String> = of_documents.chain(services.into_iter().map(|it| it.namespace)).collect();
        all.into_iter().map(CompletionCandidate::new).collect()
    })
}

pub(super) fn nodes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let members: Vec<Member> = Line::read().ask("/api/v1/members").unwrap_or_default();
        members.into_iter().map(|member| CompletionCandidate::new(member.name)).collect()
    })
}
