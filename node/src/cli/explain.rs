//! `weft explain`: why a request goes where it goes.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use http::{HeaderName, HeaderValue};
use weft_wire::id::Namespace;

use super::{Common, client::Client, output};
use crate::admin::api::{RouteExplanation, RouteQuestion};

#[derive(Subcommand)]
pub(super) enum ExplainCommand {
    /// Show how a request would be routed, step by step, and which document says so.
    #[command(after_help = "Examples:
  weft explain route --from productpage --to reviews:9080 --path /reviews/0
  weft explain route --from reviews-v2 --to ratings -H 'end-user: jason' --method POST
  weft explain route --from web.prod --to reviews.default -o json

The node that is asked answers by what it sees itself: as the caller, if the caller runs there. Exit code: 0, or 1 if
the question makes no sense.")]
    Route(RouteArgs),
}

#[derive(Args)]
pub(super) struct RouteArgs {
    /// Who calls: a workload, or a service, whose first workload it is then; of another namespace as NAME.NAMESPACE.
    #[arg(long, value_name = "WORKLOAD|SERVICE")]
    from: String,
    /// Whom it calls, as it would write it: HOST or HOST:PORT.
    #[arg(long, value_name = "HOST[:PORT]")]
    to: String,
    /// Path and query.
    #[arg(long, default_value = "/")]
    path: String,
    /// The request's method.
    #[arg(long, default_value = "GET", value_parser = parse_method)]
    method: http::Method,
    /// What VirtualServices may ask of it as its scheme.
    #[arg(long, default_value = "http")]
    scheme: String,
    /// A header of the request. Repeatable.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// The namespace of the caller, if its name has none.
    #[arg(short = 'n', long, default_value = "default")]
    namespace: Namespace,
}

pub(super) async fn run(common: &Common, command: ExplainCommand) -> anyhow::Result<ExitCode> {
    match command {
        ExplainCommand::Route(args) => route(common, args).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn route(common: &Common, args: RouteArgs) -> anyhow::Result<()> {
    let question = RouteQuestion {
        from: args.from,
        to: args.to,
        namespace: args.namespace,
        method: args.method.to_string(),
        path: args.path,
        scheme: args.scheme,
        headers: args.headers,
    };
    let mut client = Client::connect(&common.dir).await?;
    let answer: RouteExplanation = client.post("/api/v1/explain/route", &question).await?;
    if common.output.is_for_people() {
        return Ok(output::print(&answer.text)?);
    }
    output::data(common.output, &answer.explanation, &[], |_| Vec::new())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_written_as_curl_takes_them() {
        assert_eq!(parse_header("end-user: jason"), Ok(("end-user".into(), "jason".into())));
        assert_eq!(parse_header("x:"), Ok(("x".into(), String::new())));
        for text in ["", "x", "a b: c", "x: a\nb"] {
            assert!(parse_header(text).is_err(), "{text:?}");
        }
    }
}
