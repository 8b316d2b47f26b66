//! The command line. The words, options and exit codes are a contract that scripts rely on: 0 done, 1 refused or
//! failed (one line on stderr: what, why, what to do), 2 usage.

mod analyze;
mod circuits;
mod client;
mod completions;
mod console;
mod doctor;
mod documents;
mod events;
mod explain;
mod get;
mod history;
mod join;
mod jsonpath;
mod output;
mod plaintext;
mod revoke;
mod run;
mod schema;
mod select;
mod show;
mod tap;
mod token;
mod top;
mod trace;
mod traffic;
mod up;
mod why;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use weft_wire::{
    document::VersionId,
    id::{AccountPattern, CellName, Namespace, NodeName, Role, TrustDomain},
};

use self::select::Selector;
use crate::{
    config::{self, Seed},
    demo,
};

/// weft: a service mesh without a control plane.
#[derive(Parser)]
#[command(name = "weft", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  weft init --name host-1 --advertise 10.0.0.1     create a mesh, with this host as its first node
  weft up                                          run this host's node
  weft token create --allow default/web            let another host in (run on host-1)
  weft join 10.0.0.1:15008 --token T --name host-2 --advertise 10.0.0.2
  weft apply -f routes.yaml                        give the mesh Istio documents
  weft demo                                        see a whole mesh on this machine")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const DEFAULT_DIR: &str = "/var/lib/weft";
/// The environment's variable that names another one.
const DIR_VARIABLE: &str = "WEFT_DIR";

/// Options of every command.
#[derive(Args, Clone)]
struct Common {
    /// The node's data directory.
    #[arg(long, global = true, env = DIR_VARIABLE, default_value = DEFAULT_DIR, value_name = "DIR")]
    dir: PathBuf,
    /// How to print data; `wide` has more columns, `name` is only for documents, `jsonpath=TEMPLATE` as in kubectl.
    #[arg(
        long,
        short = 'o',
        global = true,
        value_parser = output::FormatParser,
        default_value = "table",
        value_name = "FORMAT"
    )]
    output: output::Format,
}

