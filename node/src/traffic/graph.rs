//! Who calls whom as a graph: for Graphviz, for Mermaid, and as JSON.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use serde::{Deserialize, Serialize};

use super::{Call, Rates, Row, UNKNOWN, table};

/// A graph of workloads, and of services that have been called without finding one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub edges: Vec<Link>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// What edges name.
    pub id: String,
    /// `unknown` for a caller that is not known, for which it is the name too.
    pub namespace: String,
    pub name: String,
    pub kind: NodeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    Workload,
    /// Of which no workload answered: or a host outside of the mesh.
    Service,
    /// Callers outside of the mesh.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub source: String,
    pub target: String,
    pub protocol: String,
    #[serde(flatten)]
    pub rates: Rates,
    /// 0 to 1.
    pub success: Option<f64>,
    pub p95: Option<f64>,
}

impl Graph {
    pub fn of(rows: &[&Row]) -> Self {
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        let mut edges: BTreeMap<(String, String, String), Rates> = BTreeMap::new();
        for Row { call, rates, .. } in rows {
            let ends = [caller(call), called(call)];
            let [source, target] = ends.clone().map(|node| node.id);
            nodes.extend(ends.map(|node| (node.id.clone(), node)));
            edges.entry((source, target, call.protocol.clone())).or_default().add(rates);
        }
        let edge = |((source, target, protocol), rates): ((String, String, String), Rates)| Link {
            source,
            target,
            protocol,
            success: rates.success(),
            p95: rates.quantile(0.95),
            rates,
        };
        Self { nodes: nodes.into_values().collect(), edges: edges.into_iter().map(edge).collect() }
    }

    /// For `dot -Tsvg`.
    pub fn dot(&self) -> String {
        let mut text = String::from("digraph mesh {\n  rankdir=LR;\n  node [shape=box];\n");
        for Node { id, kind, .. } in &self.nodes {
            let shape = match kind {
                NodeKind::Workload => "box",
                NodeKind::Service => "ellipse",
                NodeKind::Unknown => "plaintext",
            };
            let _ = writeln!(text, "  {} [shape={shape}];", Quoted(id));
        }
        for edge in &self.edges {
            let color = if edge.is_ill() { ", color=red" } else { "" };
            let (source, target, label) = (Quoted(&edge.source), Quoted(&edge.target), edge.label());
            let _ = writeln!(text, "  {source} -> {target} [label={}{color}];", Quoted(&label));
        }
        text + "}\n"
    }

    /// For Markdown that is shown with diagrams.
    pub fn mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        let number = |id: &str| self.nodes.iter().position(|node| node.id == id).unwrap_or_default();
        for (i, Node { id, kind, .. }) in self.nodes.iter().enumerate() {
            let (open, close) = match kind {
                NodeKind::Workload => ("[", "]"),
                NodeKind::Service => ("([", "])"),
                NodeKind::Unknown => ("((", "))"),
            };
            // A quote inside would end it; nothing that is named here has one.
            let _ = writeln!(text, "  n{i}{open}\"{}\"{close}", id.replace('"', "'"));
        }
        for (i, edge) in self.edges.iter().enumerate() {
            let (source, target) = (number(&edge.source), number(&edge.target));
            let _ = writeln!(text, "  n{source} -->|\"{}\"| n{target}", edge.label());
            if edge.is_ill() {
                let _ = writeln!(text, "  linkStyle {i} stroke:red");
            }
        }
        text
    }
}

impl Link {
    fn label(&self) -> String {
        if self.rates.requests > 0.0 {
            let success = self.success.map_or_else(String::new, |share| format!(", {}", table::percent(share)));
            let p95 = self.p95.map_or_else(String::new, |ms| format!(", p95 {}", table::milliseconds(ms)));
            return format!("{} {}/s{success}{p95}", self.protocol, table::rate(self.rates.requests));
        }
        let bytes = table::bytes(self.rates.received_bytes + self.rates.sent_bytes);
        format!("{} {} open, {bytes}/s", self.protocol, self.rates.open)
    }

    /// More than one in twenty fails.
    fn is_ill(&self) -> bool {
        self.success.is_some_and(|share| share < 0.95)
    }
}

fn caller(call: &Call) -> Node {
    node(&call.source_namespace, &call.source_workload, NodeKind::Workload)
}

fn called(call: &Call) -> Node {
    match call.destination_workload.as_str() {
        UNKNOWN => node(&call.service_namespace, &call.service, NodeKind::Service),
        name => node(&call.destination_namespace, name, NodeKind::Workload),
    }
}

fn node(namespace: &str, name: &str, kind: NodeKind) -> Node {
    let kind = if name == UNKNOWN { NodeKind::Unknown } else { kind };
    let prefix = if kind == NodeKind::Service { "svc:" } else { "" };
    let id = if name == UNKNOWN { UNKNOWN.to_owned() } else { prefix.to_owned() + &table::named(namespace, name) };
    Node { id, namespace: namespace.to_owned(), name: name.to_owned(), kind }
}

/// A string as Graphviz reads it.
struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Side, tests::row};

    fn graph() -> Graph {
        let mut ill = row("page>reviews@reviews-v2", Side::Source, 3.0);
        ill.rates.failures = 1.5;
        let rows =
            [row("page>reviews@reviews-v1", Side::Source, 2.0), ill, row("unknown>page@page", Side::Destination, 1.0)];
        let nobody = row("page>reviews", Side::Source, 0.5);
        Graph::of(&rows.iter().chain([&nobody]).collect::<Vec<_>>())
    }

    #[test]
    fn graphviz_gets_nodes_and_labelled_edges() {
        let dot = graph().dot();
        assert!(dot.starts_with("digraph mesh {\n") && dot.ends_with("}\n"), "{dot}");
        assert!(
            dot.contains("  \"default/page\" -> \"default/reviews-v1\" [label=\"http 2.0/s, 100.00%\"];\n"),
            "{dot}"
        );
        let ill = "  \"default/page\" -> \"default/reviews-v2\" [label=\"http 3.0/s, 50.00%\", color=red];\n";
        assert!(dot.contains(ill), "{dot}");
        assert!(dot.contains("  \"svc:default/reviews\" [shape=ellipse];\n"), "{dot}");
        assert!(dot.contains("  \"unknown\" -> \"default/page\""), "{dot}");
    }

    #[test]
    fn mermaid_numbers_its_nodes() {
        let mermaid = graph().mermaid();
        let expected = "flowchart LR\n  n0[\"default/page\"]\n  n1[\"default/reviews-v1\"]\n  n2[\"default/reviews-v2\"]\n  \
            n3([\"svc:default/reviews\"])\n  n4((\"unknown\"))\n  n0 -->|\"http 2.0/s, 100.00%\"| n1\n  \
            n0 -->|\"http 3.0/s, 50.00%\"| n2\n  linkStyle 1 stroke:red\n  n0 -->|\"http 0.5/s, 100.00%\"| n3\n  \
            n4 -->|\"http 1.0/s, 100.00%\"| n0\n";
        assert_eq!(mermaid, expected);
    }
}
