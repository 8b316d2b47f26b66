use std::time::Duration;

use http_body_util::BodyExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::{Builder, LocalOptions},
    task::yield_now,
    time::timeout,
};

use super::*;
use crate::body::ByHand;

/// As a worker runs it.
fn local(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(20), test).await.unwrap() });
}

fn pair() -> (Client<DuplexStream>, DuplexStream) {
    let (near, far) = tokio::io::duplex(64 << 10);
    (Client::new(near, Rc::default()), far)
}

fn get(path: &str) -> Request<RequestBody> {
    Request::get(path).header("host", "a").body(RequestBody::Empty).unwrap()
}

async fn text(response: Response<Received<DuplexStream>>) -> Result<String, Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(bytes.into()).unwrap())
}

/// What is made of an answer that comes in two parts, and whether the connection may go on.
async fn exchange(request: Request<RequestBody>, answer: &str, split: usize) -> (Result<String, Error>, bool) {
    let (mut client, mut far) = pair();
    let (first, rest) = answer.as_bytes().split_at(split);
    let serve = async {
        far.write_all(first).await.unwrap();
        yield_now().await;
        far.write_all(rest).await.unwrap();
    };
    let call = async {
        match client.send(request).await {
            Ok(response) => text(response).await,
            Err(error) => Err(error),
        }
    };
    let (read, ()) = tokio::join!(call, serve);
    (read, client.is_open())
}

#[test]
fn a_response_is_the_same_wherever_its_bytes_are_split() {
    local(async {
        for (answer, body, goes_on) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n002;x=y\r\nbc\r\n0\r\n\r\n", "abc", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n", "abc", true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", "", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", "", true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\nabc", "", false),
            ("HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 3\r\n\r\nabc", "abc", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", "abc", false),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nabc", "abc", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcH", "abc", false),
        ] {
            for split in 0..=answer.len() {
                let (read, is_open) = exchange(get("/"), answer, split).await;
                assert_eq!((read.unwrap().as_str(), is_open), (body, goes_on), "{answer:?} at {split}");
            }
        }
        let to_head = || Request::head("/").body(RequestBody::Empty).unwrap();
        let (read, is_open) = exchange(to_head(), "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", 5).await;
        assert_eq!((read.unwrap().as_str(), is_open), ("", true));
    });
}

#[test]
fn what_is_no_response_is_said_to_be_none() {
    local(async {
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        for answer in [
            "nonsense\r\n\r\n",
            "HTTP/1.1 200 OK\na: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na\0: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            &many,
            &long,
        ] {
            for split in [0, 1, answer.len() / 2, answer.len() - 1] {
                let (near, mut far) = tokio::io::duplex(128 << 10);
                let mut client = Client::new(near, Rc::default());
                far.write_all(&answer.as_bytes()[..split]).await.unwrap();
                let (sent, ()) = tokio::join!(client.send(get("/")), async {
                    yield_now().await;
                    far.write_all(&answer.as_bytes()[split..]).await.unwrap();
                });
                let shown = answer.get(..60).unwrap_or(answer);
                assert!(matches!(sent, Err(Error::Malformed(_))), "{shown:?} at {split}: {:?}", sent.err());
                assert!(!client.may_go_on());
            }
        }
        for (body, why) in [("1\nabc", Refusal::LineEnd), ("x\r\nabc", Refusal::Chunk)] {
            let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
            let (read, is_open) = exchange(get("/"), &answer, answer.len() - 3).await;
            assert!(matches!(read, Err(Error::MalformedBody(said)) if said == why), "{body:?}: {read:?}");
            assert!(!is_open);
        }
    });
}

