//! `weft why`: what a workload's policies have found against a caller.

use clap::Args;

use super::{
    Common,
    client::Client,
    output::{data, line, printable},
};
use crate::admin::decision::{DecidedRequest, Decision, WhyQuestion};

#[derive(Args)]
pub(super) struct WhyArgs {
    /// The value of the header x-weft-decision of a refusal; without it, the latest findings of this node.
    #[arg(value_name = "ID")]
    id: Option<String>,
}

pub(super) async fn why(common: &Common, WhyArgs { id }: WhyArgs) -> anyhow::Result<()> {
    let is_one = id.is_some();
    let mut client = Client::connect(&common.dir).await?;
    let found: Vec<Decision> = client.post("/api/v1/why", &WhyQuestion { id }).await?;
    match found.as_slice() {
        [one] if is_one && common.output.is_for_people() => print(one),
        [one] if is_one => data(&common.output, one, &[], |_| Vec::new()),
        _ => {
            let header = ["TIME", "ID", "OUTCOME", "CALLER", "WORKLOAD", "REQUEST", "DOCUMENT"];
            data(&common.output, &found, &header, |found| found.iter().map(row).collect())
        }
    }
}

fn request(decision: &Decision) -> String {
    match &decision.request {
        Some(DecidedRequest { method, path, .. }) => printable(&format!("{method} {path}")),
        None => "connection".to_owned(),
    }
}

fn caller(decision: &Decision) -> String {
    decision.principal.as_deref().map_or_else(|| decision.source_ip.to_string(), printable)
}

fn row(decision: &Decision) -> Vec<String> {
    vec![
        printable(&decision.time),
        printable(&decision.id),
        printable(&decision.outcome),
        caller(decision),
        if decision.workload.is_empty() { "-".into() } else { printable(&decision.workload) },
        request(decision),
        decision.document.as_deref().map_or_else(|| "-".into(), printable),
    ]
}

fn print(decision: &Decision) -> anyhow::Result<()> {
    let say = |about: &str, says: &str| line(format_args!("{about:<12}{}", printable(says)));
    let Decision { id, time, node, outcome, why, workload, service, port, principal, source_ip, .. } = decision;
    say("decision", &format!("{id} at {time} on {node}: {outcome}"))?;
    say("why", why)?;
    if let Some(document) = &decision.document {
        say("document", &format!("{document} {}", decision.field.as_deref().unwrap_or_default()))?;
    }
    say("caller", &format!("{}, from {source_ip}", principal.as_deref().unwrap_or("without a certificate")))?;
    if decision.remote_ip != *source_ip {
        say("client", &format!("{}, as x-forwarded-for has it", decision.remote_ip))?;
    }
    match workload.is_empty() {
        true => say("service", &format!("{service}, port {port}; it was refused before a workload was chosen"))?,
        false => say("workload", &format!("{workload} of service {service}, port {port}"))?,
    }
    if let Some(DecidedRequest { method, host, path, token }) = &decision.request {
        say("request", &format!("{method} {path}, host {host}"))?;
        if let Some(token) = token {
            say("token", &format!("of {token}"))?;
        }
    }
    Ok(())
}
