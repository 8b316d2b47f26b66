//! Where messages begin and end in a stream of HTTP/1 bytes, read in the one way that leaves no doubt.
//!
//! hyper reads what it is given leniently, as RFC 9112 allows: a line may end with LF alone, a message may have two
//! lengths. What we forward is then right, but whoever stands before or behind us may have read the same bytes
//! otherwise, and that is all that request smuggling needs. So bytes pass here first, and what could be read in two
//! ways is refused (RFC 9112 sections 2.2, 5.2, 6.3 and 7.1). Names, values and targets are left to httparse, which
//! hyper reads by and we, and which reads each line that passes here in the same way.

use memchr::{memchr, memchr2};

/// A chunk's line with its extensions, in bytes.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// Interim responses before the final one.
const MAX_INTERIM: u32 = 32;

/// Why bytes do not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a line that does not end with CR LF")]
    LineEnd,
    #[error("a header that goes on in a second line")]
    FoldedHeader,
    #[error("both Content-Length and Transfer-Encoding")]
    TwoFramings,
    #[error("several Content-Length or several Transfer-Encoding headers")]
    RepeatedFraming,
    #[error("a Content-Length that is no number")]
    ContentLength,
    #[error("a Transfer-Encoding that is not chunked in the end, or chunked twice")]
    TransferEncoding,
    #[error("a malformed chunk")]
    Chunk,
    #[error("trailers that are too long, or that say where the message ends")]
    Trailers,
    #[error("a target with a fragment")]
    Fragment,
    #[error("a malformed status line")]
    StatusLine,
    #[error("too many interim responses")]
    Interim,
}

/// The first byte that may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub at: usize,
    pub why: Refusal,
    /// In a body or its trailers, so that the message's head has passed already.
    pub in_body: bool,
}

/// Which side of an exchange the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Requests,
    Responses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a message's first line.
    Start,
    Fields,
    Body {
        left: u64,
    },
    ChunkLine,
    Chunk {
        left: u64,
    },
    /// The line end after a chunk's bytes; how much of it has come.
    ChunkEnd {
        seen_cr: bool,
    },
    Trailers,
    /// Bytes that are not looked at: a tunnel, a body that ends with its connection, or a head that is longer than
    /// hyper takes.
    Opaque,
}

/// What a head has said so far of what follows it.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    content_length: Option<u64>,
    is_chunked: bool,
    /// The connection may become a tunnel after this message.
    may_switch: bool,
    is_http_11: bool,
    status: u16,
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub struct Framing {
    side: Side,
    max_head: usize,
    state: State,
    head: Head,
    /// A line of which only the beginning has come.
    line: Vec<u8>,
    /// Bytes of this head, or of these trailers, so far.
    section: usize,
    interim: u32,
}