/// Whatever comes is read in bounded time, without a panic, and alike however it is split.
#[test]
fn what_random_bytes_make_of_responses_is_the_same_wherever_they_are_split() {
    local(async {
        let answers = [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx: y\r\n\r\nabc",
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\nabc",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
        ];
        let pieces = [
            &b"\r\n"[..],
            b"\n",
            b":",
            b" ",
            b"\0",
            b"0",
            b"9",
            b"f",
            b"\xff",
            b"HTTP/1.1 204 No\r\n\r\n",
            b"connection: close\r\n",
        ];
        let read = async |bytes: &[u8], at: usize| {
            let (mut client, mut far) = pair();
            let serve = async {
                far.write_all(&bytes[..at]).await.unwrap();
                yield_now().await;
                far.write_all(&bytes[at..]).await.unwrap();
                far.shutdown().await.unwrap();
            };
            let call = async {
                let response = client.send(get("/")).await?;
                let head = format!("{:?} {:?}", response.status(), response.headers());
                let body = response.into_body().collect().await?;
                Ok((head, body.trailers().cloned(), body.to_bytes()))
            };
            let (read, ()) = tokio::join!(call, serve);
            read.map_err(|error: Error| error.to_string())
        };
        let mut random = SmallRng::seed_from_u64(5);
        for answer in answers {
            for _ in 0..500 {
                let mut bytes = answer.as_bytes().to_vec();
                for _ in 0..random.random_range(1..4) {
                    let at = random.random_range(0..bytes.len());
                    let end = (at + random.random_range(0..4)).min(bytes.len());
                    bytes.splice(at..end, pieces[random.random_range(0..pieces.len())].iter().copied());
                }
                let at = random.random_range(0..=bytes.len());
                assert_eq!(
                    read(&bytes, at).await,
                    read(&bytes, 0).await,
                    "{:?} at {at}",
                    String::from_utf8_lossy(&bytes)
                );
            }
        }
    });
}

#[test]
fn an_end_is_told_by_what_came_before_it() {
    local(async {
        let answered = async |answer: &'static str| {
            let (mut client, mut far) = pair();
            far.write_all(answer.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            let read = match client.send(get("/")).await {
                Ok(response) => text(response).await,
                Err(error) => Err(error),
            };
            assert!(!client.is_open());
            read
        };
        assert!(matches!(answered("").await, Err(Error::Closed)));
        assert!(matches!(answered("HTTP/1.1 20").await, Err(Error::Incomplete)));
        assert!(matches!(answered("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc").await, Err(Error::Incomplete)));
        assert!(matches!(
            answered("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await,
            Err(Error::Incomplete)
        ));
        assert_eq!(answered("HTTP/1.1 200 OK\r\n\r\nabc").await.unwrap(), "abc");
    });
}

#[test]
fn a_connection_that_was_closed_or_spoken_on_between_exchanges_is_not_open() {
    local(async {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        for is_spoken in [false, true] {
            let (mut client, mut far) = pair();
            far.write_all(answer).await.unwrap();
            text(client.send(get("/")).await.unwrap()).await.unwrap();
            assert!(client.is_open());
            if is_spoken {
                far.write_all(answer).await.unwrap();
            } else {
                drop(far);
            }
            assert!(!client.is_open() && !client.may_go_on());
        }
    });
}

/// What a request is on the wire.
async fn sent(request: Request<RequestBody>, act: impl FnOnce()) -> String {
    let (mut client, mut far) = pair();
    let mut wire = vec![0; 64 << 10];
    let mut length = 0;
    let read = async {
        act();
        while length < wire.len() {
            match timeout(Duration::from_millis(20), far.read(&mut wire[length..])).await {
                Ok(read) => length += read.unwrap(),
                Err(_) => break,
            }
        }
    };
    tokio::select! {
        answered = client.send(request) => panic!("nobody has answered: {:?}", answered.err()),
        () = read => {}
    }
    wire.truncate(length);
    String::from_utf8(wire).unwrap()
}

fn post(body: RequestBody, headers: &[(&str, &str)]) -> Request<RequestBody> {
    let request = Request::post("/a?b");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body).unwrap()
}

