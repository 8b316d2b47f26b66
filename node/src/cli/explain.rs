//! `weft explain`: why a request goes where it goes, and who may call.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Context;
use clap::{Args, Subcommand};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use weft_wire::id::Namespace;

use super::{Common, client::Client, completions, output, trouble};
use crate::admin::api::{AccessQuestion, Explanation, RouteQuestion};

#[derive(Subcommand)]
pub(super) enum ExplainCommand {
    /// Show how a request would be routed, step by step, and which document and line says so.
    #[command(after_help = "Examples:
  weft explain route --from productpage --to reviews:9080 --path /reviews/0
  weft explain route --from reviews-v2 --to ratings -H 'end-user: jason' --method POST
  weft explain route --from web.prod --to reviews.default -o json
  weft explain route --gateway istio-system/ingress --to bookinfo.example.com --path /productpage

With --gateway the request comes from outside of the mesh, through a Gateway. No node listens for gateways yet: the
answer says what the documents mean. The node that is asked answers by what it sees itself: as the caller, if the
caller runs there. Lines are those of `weft get KIND NAME -n NAMESPACE -o yaml`. Exit code: 0, or 1 if the question
makes no sense.")]
    Route(RouteArgs),
    /// Show whether a caller is let in, step by step, and which policy and line says so.
    #[command(after_help = "Examples:
  weft explain access --from productpage --to reviews:9080 --path /reviews/0
  weft explain access --from default/web --to ratings --method POST --claim iss=https://issuer.example --claim sub=ann
  weft explain access --from cluster.local/ns/prod/sa/web --to reviews.prod -H 'x-token: abc' -o json

Policies are those of the workloads of the service, wherever they run: any node can be asked. Which service a request
goes to is for `weft explain route` to tell. Lines are those of `weft get KIND NAME -n NAMESPACE -o yaml`. Exit code: 0 if all workloads allow it, 1 if one does not or cannot tell,
2 if the question makes no sense.")]
    Access(AccessArgs),
}

#[derive(Args)]
pub(super) struct RouteArgs {
    /// Who calls: a workload, or a service, whose first workload it is then; of another namespace as NAME.NAMESPACE.
    #[arg(long, value_name = "WORKLOAD|SERVICE", required_unless_present = "gateway", add = completions::services())]
    from: Option<String>,
    /// The Gateway that the request comes through instead; GROUP/NAMESPACE/NAME where both Istio's and the Gateway
    /// API's Gateways have the name.
    #[arg(long, value_name = "[NAMESPACE/]NAME", conflicts_with = "from")]
    gateway: Option<String>,
    /// Whom it calls, as it would write it: HOST or HOST:PORT. A gateway's port is that of the scheme where none is
    /// given and there are several.
    #[arg(long, value_name = "HOST[:PORT]", add = completions::services())]
    to: String,
    /// Path and query.
    #[arg(long, default_value = "/")]
    path: String,
    /// The request's method.
    #[arg(long, default_value = "GET", value_parser = parse_method)]
    method: http::Method,
    /// What VirtualServices may ask of it as its scheme. At a gateway its listener says that.
    #[arg(long, default_value = "http")]
    scheme: String,
    /// A header of the request. Repeatable.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// The namespace of the caller or the gateway, if its name has none.
    #[arg(short = 'n', long, default_value = "default", add = completions::namespaces())]
    namespace: Namespace,
}

#[derive(Args)]
pub(super) struct AccessArgs {
    /// Who calls: a workload, or a service, whose workloads it is then, of another namespace as NAME.NAMESPACE; a
    /// service account as NAMESPACE/ACCOUNT; or a principal as TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[arg(long, value_name = "WORKLOAD|SERVICE|ACCOUNT|PRINCIPAL", add = completions::services())]
    from: String,
    /// Whom it calls: a service, and its port if it has several.
    #[arg(long, value_name = "SERVICE[:PORT]", add = completions::services())]
    to: String,
    /// Path and query.
    #[arg(long, default_value = "/")]
    path: String,
    /// The request's method.
    #[arg(long, default_value = "GET", value_parser = parse_method)]
    method: http::Method,
    /// A header of the request; tokens in it are verified. Repeatable.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// A claim of a token that counts as verified, instead of those in headers; a value that begins with [ or { is
    /// JSON. Repeatable; a name that is repeated has a list of values.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    claims: Vec<(String, Value)>,
    /// The address that the caller has [default: its node's].
    #[arg(long, value_name = "IP")]
    source_ip: Option<IpAddr>,
    /// The namespace of the caller and the service, where their names have none.
    #[arg(short = 'n', long, default_value = "default", add = completions::namespaces())]
    namespace: Namespace,
}