#[derive(Subcommand)]
enum Command {
    /// Create a mesh, with this host as its first node.
    #[command(after_help = "Examples:
  weft init --name host-1 --advertise 10.0.0.1
  weft init --name host-1 --advertise 10.0.0.1 --trust-domain prod.example.com")]
    Init(InitArgs),
    /// Join a mesh through any of its nodes.
    #[command(after_help = "Examples:
  weft join 10.0.0.1:15008 --token weft1.… --name host-2 --advertise 10.0.0.2")]
    Join(JoinArgs),
    /// Run this host's node until SIGTERM or Ctrl-C.
    #[command(after_help = "Examples:
  weft up                          with DIR/node.yaml
  weft up -c /etc/weft/node.yaml")]
    Up(UpArgs),
    /// Leave the mesh for good: tell the peers, stop the node, remove its identity from this host.
    #[command(after_help = "Examples:
  weft leave
  weft leave --force    also where this node holds the mesh's root key (kept on disk)")]
    Leave(LeaveArgs),
    /// Show this node: identity, readiness, actors.
    #[command(after_help = "Examples:\n  weft status\n  weft status -o json")]
    Status,
    /// List the nodes of the mesh.
    #[command(after_help = "Examples:\n  weft members\n  weft members -o json")]
    Members,
    /// List the services of the mesh.
    #[command(after_help = "Examples:\n  weft services\n  weft services -o json")]
    Services,
    /// List the endpoints of a service.
    #[command(after_help = "Examples:
  weft endpoints reviews
  weft endpoints reviews.prod -o json
  weft endpoints api.example.com      a host that ServiceEntries describe")]
    Endpoints(EndpointsArgs),
    /// List the endpoints that nodes of the mesh keep from, and who has seen what.
    #[command(after_help = "Examples:\n  weft circuits\n  weft circuits --watch\n  weft circuits -o json")]
    Circuits(CircuitsArgs),
    /// Create, list and revoke join tokens (on a CA node).
    #[command(subcommand)]
    Token(TokenCommand),
    /// Give the mesh documents: Istio's or Kubernetes' YAML.
    #[command(after_help = "Examples:
  weft apply -f routes.yaml
  weft apply -f deploy/            every .yaml, .yml and .json file in a directory
  weft apply -f deploy/ --dry-run  say what would change, and change nothing
  weft apply -f deploy/ --partial  also if some documents are refused
  cat routes.yaml | weft apply -f -")]
    Apply(ApplyArgs),
    /// Show what `apply` would change, as a diff; or which nodes hold which documents. Exit code 0: no difference; 1: some;
    /// 2: failed.
    #[command(after_help = "Examples:
  weft diff -f routes.yaml
  weft diff -f deploy/ -n prod
  weft diff --nodes             which nodes lack documents, hold older ones, or cannot use them; 2 if some do not answer")]
    Diff(DiffArgs),
    /// Find what documents say that is wrong, or that together cannot be meant, as `istioctl analyze` does.
    #[command(after_help = "Examples:
  weft analyze -f routes.yaml             the files alone; no node is needed
  weft analyze -f routes.yaml --mesh      the files, as if they were applied
  weft analyze --mesh -n prod             what the mesh holds
  weft analyze -f deploy/ -o sarif        for code hosts and editors

Exit code: 0, or 1 with a message of --failure-threshold or worse.")]
    Analyze(analyze::AnalyzeArgs),
    /// Show documents and their status.
    #[command(after_help = "Examples:
  weft get virtualservices               of namespace default
  weft get all -A                        of all namespaces
  weft get vs reviews ratings -o wide    which nodes have them, and what is not enforced
  weft get vs/reviews dr/reviews -o yaml
  weft get vs,dr -n prod -l 'app in (reviews, ratings),!canary' -o name
  weft get vs -A --sort-by .metadata.creationTimestamp --show-labels
  weft get httproutes -w                 go on with what changes, until Ctrl-C
  weft get vs reviews -o jsonpath='{.status.conditions[?(@.type==\"Programmed\")].message}'")]
    Get(GetArgs),
    /// Delete documents.
    #[command(after_help = "Examples:
  weft delete virtualservice reviews
  weft delete dr/reviews vs/reviews -n prod
  weft delete -f routes.yaml --ignore-not-found
  weft delete vs -l app=reviews --dry-run")]
    Delete(DeleteArgs),
    /// Show the last versions of a document, a deleted one's too, or one of them.
    #[command(after_help = "Examples:
  weft history vs reviews
  weft history vs/reviews -n prod --revision 1795910400123.0-3fa9c1d2
  weft history vs reviews -o json

The last 10 versions are kept on every node, and all nodes are asked for theirs. A revision may be shortened to a
beginning that no other version has.")]
    History(HistoryArgs),
    /// Bring a former version of a document back, as a new version.
    #[command(after_help = "Examples:
  weft rollback vs reviews                  what held before the present version
  weft rollback vs reviews --to-revision 1795910400123
  weft rollback vs reviews --dry-run        say what would be done

Refused if the document changes meanwhile. A deleted document is created again as it was.")]
    Rollback(RollbackArgs),
    /// Print the JSON Schema of a kind of document, for editors; without KIND, list the kinds.
    #[command(after_help = "Examples:
  weft schema
  weft schema virtualservice > virtualservice.json
  weft schema gateways.gateway.networking.k8s.io    where several groups have the kind")]
    Schema(SchemaArgs),
    /// Tell why the mesh does what it does with a request.
    #[command(subcommand)]
    Explain(explain::ExplainCommand),
    /// Tell why a workload's policies have refused a caller.
    #[command(after_help = "Examples:
  weft why 8f1c0d2e4b6a7990    what curl -i shows as x-weft-decision
  weft why                     the latest refusals, trials and audits of workloads of this node

Whichever node has decided is found, as long as it is up. Each keeps its latest 1,024 findings per worker until it is
restarted.")]
    Why(why::WhyArgs),
    /// Show what the mesh remembers of one request, hop by hop.
    #[command(after_help = "Examples:
  weft trace 4bf92f3577b34da6a3ce929d0e0e4736     a trace's id, or a request's x-request-id
  weft trace doctor --since 10m                   who does not hand trace headers on

All nodes are asked. Each keeps its latest 4,096 spans that were sampled (1 % unless a Telemetry says otherwise), and as many
of those that failed or were slow, until it is restarted.")]
    Trace(trace::TraceArgs),
    /// List the requests that the mesh remembers, the latest first.
    #[command(after_help = "Examples:
  weft traces --service reviews --error --min 200ms
  weft traces --since 10m -o json")]
    Traces(trace::TracesArgs),
    /// Have nobody believe the certificates of a node or of a service account any more, and cut its connections.
    #[command(subcommand)]
    Revoke(revoke::RevokeCommand),
    /// List who still sends plaintext to whom, in the whole mesh.
    #[command(after_help = "Listed are:
  past weft       whoever is connected to a workload's own port from another host, where neither mutual TLS nor policies
                  protect it: call the service through weft, and have the workload listen on 127.0.0.1
  in the clear    what goes through weft to a host outside of the mesh without TLS: give it a DestinationRule with tls

Each node looks at its connections every 5 s, and remembers for a day whom it saw. Short connections may be missed.")]
    Plaintext,
    /// Tell what services, workloads or namespaces of the mesh get, and how well it is answered.
    #[command(after_help = "Examples:
  weft stat                            services of the namespace default
  weft stat svc reviews -n prod
  weft stat workload -A -o wide --watch
  weft stat workload --to svc/reviews  who calls reviews, and how that goes
  weft stat ns --from ns/prod --window 1m

Each call counts once: as its caller's node has seen it, or as the called one's where the caller is outside of the mesh.
SUCCESS is without 5xx, gRPC statuses that stand for one, and what got no answer at all.")]
    Stat(traffic::StatArgs),
    /// List who calls whom in the mesh, and how well it goes.
    #[command(after_help = "Examples:
  weft edges
  weft edges workload productpage-v1
  weft edges -A --to ns/prod -o wide")]
    Edges(traffic::EdgesArgs),
    /// Draw who calls whom in the mesh.
    #[command(after_help = "Examples:
  weft graph -A | dot -Tsvg > mesh.svg    Graphviz, what is printed if nothing else is asked for
  weft graph -o mermaid                   for Markdown
  weft graph -o json")]
    Graph(traffic::GraphArgs),
    /// Watch the mesh's traffic live.
    #[command(after_help = "Examples:
  weft top
  weft top edges -A
  weft top -o json | jq .rows       a line each second

On a terminal, ? lists the keys. Elsewhere it prints a table each second.")]
    Top(top::TopArgs),
    /// Show requests of the whole mesh as they go by; for operators, and told in `weft events`.
    #[command(after_help = "Examples:
  weft tap reviews                            what is asked of a service
  weft tap --from productpage --status 5xx    what fails of what a workload asks
  weft tap --path /api/* --header end-user:jason -o wide
  weft tap reviews --body 4KiB -o json        a line of JSON for each request

All nodes are asked; each tells at most --max-rps requests a second. Values of headers, parameters and fields of bodies whose
names look like secrets are hidden, always. Ctrl-C ends it, or --for.")]
    Tap(tap::TapArgs),
    /// List what has happened in the mesh: joins and deaths, documents, circuits, certificates, denials, drains, taps.
    #[command(after_help = "Examples:
  weft events
  weft events --since 1h --kind member --kind circuit
  weft events --watch -o json      a line for each, as it happens")]
    Events(events::EventsArgs),
    /// Print where this node's console is, with a code that signs in.
    #[command(after_help = "Examples:
  weft console
  ssh -L 15000:127.0.0.1:15000 HOST    then open what `weft console` printed there, in your own browser

The console is a page that shows the whole mesh. Whoever is signed in may also change documents, and see traces.")]
    Console,
    /// Find out what is wrong with this node and its mesh, why, and what to type.
    #[command(after_help = "Examples:
  weft doctor
  weft doctor -o json | jq '.checks[] | select(.verdict != \"ok\")'

It works with the mesh, and with this node, down too. The exit code is 1 if anything is wrong; warnings do not count.")]
    Doctor,
    /// Run a command as a service of the mesh, for as long as it runs.
    // `--version` is the service's.
    #[command(
        disable_version_flag = true,
        after_help = "Examples:
  weft run --service web --port 8080 -- ./web --listen 127.0.0.1:8080
  weft run --service reviews --version v2 --port 9080 --health-http /health -- ./reviews"
    )]
    Run(run::RunArgs),
    /// Run the bookinfo demo: a mesh of five hosts on this machine.
    #[command(after_help = "Examples:
  weft demo            until Ctrl-C
  weft demo --check    a few seconds; exit 0 only if the routes were really observed")]
    Demo(demo::DemoArgs),
    /// Run one of the demo's services.
    #[command(hide = true)]
    Bookinfo(demo::bookinfo::BookinfoArgs),
    /// Print a script that lets a shell complete weft's commands and options, kinds and names of documents, services,
    /// namespaces and nodes.
    #[command(after_help = "Examples:
  echo 'source <(weft completions bash)' >> ~/.bashrc
  echo 'source <(weft completions zsh)' >> ~/.zshrc
  echo 'weft completions fish | source' > ~/.config/fish/completions/weft.fish")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

#[derive(Args)]
struct InitArgs {
    /// This host's name in the mesh: a DNS label.
    #[arg(long)]
    name: NodeName,
    /// The address at which other hosts reach this one.
    #[arg(long, value_name = "IP")]
    advertise: IpAddr,
    /// The SPIFFE trust domain of the mesh.
    #[arg(long, default_value = "cluster.local", value_name = "TD")]
    trust_domain: TrustDomain,
    #[command(flatten)]
    cell: CellArgs,
}

#[derive(Args)]
struct CellArgs {
    /// The cell whose nodes this host gossips with [default: default].
    #[arg(long, value_name = "CELL")]
    cell: Option<CellName>,
    /// Let this host link its cell with others, as two or three in each do.
    #[arg(long)]
    relay: bool,
}

#[derive(Args)]
struct JoinArgs {
    /// A node of the mesh: IP or IP:PORT.
    #[arg(value_name = "SEED")]
    seed: Seed,
    /// What `weft token create` printed.
    #[arg(long, env = "WEFT_TOKEN", hide_env_values = true)]
    token: String,
    /// This host's name in the mesh: a DNS label.
    #[arg(long)]
    name: NodeName,
    /// The address at which other hosts reach this one.
    #[arg(long, value_name = "IP")]
    advertise: IpAddr,
    #[command(flatten)]
    cell: CellArgs,
}

#[derive(Args)]
struct UpArgs {
    /// The node's configuration [default: DIR/node.yaml].
    #[arg(long, short = 'c', value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct LeaveArgs {
    /// Leave even where this node holds the mesh's root key.
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct EndpointsArgs {
    /// NAME or NAME.NAMESPACE; or a host outside of the mesh, as its ServiceEntry writes it.
    #[arg(value_name = "SVC|HOST", value_parser = show::host, add = completions::services())]
    service: String,
}

#[derive(Args)]
struct CircuitsArgs {
    /// Print them again whenever they change, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Create a token and print it, alone, on stdout.
    #[command(after_help = "Examples:
  weft token create --allow default/reviews
  weft token create --allow default/default    for a host that only calls
  weft token create --ttl 24h --uses 10 --allow 'default/*'
  weft token create --role ca")]
    Create(TokenCreateArgs),
    /// List the tokens that were issued and have not run out.
    #[command(after_help = "Examples:\n  weft token list\n  weft token list -o json")]
    List,
    /// Revoke a token: nobody joins with it again. Nodes that did join stay.
    #[command(after_help = "Examples:\n  weft token revoke 8f1c0d2e4b6a7990")]
    Revoke {
        /// The id that `weft token list` shows.
        id: String,
    },
}

#[derive(Args)]
struct TokenCreateArgs {
    /// member hosts and calls services; admin also writes documents; ca also issues certificates.
    #[arg(long, default_value = "member", value_name = "member|ca|admin")]
    role: Role,
    /// How long the token is good for.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    ttl: std::time::Duration,
    /// How many hosts may join with it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// A service account that the host may run services and make calls as: NS/SA, NS/* or */*. Repeatable. Without it,
    /// the host may host nothing, and its calls to other hosts are refused. A host that hosts nothing calls as
    /// default/default: to let it only call, allow that.
    #[arg(long, value_name = "NS/SA")]
    allow: Vec<AccountPattern>,
}