impl Framing {
    /// `max_head`: in bytes; what is longer passes, for hyper to refuse with the right status.
    pub fn new(side: Side, max_head: usize) -> Self {
        let (state, head, line) = (State::Start, Head::default(), Vec::new());
        Self { side, max_head, state, head, line, section: 0, interim: 0 }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    /// Whether the bytes so far end between two messages.
    pub fn is_between_messages(&self) -> bool {
        self.state == State::Start && self.line.is_empty()
    }

    /// Whether the bytes so far end within a head.
    pub fn is_in_head(&self) -> bool {
        self.state == State::Fields || (self.state == State::Start && self.section > 0)
    }

    /// Whether more of a message is to come, as far as is looked at.
    pub fn is_in_message(&self) -> bool {
        self.state != State::Opaque && (self.state != State::Start || self.section > 0)
    }

    /// Follows the next bytes. `answers_head`: the response that they belong to answers a HEAD request.
    pub fn pass(&mut self, bytes: &[u8], answers_head: bool) -> Result<(), Refused> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let taken = match &mut self.state {
                State::Opaque => return Ok(()),
                State::Body { left } | State::Chunk { left } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.after_bytes();
                    }
                    Ok(taken)
                }
                State::ChunkEnd { seen_cr } => {
                    let expected = if *seen_cr { b'\n' } else { b'\r' };
                    match (rest.first() == Some(&expected), *seen_cr) {
                        (false, _) => Err(Refusal::Chunk),
                        (true, false) => {
                            *seen_cr = true;
                            Ok(1)
                        }
                        (true, true) => {
                            self.state = State::ChunkLine;
                            Ok(1)
                        }
                    }
                }
                State::Start | State::Fields | State::ChunkLine | State::Trailers => self.line(rest, answers_head),
            };
            let in_body = !matches!(self.state, State::Start | State::Fields);
            at += taken.map_err(|why| Refused { at, why, in_body })?;
        }
        Ok(())
    }

    /// The counted bytes of a body or chunk are over.
    fn after_bytes(&mut self) {
        match self.state {
            State::Chunk { .. } => self.state = State::ChunkEnd { seen_cr: false },
            _ => self.message_ended(),
        }
    }

    fn message_ended(&mut self) {
        self.state = if self.head.may_switch { State::Opaque } else { State::Start };
        (self.head, self.section, self.interim) = (Head::default(), 0, 0);
    }

    /// Takes bytes up to a line's end, or all of them if it has not come yet.
    fn line(&mut self, rest: &[u8], answers_head: bool) -> Result<usize, Refusal> {
        // The CR may have been the last byte of what came before.
        let after_cr = self.line.last() == Some(&b'\r');
        let end = if after_cr { Some(0) } else { memchr2(b'\r', b'\n', rest) };
        let taken = match end {
            None => rest.len(),
            Some(end) if after_cr => match rest.first() {
                Some(b'\n') => end + 1,
                _ => return Err(Refusal::LineEnd),
            },
            Some(end) => match (rest.get(end), rest.get(end + 1)) {
                (Some(b'\r'), Some(b'\n')) => end + 2,
                (Some(b'\r'), None) => end + 1,
                _ => return Err(Refusal::LineEnd),
            },
        };
        self.section += taken;
        let (line, _) = rest.split_at(taken.min(rest.len()));
        let limit = if self.state == State::ChunkLine { MAX_CHUNK_LINE } else { self.max_head };
        let length = if self.state == State::ChunkLine { self.line.len() + taken } else { self.section };
        if length > limit {
            match self.state {
                State::ChunkLine => return Err(Refusal::Chunk),
                State::Trailers => return Err(Refusal::Trailers),
                _ => self.state = State::Opaque,
            }
            return Ok(taken);
        }
        if !line.ends_with(b"\n") {
            self.line.extend_from_slice(line);
            return Ok(taken);
        }
        if self.line.is_empty() {
            self.complete_line(without_end(line), answers_head)?;
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.complete_line(without_end(&whole), answers_head)?;
            whole.clear();
            self.line = whole;
        }
        Ok(taken)
    }

    fn complete_line(&mut self, line: &[u8], answers_head: bool) -> Result<(), Refusal> {
        match self.state {
            // RFC 9112 section 2.2: empty lines before a message mean nothing.
            State::Start if line.is_empty() => Ok(()),
            State::Start => {
                self.first_line(line)?;
                self.state = State::Fields;
                Ok(())
            }
            State::Fields if line.is_empty() => self.head_ended(answers_head),
            State::Fields => self.field(line),
            State::Trailers if line.is_empty() => {
                self.message_ended();
                Ok(())
            }
            State::Trailers => trailer(line),
            State::ChunkLine => {
                self.state = match chunk_size(line).ok_or(Refusal::Chunk)? {
                    0 => {
                        self.section = 0;
                        State::Trailers
                    }
                    left => State::Chunk { left },
                };
                Ok(())
            }
            State::Body { .. } | State::Chunk { .. } | State::ChunkEnd { .. } | State::Opaque => Ok(()),
        }
    }

    fn first_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.head = Head::default();
        match self.side {
            Side::Requests => {
                // hyper would cut it off: other readers would not (RFC 9112 section 3.2 knows no fragments).
                if memchr(b'#', line).is_some() {
                    return Err(Refusal::Fragment);
                }
                self.head.is_http_11 = line.ends_with(b" HTTP/1.1");
                self.head.may_switch = line.starts_with(b"CONNECT ");
            }
            Side::Responses => {
                let digits = line.get(9..12).filter(|digits| digits.iter().all(u8::is_ascii_digit));
                let status = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|s| s.parse().ok());
                self.head.status = status.ok_or(Refusal::StatusLine)?;
                self.head.is_http_11 = line.starts_with(b"HTTP/1.1 ");
            }
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err(Refusal::FoldedHeader);
        }
        if let Some(value) = value_of(line, b"content-length:") {
            let length = decimal(value).ok_or(Refusal::ContentLength)?;
            if self.head.content_length.replace(length).is_some() {
                return Err(Refusal::RepeatedFraming);
            }
        } else if let Some(value) = value_of(line, b"transfer-encoding:") {
            if std::mem::replace(&mut self.head.is_chunked, true) {
                return Err(Refusal::RepeatedFraming);
            }
            is_chunked_once_and_last(value).then_some(()).ok_or(Refusal::TransferEncoding)?;
        } else if self.side == Side::Requests
            && let Some(value) = value_of(line, b"upgrade:")
        {
            self.head.may_switch |= self.head.is_http_11 && is_switch(value);
        }
        Ok(())
    }

    fn head_ended(&mut self, answers_head: bool) -> Result<(), Refusal> {
        let Head { content_length, is_chunked, status, .. } = self.head;
        if is_chunked && content_length.is_some() {
            return Err(Refusal::TwoFramings);
        }
        if self.side == Side::Responses {
            match status {
                101 => {
                    self.state = State::Opaque;
                    return Ok(());
                }
                100..200 => {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Err(Refusal::Interim);
                    }
                    (self.state, self.section) = (State::Start, 0);
                    return Ok(());
                }
                204 | 304 => {
                    self.message_ended();
                    return Ok(());
                }
                _ if answers_head => {
                    self.message_ended();
                    return Ok(());
                }
                _ => {}
            }
        }
        match (is_chunked, content_length) {
            (true, _) => self.state = State::ChunkLine,
            (false, Some(left)) if left > 0 => self.state = State::Body { left },
            (false, None) if self.side == Side::Responses => self.state = State::Opaque,
            (false, _) => self.message_ended(),
        }
        Ok(())
    }
}

