//! Tunnels through proxies outside of the mesh and workloads in it, by CONNECT and by POST.

mod support;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use weft_proxy::config::ListenerProtocol;
use weft_wire::fact::Protocol;

/// What a proxy was asked: method, authority, version.
type Asked = Arc<Mutex<Vec<String>>>;

/// A proxy that connects to wherever it is asked to, by HTTP/1.1 or HTTP/2; or answers with `refusal`.
async fn proxy(refusal: Option<StatusCode>) -> (SocketAddr, Asked) {
    let (listener, asked) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Asked::default());
    let (address, log) = (listener.local_addr().unwrap(), asked.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = log.clone();
            let service = service_fn(move |request| answer(request, log.clone(), refusal));
            tokio::spawn(async move {
                let serving = auto::Builder::new(TokioExecutor::new());
                let _ = serving.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, asked)
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(mut request: Request<Incoming>, log: Asked, refusal: Option<StatusCode>) -> Result<Answer, Infallible> {
    let of_uri = request.uri().authority().map(ToString::to_string);
    let authority = of_uri.unwrap_or_else(|| request.headers()["host"].to_str().unwrap().to_owned());
    log.lock().push(format!("{} {authority} {:?}", request.method(), request.version()));
    let mut response = Response::new(Empty::new().boxed());
    if let Some(status) = refusal {
        *response.status_mut() = status;
        return Ok(response);
    }
    let mut upstream = TcpStream::connect(authority).await.unwrap();
    if request.method() == Method::CONNECT {
        tokio::spawn(async move {
            let mut client = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let _ = copy_bidirectional(&mut client, &mut upstream).await;
        });
        return Ok(response);
    }
    let (mut from, mut to) = upstream.into_split();
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            to.write_all(&frame.into_data().unwrap_or_default()).await.unwrap();
        }
        to.shutdown().await.unwrap();
    });
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut bytes = vec![0; 10_000];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let _ = sender.send(Ok(Frame::data(Bytes::copy_from_slice(&bytes[..count])))).await;
        }
    });
    let frames = futures_util::stream::unfold(receiver, async |mut frames| Some((frames.recv().await?, frames)));
    Ok(Response::new(BodyExt::boxed(StreamBody::new(frames))))
}

/// `db`, whose bytes go through a proxy that is a host outside of the mesh.
fn documents(proxy: SocketAddr, protocol: &str, tunnel: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: proxy }}
spec:
  hosts: [proxy.example.com]
  resolution: STATIC
  ports: [{{ name: main, number: 3128, protocol: {protocol}, targetPort: {} }}]
  endpoints: [{{ address: {} }}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: proxy }}
spec:
  host: proxy.example.com
  subsets: [{{ name: db, trafficPolicy: {{ tunnel: {{ {tunnel} }} }} }}]
---
{}",
        proxy.port(),
        proxy.ip(),
        routes("{host: proxy.example.com, subset: db, port: {number: 3128}}"),
    )
}

/// Sends what is for `db` elsewhere.
fn routes(destination: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: db }}
spec: {{ hosts: [db], tcp: [{{ route: [{{ destination: {destination} }}] }}] }}
"
    )
}

/// A client with a listener for `db`, which a workload of another node is as well.
async fn mesh(documents: &str) -> Mesh {
    let db = Plan { hosted: vec![hosted("db", "db-v1", Protocol::Tcp, nowhere().await)], ..Plan::default() };
    let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
    Mesh::start_with(documents, vec![client, db])
}

async fn reversed(mesh: &Mesh, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(mesh.client().listeners[0]).await.unwrap();
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut answer).await
    };
    let _ = within(exchange).await;
    answer
}

#[tokio::test]
async fn bytes_go_through_a_proxy_by_connect_or_post_in_either_version_of_http() {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    for (protocol, method, version) in [
        ("HTTP", "CONNECT", "HTTP/1.1"),
        ("TCP", "CONNECT", "HTTP/1.1"),
        ("HTTP2", "CONNECT", "HTTP/2.0"),
        ("HTTP", "POST", "HTTP/1.1"),
        ("HTTP2", "POST", "HTTP/2.0"),
    ] {
        let (target, (proxy, asked)) = (reverser().await, proxy(None).await);
        let tunnel = format!("protocol: {method}, targetHost: {}, targetPort: {}", target.ip(), target.port());
        let mesh = mesh(&documents(proxy, protocol, &tunnel)).await;
        let answer = reversed(&mesh, &bytes).await;
        assert!(answer.iter().rev().eq(bytes.iter()), "{protocol} {method}: {} bytes", answer.len());
        assert_eq!(*asked.lock(), [format!("{method} {target} {version}")]);
    }
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_ends_the_connection_and_is_told_of() {
    for (protocol, method) in [("HTTP", "CONNECT"), ("HTTP2", "CONNECT"), ("HTTP", "POST"), ("HTTP2", "POST")] {
        let (proxy, asked) = proxy(Some(StatusCode::FORBIDDEN)).await;
        let tunnel = format!("protocol: {method}, targetHost: db.example.com, targetPort: 5432");
        let mesh = mesh(&documents(proxy, protocol, &tunnel)).await;
        assert_eq!(reversed(&mesh, b"abc").await, b"");
        assert_eq!(asked.lock().len(), 1, "who may not go there does not ask twice");
        let refused = ["reporter=\"source\"", "response_flags=\"UF\""];
        assert_eq!(mesh.client().metric("istio_tcp_connections_opened_total", &refused), 1.0);
        let line = || mesh.client().log.text().contains("db.example.com:5432");
        eventually("the log says where it did not come to", line).await;

        let mut stream = TcpStream::connect(mesh.client().outbound).await.unwrap();
        stream.write_all(b"CONNECT db:9080 HTTP/1.1\r\nhost: db:9080\r\n\r\n").await.unwrap();
        let mut head = vec![0; 1_000];
        let count = within(stream.read(&mut head)).await.unwrap();
        let head = String::from_utf8_lossy(&head[..count]);
        assert!(head.starts_with("HTTP/1.1 503") && head.contains("x-weft-reason: tunnel_refused"), "{head}");
    }
}

#[tokio::test]
async fn a_proxy_may_be_a_workload_of_the_mesh_on_this_node_or_another() {
    for here in [true, false] {
        let (target, (address, asked)) = (reverser().await, proxy(None).await);
        let documents = format!(
            "{}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: egress }}\nspec:\n  \
             host: egress\n  trafficPolicy: {{ tunnel: {{ targetHost: {}, targetPort: {} }} }}\n",
            routes("{host: egress}"),
            target.ip(),
            target.port()
        );
        let egress = hosted("egress", "egress-v1", Protocol::Http, address);
        let db = hosted("db", "db-v1", Protocol::Tcp, nowhere().await);
        let client = Plan { listeners: vec![("db", ListenerProtocol::Tcp)], ..caller().await };
        let mut plans = vec![client, Plan { hosted: vec![db], ..Plan::default() }];
        plans[usize::from(!here)].hosted.push(egress);
        let mesh = Mesh::start_with(&documents, plans);
        assert_eq!(reversed(&mesh, b"abc").await, b"cba");
        assert_eq!(*asked.lock(), [format!("CONNECT {target} HTTP/1.1")]);
    }
}
