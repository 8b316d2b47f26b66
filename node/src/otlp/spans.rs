//! Spans with the names and tags of Istio and of Envoy.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status, span::SpanKind, status::StatusCode},
};
use prost::Message;
use weft_policy::{access_log::protocol_name, telemetry::TagSource};
use weft_proxy::ports::Span;

use super::{Signal, scope, text, unix_nanos};
use crate::traces::{is_failure, operation, service_of};

/// The one cluster that a mesh is, as in metrics.
const CLUSTER: &str = "weft";
/// What a service is called of which nothing is known, as OpenTelemetry has it.
const UNKNOWN_SERVICE: &str = "unknown_service:weft";
/// Flags of a span: sampled, and whether its parent is of another process is known, and so it is.
const SAMPLED_WITH_REMOTE_PARENT: u32 = 0x301;

impl Signal for Span {
    const METHOD: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    const NAME: &'static str = "spans";

    fn encode(batch: &[Self]) -> Vec<u8> {
        let mut by_service: BTreeMap<String, Vec<OtlpSpan>> = BTreeMap::new();
        for span in batch {
            let service = service_of(&span.entry).unwrap_or_else(|| UNKNOWN_SERVICE.to_owned());
            by_service.entry(service).or_default().push(told(span));
        }
        let resource_spans = by_service.into_iter().map(|(service, spans)| {
            let attributes = vec![text("service.name", service), text("telemetry.sdk.name", "weft")];
            ResourceSpans {
                resource: Some(Resource { attributes, ..Resource::default() }),
                scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }],
                ..ResourceSpans::default()
            }
        });
        ExportTraceServiceRequest { resource_spans: resource_spans.collect() }.encode_to_vec()
    }

    fn rejected(answer: &[u8]) -> u64 {
        let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
        answer.partial_success.map_or(0, |partial| partial.rejected_spans.unsigned_abs())
    }
}

fn told(span: &Span) -> OtlpSpan {
    let entry = &*span.entry;
    let code = if is_failure(entry) { StatusCode::Error } else { StatusCode::Unset };
    OtlpSpan {
        trace_id: span.ids.trace.to_be_bytes().to_vec(),
        span_id: span.ids.span.to_be_bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: SAMPLED_WITH_REMOTE_PARENT,
        name: operation(entry),
        kind: if entry.is_server { SpanKind::Server } else { SpanKind::Client }.into(),
        start_time_unix_nano: unix_nanos(entry.start),
        end_time_unix_nano: unix_nanos(entry.start + entry.duration),
        attributes: tags(span),
        status: Some(Status { code: code.into(), message: String::new() }),
        ..OtlpSpan::default()
    }
}

/// Envoy's tags, Istio's, and those of documents. All are texts, as Envoy writes them.
fn tags(span: &Span) -> Vec<KeyValue> {
    let (entry, tracing) = (&*span.entry, &span.signals.tracing);
    let mut tags = vec![text("component", "proxy")];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            tags.push(text(name, value));
        }
    };
    let own = entry.own_workload();
    add("node_id", own.map(|own| format!("sidecar~{}~{}.{}~{}", own.node, own.name, own.namespace, own.namespace)));
    if let Some(request) = &entry.request {
        let path: String = request.path().chars().take(tracing.max_tag_length).collect();
        add("guid:x-request-id", request.request_id.as_ref().and_then(|id| Some(id.to_str().ok()?.to_owned())));
        add("http.url", Some(format!("http://{}{path}", request.authority().unwrap_or_default())));
        add("http.method", Some(request.method.to_string()));
        let agent = request.header(&http::header::USER_AGENT);
        add("user_agent", Some(agent.and_then(|agent| agent.to_str().ok()).unwrap_or("-").to_owned()));
        add("http.protocol", Some(protocol_name(request.version).to_owned()));
    }
    add("downstream_cluster", Some("-".to_owned()));
    add("peer.address", Some(entry.downstream_remote.ip().to_string()));
    add("request_size", Some(entry.bytes_received.to_string()));
    add("response_size", Some(entry.bytes_sent.to_string()));
    add("http.status_code", Some(entry.status.to_string()));
    add("response_flags", Some(entry.flag.to_owned()));
    let cluster = || entry.upstream.cluster.as_deref().map(str::to_owned);
    add("upstream_cluster", cluster());
    add("upstream_cluster.name", cluster());
    add("upstream_address", entry.upstream.host.map(|host| host.to_string()));
    add("grpc.status_code", entry.grpc_status.map(|code| code.to_string()));
    if is_failure(entry) {
        add("error", Some("true".to_owned()));
    }
    if let Some(own) = own.filter(|_| tracing.has_istio_tags) {
        let mesh = own.principal.trim_start_matches("spiffe://").split('/').next().unwrap_or_default();
        add("istio.canonical_service", Some(own.canonical_service.clone()));
        add("istio.canonical_revision", Some(own.canonical_revision.clone()));
        add("istio.mesh_id", Some(mesh.to_owned()));
        add("istio.namespace", Some(own.namespace.to_string()));
        add("istio.cluster_id", Some(CLUSTER.to_owned()));
    }
    for (name, source) in &tracing.tags {
        let value = match source {
            TagSource::Literal(value) => value.clone(),
            TagSource::Environment { name, default } => std::env::var(name).unwrap_or_else(|_| default.clone()),
            TagSource::Header { name, default } => {
                let name = http::HeaderName::try_from(name.as_str()).ok();
                let value = name.and_then(|name| entry.request.as_ref()?.header(&name));
                value.and_then(|value| value.to_str().ok()).unwrap_or(default).to_owned()
            }
            TagSource::Format(format) => format.tag(entry, own.map_or("", |own| own.node.as_str())),
        };
        // Without a value there is no tag.
        add(name, Some(value).filter(|value| !value.is_empty()));
    }
    tags
}