/// How documents are written.
#[derive(Args)]
struct Writing {
    /// Directory of the operator credential (cert.pem, key.pem) [default: DIR/operator where it exists, else the
    /// node signs with its own key, if its role lets it].
    #[arg(long, env = "WEFT_CREDENTIAL", value_name = "DIR")]
    credential: Option<PathBuf>,
    /// Say what would be done, and do nothing. The node is asked in any case, so `client` and `server` are the same.
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = DryRun::None,
        default_missing_value = "client",
        hide_default_value = true,
        hide_possible_values = true,
        value_name = "none|client|server"
    )]
    dry_run: DryRun,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DryRun {
    None,
    Client,
    Server,
}

/// Where to look for documents.
#[derive(Args, Clone)]
struct Scope {
    /// The namespace to look in.
    #[arg(short = 'n', long, default_value = "default", add = completions::namespaces())]
    namespace: Namespace,
    /// Look in all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

impl Scope {
    /// `None`: all.
    fn namespace(&self) -> Option<&Namespace> {
        (!self.all_namespaces).then_some(&self.namespace)
    }
}

#[derive(Args)]
struct ApplyArgs {
    /// A file, a directory, or - for standard input. Repeatable.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Directories with all that are in them.
    #[arg(short = 'R', long, requires = "files")]
    recursive: bool,
    /// The namespace of documents that name none.
    #[arg(short = 'n', long, default_value = "default", add = completions::namespaces())]
    namespace: Namespace,
    /// Apply what is right even if something else is refused; the exit code is 1 then all the same.
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Args)]
struct DiffArgs {
    /// A file, a directory, or - for standard input. Repeatable.
    #[arg(short = 'f', long = "filename", required_unless_present = "nodes", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Ask all nodes which documents they hold, and compare.
    #[arg(long, conflicts_with_all = ["files", "recursive", "namespace"])]
    nodes: bool,
    /// Directories with all that are in them.
    #[arg(short = 'R', long, requires = "files")]
    recursive: bool,
    /// The namespace of documents that name none.
    #[arg(short = 'n', long, default_value = "default", add = completions::namespaces())]
    namespace: Namespace,
}

