//! Who may talk to whom.

mod support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use weft_proxy::ports::{Caller, IdentitySnapshot};
use weft_wire::{fact::Protocol, id::ServiceAccount};

use support::*;

async fn reviews() -> Plan {
    Plan { hosted: vec![hosted("reviews", "reviews-v1", Protocol::Http, echo().await)], ..Plan::default() }
}

#[tokio::test]
async fn a_server_with_another_identity_is_refused_and_the_reason_names_both() {
    let impostor = Plan { impostor: Some("default/ratings"), ..reviews().await };
    let mesh = Mesh::start(vec![caller().await, impostor]);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["x-weft-reason"], "wrong_identity");
    let reason = read(response).await;
    assert!(reason.contains("spiffe://cluster.local/ns/default/sa/ratings"), "{reason}");
    assert!(reason.contains("spiffe://cluster.local/ns/default/sa/reviews"), "{reason}");
}

#[tokio::test]
async fn a_rule_may_name_whom_servers_have_to_be_on_other_nodes_and_on_this_one() {
    let [reviews_id, ratings_id] =
        ["reviews", "ratings"].map(|account| format!("spiffe://cluster.local/ns/default/sa/{account}"));
    for (names, is_let) in [
        (reviews_id.clone(), true),
        (format!("{ratings_id}, {reviews_id}"), true),
        (ratings_id.clone(), false),
        ("reviews.example.com".into(), false),
    ] {
        let rule = format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: reviews}}, spec: \
             {{host: reviews, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL, subjectAltNames: ['{}']}}}}}}}}",
            names.replace(", ", "', '")
        );
        for plans in [vec![caller().await, reviews().await], vec![reviews().await]] {
            let nodes = plans.len();
            let mesh = Mesh::start_with(&rule, plans);
            let response = send(mesh.client().outbound, get("reviews", "/")).await;
            if is_let {
                assert_eq!(response.status(), StatusCode::OK, "{names}, {nodes} nodes");
                continue;
            }
            assert_eq!(response.headers()["x-weft-reason"], "wrong_identity", "{names}, {nodes} nodes");
            let reason = read(response).await;
            assert!(reason.contains(&reviews_id), "{reason}");
        }
    }
}

#[tokio::test]
async fn a_server_of_a_foreign_root_is_refused() {
    let foreign = Plan { foreign: Some(Ca::new()), ..reviews().await };
    let mesh = Mesh::start(vec![caller().await, foreign]);
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.headers()["x-weft-reason"], "certificate_of_unknown_authority");
    assert!(read(response).await.contains("invalid peer certificate"));
}

#[tokio::test]
async fn plaintext_on_the_data_port_is_refused_and_counted() {
    let mesh = Mesh::start(vec![reviews().await]);
    let mut stream = TcpStream::connect(mesh.client().data_port()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    let refused = || mesh.client().metric("weft_inbound_handshakes_refused_total", &[]) == 1.0;
    eventually("it is counted", refused).await;
}

/// Connects to the data port of the only node, with the given certificate if any, and asks for `/`.
async fn ask(mesh: &Mesh, config: ClientConfig, sni: String) -> std::io::Result<Vec<u8>> {
    let tcp = TcpStream::connect(mesh.client().data_port()).await?;
    let name = ServerName::try_from(sni).unwrap();
    let mut stream = within(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn only_a_workload_or_node_of_the_mesh_gets_in() {
    let mesh = Mesh::start(vec![reviews().await]);
    let issue = |ca: &Ca, id: &str| Some(ca.issue(&id.parse().unwrap()));
    let foreign = Ca::new();
    for (certificate, gets_in) in [
        (issue(&mesh.ca, "spiffe://cluster.local/ns/default/sa/anybody"), true),
        (issue(&mesh.ca, "spiffe://cluster.local/node/n7"), true),
        (issue(&mesh.ca, "spiffe://cluster.local/operator/root"), false),
        (issue(&mesh.ca, "spiffe://other.example/ns/default/sa/anybody"), false),
        (issue(&foreign, "spiffe://cluster.local/ns/default/sa/anybody"), false),
        (None, false),
    ] {
        let answer = ask(&mesh, data_client(certificate, b"http/1.1"), mesh.client().server_name()).await;
        assert_eq!(answer.is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200")), gets_in);
    }
}

#[tokio::test]
async fn a_server_name_that_is_not_hosted_here_gets_no_certificate() {
    let mesh = Mesh::start(vec![reviews().await]);
    let certificate = mesh.ca.issue(&"spiffe://cluster.local/node/n7".parse().unwrap());
    let config = data_client(Some(certificate), b"http/1.1");
    assert!(ask(&mesh, config, "p1.ratings-v1.default.workload.cluster.local".into()).await.is_err());
}

#[tokio::test]
async fn a_workload_cannot_claim_a_name_that_its_account_does_not_have() {
    // Two workloads of one account: which one calls is known only by what the caller says.
    let mesh = Mesh::start(vec![reviews().await]);
    let certificate = mesh.ca.issue(&"spiffe://cluster.local/ns/default/sa/other".parse().unwrap());
    let tcp = TcpStream::connect(mesh.client().data_port()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(data_client(Some(certificate), b"http/1.1")));
    let mut stream =
        within(connector.connect(ServerName::try_from(mesh.client().server_name()).unwrap(), tcp)).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nx-weft-source: default/reviews-v1\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let _ = within(stream.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("x-weft-source"), "{answer}");
    let labels = ["reporter=\"destination\"", "source_workload=\"unknown\""];
    eventually("it is counted", || mesh.client().metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_rotated_identity_is_used_by_new_connections_and_an_expired_one_is_not_reused() {
    let mut mesh = Mesh::start(vec![caller().await, reviews().await]);
    let account: ServiceAccount = "default/productpage".parse().unwrap();
    let hash = |seen: &str| seen.split("Hash=").nth(1).unwrap().split(';').next().unwrap().to_owned();
    let publish = |mesh: &mut Mesh, not_after| {
        let workloads = [(account.clone(), identity(&mesh.ca, &account, not_after))].into_iter().collect();
        let default_caller = Some(Arc::new(Caller::new(account.clone(), None)));
        let roots = mesh.ca.roots();
        let revocations = Arc::default();
        let snapshot = IdentitySnapshot { trust_domain: trust_domain(), roots, revocations, workloads, default_caller };
        mesh.nodes[0].publish_identities(snapshot);
    };
    let soon = SystemTime::now() + Duration::from_secs(2);
    publish(&mut mesh, soon);
    let first = hash(&read(send(mesh.client().outbound, get("reviews", "/")).await).await);
    publish(&mut mesh, soon + Duration::from_secs(3_600));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = hash(&read(send(mesh.client().outbound, get("reviews", "/")).await).await);
        if now != first {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the old certificate is still used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(SystemTime::now() >= soon - Duration::from_millis(100), "the connection lived as long as its certificate");
}

#[tokio::test]
async fn a_connection_is_not_reused_once_the_service_may_no_longer_be_its_server() {
    let mut mesh = Mesh::start(vec![caller().await, reviews().await]);
    assert_eq!(send(mesh.client().outbound, get("reviews", "/")).await.status(), StatusCode::OK);
    mesh.nodes[1].hosted[0].row.service_account = "other".parse().unwrap();
    mesh.publish();
    // The old connection would have served; the new one finds no certificate for the new account.
    let response = send(mesh.client().outbound, get("reviews", "/")).await;
    assert_eq!(response.headers()["x-weft-reason"], "tls_failure");
}