/// Whether an Upgrade header may lead to another protocol. h2c is never switched to; clients that offer it go on with
/// HTTP/1.1 on the same connection.
pub(super) fn is_switch(upgrade: &[u8]) -> bool {
    !trim(upgrade).eq_ignore_ascii_case(b"h2c")
}

fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r\n").unwrap_or(line)
}

/// The value of a header line whose name, with its colon, is `name`.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| trim(value))
}

/// Without the optional white space of RFC 9110 section 5.6.3 around it.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    // 18 digits always fit.
    let are_digits = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    are_digits.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// RFC 9112 section 6.1. Other codings before it are for the proxy to refuse, which can say that it lacks them.
fn is_chunked_once_and_last(value: &[u8]) -> bool {
    let mut codings = value.split(|byte| *byte == b',').map(trim).rev();
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    codings.next().is_some_and(is_chunked) && !codings.any(is_chunked)
}

/// The size that a chunk's line gives (RFC 9112 section 7.1); extensions are read over, if they are such.
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    // 15 digits are far beyond any size, and always fit.
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    if !rest.is_empty() {
        let starts_well = trim(rest).starts_with(b";");
        let is_text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        if !starts_well || !rest.iter().all(is_text) {
            return None;
        }
    }
    std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok())
}

/// RFC 9110 section 6.5.1: a trailer may not change what the message is.
fn trailer(line: &[u8]) -> Result<(), Refusal> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Refusal::FoldedHeader);
    }
    let name = memchr(b':', line).and_then(|colon| line.get(..colon)).ok_or(Refusal::Trailers)?;
    let decides = [&b"content-length"[..], b"transfer-encoding", b"host", b"trailer", b"connection"];
    if decides.iter().any(|known| name.eq_ignore_ascii_case(known)) { Err(Refusal::Trailers) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(side: Side, bytes: &[u8], answers_head: bool) -> Result<bool, Refusal> {
        let whole = {
            let mut framing = Framing::new(side, 1_000);
            framing.pass(bytes, answers_head).map(|()| framing.is_between_messages()).map_err(|refused| refused.why)
        };
        // However the bytes come, they mean the same.
        for size in 1..8 {
            let mut framing = Framing::new(side, 1_000);
            let passed = bytes.chunks(size).try_for_each(|bytes| framing.pass(bytes, answers_head));
            let split = passed.map(|()| framing.is_between_messages()).map_err(|refused| refused.why);
            assert_eq!(split, whole, "in pieces of {size}: {}", bytes.escape_ascii());
        }
        whole
    }

    fn request(bytes: &str) -> Result<bool, Refusal> {
        read(Side::Requests, bytes.as_bytes(), false)
    }

    #[test]
    fn messages_are_followed_to_their_ends() {
        for whole in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:  3\t \r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0A;a=\"b\"\r\n0123456789\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0 ; x\r\na: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\nupgrade: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(request(whole), Ok(true), "{whole:?}");
        }
        for open in [
            "GET / HTTP/1.1\r\nhost: a\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\nany\nbytes\r",
            "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n\n\n\0",
            "POST / HTTP/1.1\r\nupgrade: x\r\ncontent-length: 1\r\n\r\na\n\n\0",
        ] {
            assert_eq!(request(open), Ok(false), "{open:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use Refusal::*;
        let post = "POST / HTTP/1.1\r\n";
        for (refused, why) in [
            ("GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(), LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n".to_owned(), LineEnd),
            ("GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n".to_owned(), LineEnd),
            ("\nGET / HTTP/1.1\r\n\r\n".to_owned(), LineEnd),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n".to_owned(), FoldedHeader),
            ("GET / HTTP/1.1\r\n\ta: b\r\n\r\n".to_owned(), FoldedHeader),
            ("GET /a#b HTTP/1.1\r\n\r\n".to_owned(), Fragment),
            (format!("{post}content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"), TwoFramings),
            (format!("{post}transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n"), TwoFramings),
            (format!("{post}content-length: 1\r\ncontent-length: 1\r\n\r\na"), RepeatedFraming),
            (format!("{post}transfer-encoding: gzip, chunked\r\ntransfer-encoding: chunked\r\n\r\n"), RepeatedFraming),
            (format!("{post}content-length: 1, 1\r\n\r\na"), ContentLength),
            (format!("{post}content-length: +1\r\n\r\na"), ContentLength),
            (format!("{post}content-length: 0x1\r\n\r\na"), ContentLength),
            (format!("{post}content-length:\r\n\r\n"), ContentLength),
            (format!("{post}content-length: 1234567890123456789\r\n\r\n"), ContentLength),
            (format!("{post}transfer-encoding: xchunked\r\n\r\n"), TransferEncoding),
            (format!("{post}transfer-encoding: chunked, gzip\r\n\r\n"), TransferEncoding),
            (format!("{post}transfer-encoding: chunked, chunked\r\n\r\n"), TransferEncoding),
            (format!("{post}transfer-encoding: \"chunked\"\r\n\r\n"), TransferEncoding),
            (format!("{post}transfer-encoding: chunked;a=b\r\n\r\n"), TransferEncoding),
        ] {
            assert_eq!(request(&refused), Err(why), "{refused:?}");
        }
        for (body, why) in [
            ("x\r\n", Chunk),
            ("\r\n", Chunk),
            ("-1\r\n", Chunk),
            ("0x1\r\na\r\n", Chunk),
            ("1 \r\na\r\n", Chunk),
            ("1 1\r\na\r\n", Chunk),
            ("1;a\0b\r\na\r\n", Chunk),
            ("1;a\nb\r\na\r\n", LineEnd),
            ("1\na\r\n", LineEnd),
            ("1\r\nab\r\n", Chunk),
            ("1\r\na\n", Chunk),
            ("1\r\na\r0\r\n\r\n", Chunk),
            ("1234567890123456\r\n", Chunk),
            ("0\r\na: b\n\r\n", LineEnd),
            ("0\r\na b\r\n\r\n", Trailers),
            ("0\r\na: b\r\n c\r\n\r\n", FoldedHeader),
            ("0\r\nContent-Length: 1\r\n\r\n", Trailers),
        ] {
            let refused = format!("{post}transfer-encoding: chunked\r\n\r\n{body}");
            assert_eq!(request(&refused), Err(why), "{refused:?}");
        }
        let long = format!("{post}transfer-encoding: chunked\r\n\r\n1;{}\r\n", "a".repeat(MAX_CHUNK_LINE));
        assert_eq!(request(&long), Err(Chunk));
        let long = format!("{post}transfer-encoding: chunked\r\n\r\n0\r\n{}\r\n", "a: b\r\n".repeat(200));
        assert_eq!(request(&long), Err(Trailers));
    }

    #[test]
    fn a_head_that_is_too_long_is_left_to_hyper() {
        let head = format!("GET / HTTP/1.1\r\na: {}\r\n\n", "b".repeat(1_000));
        assert_eq!(request(&head), Ok(false));
    }

    #[test]
    fn responses_end_by_their_status_and_by_what_they_answer() {
        let response = |bytes: &str, to_head| read(Side::Responses, bytes.as_bytes(), to_head);
        for whole in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nt: u\r\n\r\n",
        ] {
            assert_eq!(response(whole, false), Ok(true), "{whole:?}");
        }
        assert_eq!(response("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true), Ok(true));
        assert_eq!(response("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", false), Ok(false));
        for opaque in ["HTTP/1.1 200 OK\r\n\r\nto the end\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n\0\n"] {
            assert_eq!(response(opaque, false), Ok(false), "{opaque:?}");
        }
        for (refused, why) in [
            ("HTTP/1.1 2x0 OK\r\n\r\n", Refusal::StatusLine),
            ("HTTP/1.1 200 OK\n\r\n", Refusal::LineEnd),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", Refusal::TwoFramings),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", Refusal::TransferEncoding),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Refusal::RepeatedFraming),
        ] {
            assert_eq!(response(refused, false), Err(why), "{refused:?}");
        }
        let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(MAX_INTERIM as usize + 1);
        assert_eq!(response(&flood, false), Err(Refusal::Interim));
    }

    #[test]
    fn no_byte_of_a_refused_head_s_end_passes() {
        let bytes = b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let refused = Framing::new(Side::Requests, 1_000).pass(bytes, false).unwrap_err();
        assert_eq!(&bytes[refused.at..], b"\r\n0\r\n\r\n");
        assert!(!refused.in_body);
    }
}