#[derive(Args)]
struct GetArgs {
    /// A kind, several joined by commas, or all; then names, if only these are wanted. Or KIND/NAME, repeatedly.
    #[arg(
        required = true,
        value_name = "KIND [NAME]|KIND/NAME",
        add = completions::documents()
    )]
    what: Vec<String>,
    /// Only documents with these labels: key=value, key!=value, key in (a,b), key notin (a,b), key, !key; joined by
    /// commas.
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<Selector>,
    /// Sort by what this path leads to, such as .metadata.name; those where it leads to nothing come last.
    #[arg(long, value_name = "PATH", value_parser = jsonpath::Path::relaxed, conflicts_with = "watch")]
    sort_by: Option<jsonpath::Path>,
    /// Go on with the documents that change, until Ctrl-C; the node is asked once a second.
    #[arg(short = 'w', long)]
    watch: bool,
    /// Tables have a column with the labels.
    #[arg(long)]
    show_labels: bool,
    /// Tables have no header.
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    scope: Scope,
}

/// Which document.
#[derive(Args)]
struct Named {
    /// A kind and a name, or KIND/NAME.
    #[arg(
        required = true,
        num_args = 1..=2,
        value_name = "KIND NAME|KIND/NAME",
        add = completions::documents()
    )]
    what: Vec<String>,
    /// The namespace that it is in.
    #[arg(short = 'n', long, default_value = "default", add = completions::namespaces())]
    namespace: Namespace,
}

