//! `weft analyze`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Value, json};
use weft_policy::{
    analyze::{Code, Input, Message, Severity},
    document::Position,
};
use weft_wire::id::Namespace;

use super::{
    Common,
    client::Client,
    documents::{files, read},
    output::{self, Format, line},
};
use crate::{
    admin::api::{Document, Member, Workload},
    identity::wall_ms,
};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["files", "mesh"]).required(true).multiple(true)))]
pub(super) struct AnalyzeArgs {
    /// A file, a directory, or - for standard input. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Directories with all that are in them.
    #[arg(short = 'R', long, requires = "files")]
    recursive: bool,
    /// What the mesh of the running node holds; files are analysed as if they were applied to it.
    #[arg(long)]
    mesh: bool,
    /// The namespace of documents that name none, and the only one to tell of [default: `default`, and all].
    #[arg(short = 'n', long)]
    namespace: Option<Namespace>,
    /// Tell of all namespaces, whatever -n says.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Exit with code 1 if there is a message of this severity, or worse.
    #[arg(long, value_enum, default_value_t = Threshold::Error, value_name = "error|warning|info")]
    failure_threshold: Threshold,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Threshold {
    Error,
    Warning,
    Info,
}

impl Threshold {
    fn severity(self) -> Severity {
        match self {
            Self::Error => Severity::Error,
            Self::Warning => Severity::Warning,
            Self::Info => Severity::Info,
        }
    }
}

pub(super) async fn analyze(common: &Common, args: AnalyzeArgs) -> anyhow::Result<ExitCode> {
    let mut input = Input::default();
    if args.mesh {
        add_mesh(&mut input, &mut Client::connect(&common.dir).await?).await?;
    }
    let namespace = args.namespace.clone().unwrap_or_else(Namespace::default_namespace);
    for file in files(&args.files, args.recursive)? {
        let name = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
        input.add_file(&name, &read(&file)?, &namespace);
    }
    let mut messages = input.analyze(now());
    if let (Some(namespace), false) = (&args.namespace, args.all_namespaces) {
        let is_meant = |message: &Message| match &message.about {
            Some(key) => key.namespace.as_ref().is_none_or(|other| other == namespace),
            None => true,
        };
        messages.retain(is_meant);
    }
    print(&common.output, &messages)?;
    let fails = messages.iter().any(|message| message.code.severity() >= args.failure_threshold.severity());
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What analysis says of files, each a name and a text, as if they were applied, beyond what applying them says itself.
pub(super) async fn of_files(
    client: &mut Client,
    files: &[(String, String)],
    namespace: &Namespace,
) -> anyhow::Result<Vec<Message>> {
    let mut input = Input::default();
    add_mesh(&mut input, client).await?;
    for (name, text) in files {
        input.add_file(name, text, namespace);
    }
    let mut messages = input.analyze(now());
    let said_by_apply = [Code::SchemaValidationError, Code::SchemaWarning];
    messages.retain(|message| message.file.is_some() && !said_by_apply.contains(&message.code));
    Ok(messages)
}

/// In seconds since 1970.
fn now() -> i64 {
    i64::try_from(wall_ms() / 1_000).unwrap_or(i64::MAX)
}

async fn add_mesh(input: &mut Input, client: &mut Client) -> anyhow::Result<()> {
    let documents: Vec<Document> = client.get("/api/v1/documents").await?;
    documents.iter().for_each(|document| input.add_stored(&document.body.to_string()));
    let members: Vec<Member> = client.get("/api/v1/members").await?;
    members.into_iter().for_each(|member| input.add_node(member.name, member.labels));
    let workloads: Vec<Workload> = client.get("/api/v1/workloads").await?;
    for Workload { node, service, port, protocol, labels, .. } in workloads {
        input.add_announced(&node, service, (port, protocol), labels);
    }
    Ok(())
}

fn print(format: &Format, messages: &[Message]) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Wide if messages.is_empty() => eprintln!("weft: nothing to tell"),
        Format::Table | Format::Wide => messages.iter().try_for_each(|message| line(format_args!("{message}")))?,
        Format::Sarif => line(format_args!("{:#}", sarif(messages)))?,
        _ => {
            output::data(format, &messages.iter().map(data).collect::<Vec<_>>(), &[], |_| vec![])?;
        }
    }
    Ok(())
}

/// In the fields of `istioctl analyze -o json`, and the path.
fn data(message: &Message) -> Value {
    json!({
        "code": message.code.id(),
        "level": message.code.severity().to_string(),
        "message": message.text,
        "origin": message.origin(),
        "reference": message.reference(),
        "path": message.path,
        "documentationUrl": documentation(message.code),
    })
}

/// Where Istio explains a code.
fn documentation(code: Code) -> String {
    format!("https://istio.io/latest/docs/reference/config/analysis/{}/", code.id().to_lowercase())
}

/// Static Analysis Results Interchange Format 2.1.0 (OASIS).
fn sarif(messages: &[Message]) -> Value {
    let rule = |code: &Code| {
        json!({
            "id": code.id(),
            "name": code.name(),
            "shortDescription": { "text": code.meaning() },
            "helpUri": documentation(*code),
            "defaultConfiguration": { "level": sarif_level(code.severity()) },
        })
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "weft",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": Code::ALL.iter().map(rule).collect::<Vec<_>>(),
            } },
            "results": messages.iter().map(sarif_result).collect::<Vec<_>>(),
        }],
    })
}

fn sarif_level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

fn sarif_result(message: &Message) -> Value {
    let mut location = json!({});
    if let Some(file) = &message.file {
        location["physicalLocation"] = json!({ "artifactLocation": { "uri": uri(file) } });
        if message.at != Position::default() {
            let Position { line, column } = message.at;
            location["physicalLocation"]["region"] = json!({ "startLine": line, "startColumn": column });
        }
    }
    if message.about.is_some() {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": message.origin() }]);
    }
    json!({
        "ruleId": message.code.id(),
        "level": sarif_level(message.code.severity()),
        "message": { "text": message.text },
        "locations": [location],
    })
}

/// A path as a URI reference (RFC 3986).
fn uri(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: \
                    nobody\n";
        let mut input = Input::default();
        input.add_file("my rules.yaml", text, &Namespace::default_namespace());
        input.analyze(0)
    }

    #[test]
    fn sarif_names_rule_level_and_place() {
        let sarif = sarif(&messages());
        let run = &sarif["runs"][0];
        assert_eq!(sarif["version"], "2.1.0");
        assert_eq!(run["tool"]["driver"]["rules"].as_array().map(Vec::len), Some(Code::ALL.len()));
        let expected = json!([{
            "ruleId": "IST0174",
            "level": "warning",
            "message": { "text": "no service is called nobody" },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": "my%20rules.yaml" },
                    "region": { "startLine": 5, "startColumn": 3 },
                },
                "logicalLocations": [{ "fullyQualifiedName": "DestinationRule default/a" }],
            }],
        }]);
        assert_eq!(run["results"], expected);
    }

    #[test]
    fn json_has_the_fields_of_istioctl() {
        let data = data(&messages()[0]);
        for (field, value) in [
            ("code", "IST0174"),
            ("level", "Warning"),
            ("origin", "DestinationRule default/a"),
            ("reference", "my rules.yaml:5:3"),
            ("path", "spec.host"),
            ("documentationUrl", "https://istio.io/latest/docs/reference/config/analysis/ist0174/"),
        ] {
            assert_eq!(data[field], value, "{field}");
        }
    }
}