pub(super) async fn run(common: &Common, command: ExplainCommand) -> anyhow::Result<ExitCode> {
    match command {
        ExplainCommand::Route(args) => route(common, args).await.map(|()| ExitCode::SUCCESS),
        ExplainCommand::Access(args) => Ok(access(common, args).await.unwrap_or_else(|error| trouble(&error))),
    }
}

async fn access(common: &Common, args: AccessArgs) -> anyhow::Result<ExitCode> {
    let question = AccessQuestion {
        from: args.from,
        to: args.to,
        namespace: args.namespace,
        method: args.method.to_string(),
        path: args.path,
        headers: args.headers,
        claims: (!args.claims.is_empty()).then(|| claims_of(args.claims)),
        source_ip: args.source_ip,
    };
    let mut client = Client::connect(&common.dir).await?;
    let answer: Explanation = client.post("/api/v1/explain/access", &question).await?;
    print(common, &answer)?;
    Ok(if answer.allowed == Some(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(common: &Common, answer: &Explanation) -> anyhow::Result<()> {
    if common.output.is_for_people() {
        return Ok(output::print(&answer.text)?);
    }
    output::data(&common.output, &answer.explanation, &[], |_| Vec::new())
}

fn claims_of(given: Vec<(String, Value)>) -> Map<String, Value> {
    let mut claims = Map::new();
    for (name, value) in given {
        match claims.get_mut(&name) {
            None => {
                claims.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    claims
}

async fn route(common: &Common, args: RouteArgs) -> anyhow::Result<()> {
    let question = RouteQuestion {
        from: args.from,
        gateway: args.gateway,
        to: args.to,
        namespace: args.namespace,
        method: args.method.to_string(),
        path: args.path,
        scheme: args.scheme,
        headers: args.headers,
    };
    let mut client = Client::connect(&common.dir).await?;
    let answer: Explanation = client.post("/api/v1/explain/route", &question).await?;
    print(common, &answer)
}

fn parse_method(text: &str) -> Result<http::Method, String> {
    text.parse().map_err(|_| format!("{text:?} is not a method"))
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let read = || {
        let (name, value) = text.split_once(':').context("no colon")?;
        let (name, value) = (name.trim(), value.trim());
        let _: (HeaderName, HeaderValue) = (name.parse()?, value.parse()?);
        anyhow::Ok((name.to_owned(), value.to_owned()))
    };
    read().map_err(|_| format!("{text:?} is not a header: write 'NAME: VALUE'"))
}

fn parse_claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not a claim: write NAME=VALUE"))?;
    let value = match value.starts_with(['[', '{']) {
        true => serde_json::from_str(value).map_err(|error| format!("{value:?} is not JSON: {error}"))?,
        false => Value::String(value.to_owned()),
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_texts_lists_or_json() {
        let given = ["iss=a=b", "groups=x", "groups=y", "groups=z", r#"realm={"roles": ["r"]}"#];
        let claims = claims_of(given.iter().map(|claim| parse_claim(claim).unwrap()).collect());
        let wanted = serde_json::json!({"iss": "a=b", "groups": ["x", "y", "z"], "realm": {"roles": ["r"]}});
        assert_eq!(Value::Object(claims), wanted);
        assert!(parse_claim("sub").unwrap_err().contains("NAME=VALUE"));
        assert!(parse_claim("sub={").unwrap_err().contains("is not JSON"));
    }

    #[test]
    fn headers_are_written_as_curl_takes_them() {
        assert_eq!(parse_header("end-user: jason"), Ok(("end-user".into(), "jason".into())));
        assert_eq!(parse_header("x:"), Ok(("x".into(), String::new())));
        for text in ["", "x", "a b: c", "x: a\nb"] {
            assert!(parse_header(text).is_err(), "{text:?}");
        }
    }
}
