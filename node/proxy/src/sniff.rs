//! What a client speaks, by its first bytes, where nobody declared it.

use rustls::server::Acceptor;

/// What bytes are the beginning of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// A request line of HTTP/1.
    Http1,
    /// HTTP/2's preface, with prior knowledge.
    Http2,
    /// A TLS ClientHello.
    Tls,
    /// Something else, that is carried as it comes.
    Other,
}

/// What every HTTP/2 connection begins with; no HTTP/1 method is like it.
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method, in bytes; the longest that is registered has 17.
const MAX_METHOD: usize = 32;
/// So much of a request line is looked at, in bytes. What is longer has no other reading.
pub const MAX_LEN: usize = 16 * 1024;

/// What the first bytes of a client are the beginning of; `None` while more are needed. Once it has an answer, more
/// bytes do not change it.
///
/// A method alone does not make a request, since protocols of lines have words like them (`GET key` of Redis): the
/// line must end with HTTP's version.
pub fn begins(bytes: &[u8]) -> Option<Begins> {
    match bytes {
        [] => None,
        [0x16, ..] => client_hello(bytes),
        _ if bytes.starts_with(HTTP2_PREFACE) => Some(Begins::Http2),
        _ if HTTP2_PREFACE.starts_with(bytes) => None,
        _ => request_line(bytes),
    }
}

/// RFC 8446 section 5.1: a record of type handshake, of a version that begins with 3, with a message of type
/// ClientHello.
fn client_hello(bytes: &[u8]) -> Option<Begins> {
    let fits = |(at, byte): (usize, &u8)| match at {
        0 => *byte == 0x16,
        1 => *byte == 3,
        2 => *byte <= 4,
        5 => *byte == 1,
        _ => true,
    };
    match bytes.iter().take(6).enumerate().all(fits) {
        false => Some(Begins::Other),
        true => (bytes.len() >= 6).then_some(Begins::Tls),
    }
}

/// RFC 9112 section 3, leniently: what is malformed is for HTTP's own reader to refuse.
fn request_line(bytes: &[u8]) -> Option<Begins> {
    const VERSION: &[u8] = b"HTTP/1.";
    let is_of_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let method = bytes.iter().take_while(|byte| is_of_method(byte)).count();
    if method > MAX_METHOD {
        return Some(Begins::Other);
    }
    let rest = bytes.get(method..).unwrap_or_default();
    let Some((b' ', rest)) = rest.split_first().filter(|_| method > 0) else {
        return (method == 0 || !rest.is_empty()).then_some(Begins::Other);
    };
    let is_of_target = |byte: &u8| *byte > b' ' && *byte != 0x7f;
    let target = rest.iter().take_while(|byte| is_of_target(byte)).count();
    let after = rest.get(target..).unwrap_or_default();
    let Some((b' ', version)) = after.split_first().filter(|_| target > 0) else {
        return match after.is_empty() {
            true if bytes.len() >= MAX_LEN => Some(Begins::Http1),
            true => None,
            false => Some(Begins::Other),
        };
    };
    match version.get(..VERSION.len()) {
        Some(begin) if begin == VERSION => Some(Begins::Http1),
        None if VERSION.starts_with(version) => None,
        _ => Some(Begins::Other),
    }
}

/// The server that a ClientHello names, if all of it is there.
pub fn server_name(mut bytes: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() && acceptor.read_tls(&mut bytes).ok()? > 0 {}
    acceptor.accept().ok()??.client_hello().server_name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_at(bytes: &[u8]) -> (Option<Begins>, usize) {
        let told = (1..=bytes.len()).find_map(|len| Some((begins(&bytes[..len])?, len)));
        told.map_or((None, bytes.len()), |(begins, len)| (Some(begins), len))
    }

    #[test]
    fn requests_prefaces_and_client_hellos_are_told_from_other_beginnings() {
        use Begins::{Http1, Http2, Other, Tls};
        for (bytes, expected, at) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Http1), 13),
            (b"M-SEARCH * HTTP/1.0\r\n", Some(Http1), 18),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Http1), 19),
            (HTTP2_PREFACE, Some(Http2), 24),
            (&[0x16, 3, 1, 2, 0, 1, 0], Some(Tls), 6),
            // A TLS record that is no ClientHello; something that begins with the same byte.
            (&[0x16, 3, 1, 2, 0, 2, 0], Some(Other), 6),
            (&[0x16, b'x'], Some(Other), 2),
            // Redis: inline, and as its clients say it.
            (b"GET key\r\n", Some(Other), 8),
            (b"*1\r\n$4\r\nPING\r\n", Some(Other), 1),
            (b"PING\r\n", Some(Other), 5),
            // PostgreSQL asks for TLS; NATS, SMTP.
            (&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], Some(Other), 1),
            (b"CONNECT {\"verbose\":false}\r\n", Some(Other), 26),
            (b"EHLO client.example\r\n", Some(Other), 20),
            // HTTP/0.9, lower case, HTTP/2 without its preface.
            (b"GET /\r\n", Some(Other), 6),
            (b"get / HTTP/1.1\r\n", Some(Other), 1),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Some(Other), 19),
            (b" GET / HTTP/1.1", Some(Other), 1),
            (b"GET  / HTTP/1.1", Some(Other), 5),
            // Not yet.
            (b"GET / HTTP", None, 10),
            (b"P", None, 1),
        ] {
            assert_eq!(told_at(bytes), (expected, at), "{}", String::from_utf8_lossy(bytes));
        }
        let endless = [b"GET /", &[b'a'; MAX_LEN][..]].concat();
        assert_eq!(told_at(&endless), (Some(Http1), MAX_LEN));
        assert_eq!(told_at(&[b'A'; 100]), (Some(Other), MAX_METHOD + 1));
    }
}
