//! gRPC's health checking protocol: one `Check` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use std::{net::SocketAddr, pin::pin};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{ProbeError, USER_AGENT, connect};

/// Longest answer that is read, in bytes. It holds one number.
const MAX_ANSWER: usize = 1_024;
const SERVING: u64 = 1;

/// Asks a server of HTTP/2 whether it serves `service`; empty is the server as a whole.
pub(super) async fn check(address: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::new(question(service)))
        .map_err(|source| ProbeError::Request { what: format!("service {service:?}"), source })?;
    let stream = TokioIo::new(connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    let mut answer = pin!(async { judge(sender.send_request(request).await?).await });
    // Driven here rather than in a task of its own: dropping the probe then closes the connection.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// A message `HealthCheckRequest { service: string = 1 }`, in gRPC's frame.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        let mut rest = service.len();
        while rest >= 0x80 {
            message.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        message.put_u8(rest as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

async fn judge(response: Response<Incoming>) -> Result<(), ProbeError> {
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(ProbeError::Status(head.status));
    }
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| ProbeError::Grpc(error.to_string()))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let code = |headers: &HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
    match code(&trailers).or_else(|| code(&head.headers)).as_deref() {
        Some("0") => {}
        Some("12") => return Err(ProbeError::Grpc("it does not serve grpc.health.v1.Health".into())),
        Some("5") => return Err(ProbeError::Grpc("it knows no such service".into())),
        Some(code) => return Err(ProbeError::Grpc(format!("grpc-status {code}"))),
        None => return Err(ProbeError::Grpc("no grpc-status".into())),
    }
    match serving_status(body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(2) => Err(ProbeError::Grpc("NOT_SERVING".into())),
        Some(status) => Err(ProbeError::Grpc(format!("serving status {status}"))),
        None => Err(ProbeError::Grpc("a message that is no HealthCheckResponse".into())),
    }
}

/// Of `HealthCheckResponse { status: enum = 1 }`, in gRPC's frame; unknown fields are passed over.
fn serving_status(mut framed: Bytes) -> Option<u64> {
    if framed.remaining() < 5 || framed.get_u8() != 0 || framed.get_u32() as usize != framed.remaining() {
        return None;
    }
    let mut status = 0;
    while framed.has_remaining() {
        let tag = varint(&mut framed)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut framed)?,
            (_, 0) => drop(varint(&mut framed)?),
            (_, 2) => {
                let len = usize::try_from(varint(&mut framed)?).ok().filter(|len| *len <= framed.remaining())?;
                framed.advance(len);
            }
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.has_remaining().then(|| bytes.get_u8())?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http_body_util::StreamBody;
    use hyper::{body::Frame, service::service_fn};
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;
    use crate::health::Probe;

    /// A server that answers one call with this message and code, and who asks for it.
    async fn server(message: &'static [u8], code: &'static str) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, mut question) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()["content-type"], "application/grpc");
                    asked.send(request.into_body().collect().await.unwrap().to_bytes().to_vec()).await.unwrap();
                    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
                    let frames = [Frame::data(Bytes::from_static(message)), Frame::trailers(trailers)];
                    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        (port, tokio::spawn(async move { question.recv().await.unwrap() }))
    }

    #[tokio::test]
    async fn only_serving_is_well() {
        for (message, code, well) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], "0", true),
            (&[0, 0, 0, 0, 2, 8, 2], "0", false),
            (&[0, 0, 0, 0, 0], "0", false),
            (&[0, 0, 0, 0, 2, 8, 1], "14", false),
            (&[], "12", false),
            (&[], "5", false),
            (&[1, 0, 0, 0, 2, 8, 1], "0", false),
        ] {
            let (port, question) = server(message, code).await;
            let probe = Probe::Grpc { service: "shop".into(), port };
            let result = probe.run([127, 0, 0, 1].into(), Duration::from_secs(10)).await;
            assert_eq!(result.is_ok(), well, "{message:?} {code}: {result:?}");
            assert_eq!(question.await.unwrap(), b"\0\0\0\0\x06\x0a\x04shop");
        }
    }

    #[test]
    fn the_server_as_a_whole_is_an_empty_message() {
        assert_eq!(*question(""), [0; 5]);
        assert_eq!(question(&"s".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    proptest! {
        #[test]
        fn no_bytes_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = serving_status(bytes.into());
        }
    }
}
