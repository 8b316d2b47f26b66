//! `weft revoke`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use weft_discovery::documents::{REVOCATION_KIND, WEFT_GROUP};
use weft_wire::{
    document::DocumentKey,
    id::{NodeName, ServiceAccount},
};

use super::{Common, Writing, completions, documents::Writer, output::line};
use crate::{admin::api::Draft, identity::wall_ms};

#[derive(Subcommand)]
pub(super) enum RevokeCommand {
    /// A node: its own certificate, its workloads', and what it signed if it is a CA node.
    #[command(after_help = "Examples:
  weft revoke node web-1 --reason 'the laptop was stolen'

Within a second no other node talks to it any more or calls its workloads, and all connections with it are cut. To let it in
again, join it with a new token. If it was a CA node, the other nodes get new certificates from another CA node by
themselves; those that it had signed for hosts that you do not know are best revoked too (`weft members`).

This writes a Revocation, which only an operator or a CA node may. Deleting it (`weft delete revocation NAME`) takes it back
for certificates that are not over: keep it for 31 days.")]
    Node {
        /// As `weft members` lists it.
        #[arg(add = completions::nodes())]
        name: NodeName,
        #[command(flatten)]
        how: How,
    },
    /// A service account: its certificates on all nodes, which get new ones at once.
    #[command(after_help = "Examples:
  weft revoke account prod/payments --reason 'its key was in a backup'

Calls as the account and to its workloads may fail until the new certificates are there: for about a second.")]
    Account {
        /// As workloads run as it, such as default/web.
        #[arg(value_name = "NAMESPACE/NAME")]
        account: ServiceAccount,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args)]
pub(super) struct How {
    /// Why, for whoever reads it later.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    writing: Writing,
}

pub(super) async fn run(common: &Common, command: RevokeCommand) -> anyhow::Result<()> {
    let (name, spec, how) = match command {
        RevokeCommand::Node { name, how } => (format!("node-{name}"), json!({"node": name}), how),
        RevokeCommand::Account { account, how } => {
            let name = format!("account-{}-{}", account.namespace, account.name);
            (name, json!({"serviceAccount": account.to_string()}), how)
        }
    };
    let mut writer = Writer::new(common, &how.writing).await?;
    let draft = draft(&name, spec, how.reason);
    let written = writer.write(vec![draft]).await?;
    writer.tell(&written, |_| "created")?;
    if name.starts_with("node-") {
        line(format_args!("to let it in again: `weft token create` here, then `weft leave` and `weft join` there"))?;
    }
    Ok(())
}

/// Each is a document of its own: when it is created is what counts.
fn draft(name: &str, mut spec: Value, reason: Option<String>) -> Draft {
    let name = format!("{name}-{}", wall_ms() / 1_000);
    spec["reason"] = reason.into();
    let body = json!({
        "apiVersion": format!("{WEFT_GROUP}/v1alpha1"),
        "kind": REVOCATION_KIND,
        "metadata": {"name": name},
        "spec": spec,
    });
    let key = DocumentKey { group: WEFT_GROUP.into(), kind: REVOCATION_KIND.into(), namespace: None, name };
    Draft { key, body: Some(body.to_string()), content: None, if_version: None }
}
