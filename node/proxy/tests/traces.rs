//! Spans and the context of traces, on real sockets.

mod support;

use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use weft_proxy::ports::Span;
use weft_wire::fact::Protocol;

use support::*;

fn tracing(spec: &str) -> String {
    format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: mesh, namespace: istio-system}}, spec: \
         {{tracing: [{spec}]}}}}\n"
    )
}

/// A mesh where `reviews` answers with a status that it is asked for, and what headers it was last asked with.
async fn mesh(documents: &str) -> (Mesh, Arc<Mutex<HeaderMap>>) {
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let seeing = seen.clone();
    let app = serve(false, move |request| {
        let seeing = seeing.clone();
        async move {
            *seeing.lock() = request.headers().clone();
            let status = request.headers().get("x-status").and_then(|status| status.to_str().ok()?.parse().ok());
            Response::builder().status(status.unwrap_or(200)).body(text("ok")).unwrap()
        }
    })
    .await;
    let reviews = Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, app)], ..Plan::default() };
    (Mesh::start_with(documents, vec![caller().await, reviews]), seen)
}

async fn call(mesh: &Mesh, headers: &[(&str, &str)]) {
    let mut request: Request<Body> = get("reviews", "/0");
    for (name, value) in headers {
        request.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    read(within(send(mesh.client().outbound, request)).await).await;
}

/// The spans of both sides, once both have one more.
async fn next(mesh: &Mesh) -> [Span; 2] {
    let of = |i: usize| mesh.nodes[i].spans.0.clone();
    eventually("both sides have a span", || !of(0).lock().is_empty() && !of(1).lock().is_empty()).await;
    [0, 1].map(|i| of(i).lock().pop().unwrap())
}

const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_servers_span_is_a_child_of_the_clients_and_the_workload_gets_the_servers() {
    let (mesh, seen) = mesh(&tracing("{randomSamplingPercentage: 100}")).await;
    call(&mesh, &[]).await;
    let [client, server] = next(&mesh).await;
    assert!(client.is_sampled && client.parent.is_none() && !client.entry.is_server);
    assert!(server.is_sampled && server.entry.is_server);
    assert_eq!((server.ids.trace, server.parent), (client.ids.trace, Some(client.ids.span)));
    let told = format!("00-{:032x}-{:016x}-01", server.ids.trace, server.ids.span);
    assert_eq!(seen.lock()["traceparent"], told);

    call(&mesh, &[("traceparent", W3C), ("tracestate", "a=b")]).await;
    let [client, server] = next(&mesh).await;
    assert_eq!(
        (client.ids.trace, client.parent),
        (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, Some(0x00f0_67aa_0ba9_02b7))
    );
    assert_eq!(server.parent, Some(client.ids.span));
    assert_eq!(seen.lock()["tracestate"], "a=b");

    call(&mesh, &[("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", "00f067aa0ba902b7")]).await;
    let [client, server] = next(&mesh).await;
    assert_eq!((client.ids.trace, server.parent), (0xa3ce_929d_0e0e_4736, Some(client.ids.span)));
    let seen = seen.lock();
    assert_eq!(seen["x-b3-spanid"], format!("{:016x}", server.ids.span));
    assert_eq!(seen["x-b3-parentspanid"], format!("{:016x}", client.ids.span));
    assert!(!seen.contains_key("traceparent"));
}

#[tokio::test]
async fn what_is_not_sampled_is_handed_on_and_kept_only_if_it_failed_or_was_slow() {
    let (mesh, seen) = mesh(&tracing("{randomSamplingPercentage: 0}")).await;
    // The first few are kept: there is no measure of what is slow yet.
    for _ in 0..200 {
        call(&mesh, &[]).await;
    }
    assert!(seen.lock()["traceparent"].as_bytes().ends_with(b"-00"));
    let kept = mesh.nodes[0].spans.0.lock().drain(..).collect::<Vec<_>>();
    assert!((1..=100).contains(&kept.len()) && kept.iter().all(|span| !span.is_sampled), "{} kept", kept.len());
    mesh.nodes[1].spans.0.lock().clear();
    call(&mesh, &[("x-status", "503")]).await;
    let failed = |span: &Span| span.entry.status == 503;
    eventually("the failure is kept on both sides", || (0..2).all(|i| mesh.nodes[i].spans.0.lock().iter().any(failed)))
        .await;
    call(&mesh, &[("x-b3-sampled", "1")]).await;
    eventually("a caller forces a trace", || {
        (0..2).all(|i| mesh.nodes[i].spans.0.lock().iter().any(|span| span.is_sampled))
    })
    .await;
}

#[tokio::test]
async fn documents_switch_spans_and_headers_off() {
    let (mesh, seen) = mesh(&tracing("{disableSpanReporting: true, randomSamplingPercentage: 100}")).await;
    call(&mesh, &[("x-status", "500")]).await;
    assert!(seen.lock()["traceparent"].as_bytes().ends_with(b"-01"), "handed on all the same");
    assert!(mesh.nodes[0].spans.0.lock().is_empty());

    let off = "{disableSpanReporting: true, disableContextPropagation: true}";
    let (mesh, seen) = self::mesh(&tracing(off)).await;
    call(&mesh, &[("traceparent", W3C)]).await;
    assert_eq!(seen.lock()["traceparent"], W3C);
    call(&mesh, &[]).await;
    assert!(!seen.lock().contains_key("traceparent"));
}

/// The exemplars of requests' durations on a node.
fn exemplars(mesh: &Mesh, i: usize) -> String {
    let page = mesh.nodes[i].metrics_text();
    page.lines().filter(|line| line.contains(" # {trace_id=")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn traces_that_begin_here_or_come_in_zipkins_headers_are_exemplars() {
    let (mesh, _) = mesh(&tracing("{randomSamplingPercentage: 100}")).await;
    call(&mesh, &[]).await;
    let [client, _] = next(&mesh).await;
    let own = format!("# {{trace_id=\"{:032x}\"}}", client.ids.trace);
    assert!([0, 1].iter().all(|i| exemplars(&mesh, *i).contains(&own)), "{}", exemplars(&mesh, 0));

    let (mesh, _) = self::mesh(&tracing("{randomSamplingPercentage: 0}")).await;
    call(&mesh, &[]).await;
    assert_eq!((exemplars(&mesh, 0), exemplars(&mesh, 1)), (String::new(), String::new()), "it was not sampled");
    let span = ("x-b3-spanid", "00f067aa0ba902b7");
    for (headers, trace) in [
        ([("x-b3-traceid", "a3ce929d0e0e4736"), span, ("x-b3-sampled", "1")].as_slice(), "a3ce929d0e0e4736"),
        ([("b3", "b3ce929d0e0e4736-00f067aa0ba902b7-1")].as_slice(), "b3ce929d0e0e4736"),
    ] {
        call(&mesh, headers).await;
        let of = format!("# {{trace_id=\"{trace:0>32}\"}}");
        for i in [0, 1] {
            eventually("the trace is an exemplar", || exemplars(&mesh, i).contains(&of)).await;
        }
    }
}

#[tokio::test]
async fn an_id_of_a_request_decides_where_a_document_says_so() {
    let (mesh, seen) = mesh(&tracing("{randomSamplingPercentage: 0, useRequestIdForTraceSampling: true}")).await;
    call(&mesh, &[("x-request-id", "0000270f-58cc-9372-a567-0e02b2c3d479")]).await;
    let [client, server] = next(&mesh).await;
    assert!(client.is_sampled && server.is_sampled);
    assert!(seen.lock()["traceparent"].to_str().unwrap().ends_with("-01"));
    call(&mesh, &[("x-request-id", "0000270f-58cc-4372-a567-0e02b2c3d479")]).await;
    assert!(seen.lock()["traceparent"].to_str().unwrap().ends_with("-00"));

    let (mesh, seen) = self::mesh(&tracing("{randomSamplingPercentage: 50, useRequestIdForTraceSampling: true}")).await;
    call(&mesh, &[("x-request-id", "00000000-58cc-4372-a567-0e02b2c3d479")]).await;
    assert_eq!(seen.lock()["x-request-id"], "00000000-58cc-9372-a567-0e02b2c3d479", "who sees it later decides alike");
}