#[derive(Args)]
struct HistoryArgs {
    #[command(flatten)]
    document: Named,
    /// Print this version, as it was applied, instead of a list.
    #[arg(long, value_name = "VERSION")]
    revision: Option<String>,
}

#[derive(Args)]
struct RollbackArgs {
    #[command(flatten)]
    document: Named,
    /// The version to go back to, as `weft history` shows it [default: the last one that says something else].
    #[arg(long, value_name = "VERSION")]
    to_revision: Option<String>,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Args)]
struct SchemaArgs {
    /// Such as virtualservice, vs, httproute.
    #[arg(add = completions::kind_names())]
    kind: Option<String>,
}

#[derive(Args)]
struct DeleteArgs {
    /// A kind and names, or KIND/NAME, repeatedly; with -l or --all a kind alone.
    #[arg(
        required_unless_present = "files",
        conflicts_with = "files",
        value_name = "KIND NAME|KIND/NAME",
        add = completions::documents()
    )]
    what: Vec<String>,
    /// The documents of a file, a directory, or of standard input (-). Repeatable.
    #[arg(short = 'f', long = "filename", conflicts_with_all = ["selector", "all"], value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Directories of -f with all that are in them.
    #[arg(short = 'R', long, requires = "files", conflicts_with = "what")]
    recursive: bool,
    /// Those with these labels; see `weft get`.
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<Selector>,
    /// All of the kind.
    #[arg(long)]
    all: bool,
    /// What does not exist is no error.
    #[arg(long)]
    ignore_not_found: bool,
    /// Only if this is its present metadata.resourceVersion; in files of -f that stands in the document.
    #[arg(long, conflicts_with_all = ["files", "selector", "all"], value_name = "VERSION")]
    resource_version: Option<VersionId>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    writing: Writing,
}

fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    config::duration(text).ok_or_else(|| format!("{text:?} is not a duration; write 30m, 1h or 24h"))
}

/// Parses the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    completions::answer(Cli::command);
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!("cannot start the runtime: {error}")),
    };
    let code = match runtime.block_on(dispatch(cli)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    };
    // Blocking reads of stdin and the like must not keep a finished command alive.
    runtime.shutdown_background();
    code
}

async fn dispatch(Cli { common, command }: Cli) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(args) => join::init(&common, args)?,
        Command::Join(args) => join::join(&common, args).await?,
        Command::Up(args) => return up::up(&common, args).await,
        Command::Leave(args) => join::leave(&common, args).await?,
        Command::Status => show::status(&common).await?,
        Command::Members => show::members(&common).await?,
        Command::Services => show::services(&common).await?,
        Command::Endpoints(args) => show::endpoints(&common, &args.service).await?,
        Command::Explain(command) => return explain::run(&common, command).await,
        Command::Why(args) => why::why(&common, args).await?,
        Command::Trace(args) => trace::trace(&common, args).await?,
        Command::Traces(args) => trace::traces(&common, args).await?,
        Command::Circuits(args) => circuits::circuits(&common, args.watch).await?,
        Command::Revoke(command) => revoke::run(&common, command).await?,
        Command::Plaintext => plaintext::plaintext(&common).await?,
        Command::Token(command) => token::run(&common, command).await?,
        Command::Apply(args) => documents::apply(&common, args).await?,
        Command::Diff(args) => {
            let compared = match args.nodes {
                true => history::diff_nodes(&common).await,
                false => documents::diff(&common, args).await,
            };
            return Ok(compared.unwrap_or_else(|error| trouble(&error)));
        }
        Command::Analyze(args) => return analyze::analyze(&common, args).await,
        Command::Get(args) => get::get(&common, args).await?,
        Command::Delete(args) => documents::delete(&common, args).await?,
        Command::History(args) => history::history(&common, args).await?,
        Command::Rollback(args) => history::rollback(&common, args).await?,
        Command::Schema(args) => schema::schema(&common.output, &args)?,
        Command::Stat(args) => traffic::stat(&common, args).await?,
        Command::Edges(args) => traffic::edges(&common, args).await?,
        Command::Graph(args) => traffic::graph(&common, args).await?,
        Command::Top(args) => top::top(&common, args).await?,
        Command::Tap(args) => tap::tap(&common, args).await?,
        Command::Events(args) => events::events(&common, args).await?,
        Command::Console => console::console(&common).await?,
        Command::Doctor => return doctor::doctor(&common).await,
        Command::Run(args) => return run::run(&common, args).await,
        Command::Demo(args) => demo::run(args).await?,
        Command::Bookinfo(args) => demo::bookinfo::run(args).await?,
        Command::Completions { shell } => {
            output::print(&completions::script(shell)?)?;
        }
        Command::Version => output::line(format_args!("weft {}", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line on stderr, whatever a library's error looks like.
fn fail(error: &anyhow::Error) -> ExitCode {
    if output::is_unread(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("weft: {}", one_line(&format!("{error:#}")));
    ExitCode::FAILURE
}

/// As [`fail`], where 1 already means something else.
fn trouble(error: &anyhow::Error) -> ExitCode {
    match fail(error) {
        ExitCode::FAILURE => ExitCode::from(2),
        code => code,
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_and_argument_is_described() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let described = argument.get_help().is_some_and(|help| !help.to_string().is_empty());
                assert!(described, "{} {}: no description", command.get_name(), argument.get_id());
            }
            command.get_subcommands().filter(|command| !command.is_hide_set()).for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a: b\n\n  c\n"), "a: b; c");
    }
}