#[test]
fn a_request_says_once_where_it_ends() {
    local(async {
        assert_eq!(sent(get("/"), || {}).await, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let none = post(RequestBody::Empty, &[("content-length", "0"), ("transfer-encoding", "chunked")]);
        assert_eq!(sent(none, || {}).await, "POST /a?b HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        let whole = post(RequestBody::whole("abc".into()), &[]);
        assert_eq!(sent(whole, || {}).await, "POST /a?b HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc");

        // What was announced is what is sent, and not more.
        let (hand, body) = ByHand::body(None);
        let announced = post(body, &[("content-length", "4")]);
        let text = sent(announced, || {
            hand.data(b"ab");
            hand.data(b"cde");
        });
        assert_eq!(text.await, "POST /a?b HTTP/1.1\r\ncontent-length: 4\r\n\r\nabcd");

        let (hand, body) = ByHand::body(None);
        let named = [("trailer", "x-a, content-length"), ("x", "y")];
        let text = sent(post(body, &named), move || {
            hand.data(b"ab");
            hand.data(b"cdefghijklm");
            let trailers = [("x-a", "1"), ("x-b", "2"), ("content-length", "3")];
            hand.trailers(
                trailers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
            );
            hand.end();
        });
        let head = "POST /a?b HTTP/1.1\r\ntrailer: x-a, content-length\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(text.await, format!("{head}2\r\nab\r\nb\r\ncdefghijklm\r\n0\r\nx-a: 1\r\n\r\n"));
    });
}

#[test]
fn long_pieces_of_a_body_arrive_in_their_order() {
    local(async {
        let long = "0123456789".repeat(1_000);
        for (length, frame) in [(Some(30_006), ""), (None, "2710\r\n")] {
            let (hand, body) = ByHand::body(length);
            let text = sent(post(body, &[]), || {
                for _ in 0..3 {
                    hand.data(b"ab");
                    hand.data(long.as_bytes());
                }
                hand.end();
            });
            let (text, end) = (text.await, if frame.is_empty() { "" } else { "\r\n" });
            let short = if frame.is_empty() { "ab".to_owned() } else { "2\r\nab\r\n".to_owned() };
            let last = if frame.is_empty() { "" } else { "0\r\n\r\n" };
            let expected = format!("{short}{frame}{long}{end}").repeat(3) + last;
            assert!(text.ends_with(&format!("\r\n\r\n{expected}")), "{}", text.len());
        }
    });
}

#[test]
fn a_request_whose_body_breaks_off_ends_the_connection() {
    local(async {
        for (length, ends) in [(Some(3), true), (Some(3), false), (None, false)] {
            let (mut client, _far) = pair();
            let (hand, body) = ByHand::body(length);
            hand.data(b"ab");
            if ends {
                hand.end()
            } else {
                drop(hand)
            }
            let error = client.send(post(body, &[])).await.err().unwrap();
            assert!(
                if ends { matches!(error, Error::RequestTooShort) } else { matches!(error, Error::Request(_)) },
                "{error}"
            );
            assert!(!client.may_go_on());
        }
    });
}

#[test]
fn a_request_answered_before_its_end_is_sent_to_its_end() {
    local(async {
        let (mut client, mut far) = pair();
        let (hand, body) = ByHand::body(Some(6));
        hand.data(b"abc");
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        let response = client.send(post(body, &[])).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "ok");
        assert!(!client.is_done() && client.may_go_on());
        hand.data(b"def");
        let mut request = vec![0; 47];
        far.read_exact(&mut request).await.unwrap();
        assert!(request.ends_with(b"\r\n\r\nabcdef"), "{}", String::from_utf8_lossy(&request));
        while !client.is_done() {
            yield_now().await;
        }
        assert!(client.is_open());
    });
}

#[test]
fn who_reads_a_response_hears_that_the_request_broke_off() {
    local(async {
        let (mut client, mut far) = pair();
        let (hand, body) = ByHand::body(None);
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").await.unwrap();
        let response = client.send(post(body, &[])).await.unwrap();
        let (read, ()) = tokio::join!(text(response), async {
            yield_now().await;
            drop(hand);
        });
        assert!(matches!(read, Err(Error::Request(_))), "{read:?}");
        assert!(!client.may_go_on());
    });
}

#[test]
fn a_connection_that_switches_is_a_tunnel_from_its_next_byte_on() {
    local(async {
        let (mut client, mut far) = pair();
        let (sent, ()) = tokio::join!(client.send(get("/")), async {
            assert!(far.read(&mut [0; 1_024]).await.unwrap() > 0);
            far.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nabc").await.unwrap();
        });
        let (head, body) = sent.unwrap().into_parts();
        assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
        assert!(body.is_end_stream() && !client.may_go_on());
        let mut tunnel = client.into_tunnel().unwrap();
        far.write_all(b"def").await.unwrap();
        let mut read = [0; 6];
        tunnel.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcdef");

        let (mut client, mut far) = pair();
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        client.send(get("/")).await.unwrap();
        assert!(client.into_tunnel().is_none());
    });
}
