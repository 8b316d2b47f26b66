//! Requests as bytes.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, Method, Request, header};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::Error;
use crate::body::RequestBody;

/// Bytes that are gathered before they are written.
const GATHERED: usize = 16 << 10;
/// A piece of a body that is longer is written from where it is.
const COPIED: usize = 4 << 10;

/// What is sent of the exchange that is under way.
#[derive(Default)]
pub(super) struct Upload {
    /// `None` when all of it is in `out`, or there is none.
    body: Option<(RequestBody, Ends)>,
    out: Out,
    is_unflushed: bool,
    /// The method is HEAD.
    is_of_head: bool,
}

/// How a body says where it ends.
enum Ends {
    /// After so many more bytes.
    Length(u64),
    /// By itself, with those trailers that its head has named.
    Chunked { trailers: Vec<HeaderName> },
}

/// Bytes to be written, in three parts.
#[derive(Default)]
struct Out {
    first: Vec<u8>,
    /// So many of the first are written.
    written: usize,
    then: Bytes,
    last: &'static [u8],
}

impl Upload {
    pub(super) fn begin(&mut self, request: Request<RequestBody>) {
        let (head, body) = request.into_parts();
        let out = &mut self.out.first;
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        if !target.starts_with(['/', '*']) {
            out.push(b'/');
        }
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &head.headers {
            // How the body ends is said here, once.
            if *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING {
                line(out, name, value.as_bytes());
            }
        }
        let has_length = head.headers.contains_key(header::CONTENT_LENGTH);
        self.body = if body.is_end_stream() {
            // Of no body only those speak that do not go without saying (RFC 9110 section 8.6).
            if has_length {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            None
        } else {
            let announced = if has_length { content_length(&head.headers) } else { None };
            let ends = match announced.or(body.size_hint().exact()) {
                Some(length) => {
                    let _ = write!(out, "content-length: {length}\r\n"); // a Vec takes all
                    Ends::Length(length)
                }
                None => {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                    Ends::Chunked { trailers: trailers_of(&head.headers) }
                }
            };
            Some((body, ends))
        };
        out.extend_from_slice(b"\r\n");
        self.is_unflushed = true;
        self.is_of_head = head.method == Method::HEAD;
    }

    pub(super) fn is_done(&self) -> bool {
        !self.is_unflushed
    }

    /// Whether the response has no body, whatever it says.
    pub(super) fn is_of_head(&self) -> bool {
        self.is_of_head
    }

    /// Writes what there is; ready when it was all.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncWrite + Unpin)) -> Poll<Result<(), Error>> {
        loop {
            let gathered = self.gather(cx)?;
            if !self.out.is_empty() {
                ready!(self.out.poll_write(cx, io)).map_err(Error::io)?;
                continue;
            }
            ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Error::io)?;
            ready!(gathered);
            self.is_unflushed = false;
            return Poll::Ready(Ok(()));
        }
    }

    /// Takes as much of the body as comes and there is room for; ready when all of it has come.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        while let Some((body, ends)) = &mut self.body {
            if !self.out.has_room() {
                return Ok(Poll::Pending);
            }
            let is_over = match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(None) => ends.end(None, &mut self.out)?,
                Poll::Ready(Some(Err(error))) => return Err(Error::Request(Arc::new(error))),
                Poll::Ready(Some(Ok(frame))) => ends.frame(frame, body.is_end_stream(), &mut self.out)?,
            };
            if is_over {
                self.body = None;
            }
        }
        Ok(Poll::Ready(()))
    }
}

impl Ends {
    /// Returns whether nothing comes after it.
    fn frame(&mut self, frame: Frame<Bytes>, is_last: bool, out: &mut Out) -> Result<bool, Error> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.trailers_ref(), out),
        };
        match self {
            Self::Length(left) => {
                // What was not announced is not sent.
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                *left -= length as u64;
                out.push(data.slice(..length), b"");
                if *left == 0 {
                    return Ok(true);
                }
            }
            Self::Chunked { .. } if data.is_empty() => {}
            Self::Chunked { .. } => {
                let _ = write!(out.first, "{:x}\r\n", data.len()); // a Vec takes all
                out.push(data, b"\r\n");
            }
        }
        if is_last && out.has_room() { self.end(None, out) } else { Ok(false) }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, out: &mut Out) -> Result<bool, Error> {
        match self {
            Self::Length(0) => {}
            Self::Length(_) => return Err(Error::RequestTooShort),
            Self::Chunked { trailers: named } => {
                out.first.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| named.contains(name)) {
                    line(&mut out.first, name, value.as_bytes());
                }
                out.first.extend_from_slice(b"\r\n");
            }
        }
        Ok(true)
    }
}

impl Out {
    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.then.is_empty() && self.last.is_empty()
    }

    fn has_room(&self) -> bool {
        self.then.is_empty() && self.last.is_empty() && self.first.len() < GATHERED
    }

    /// Only while there is room.
    fn push(&mut self, data: Bytes, last: &'static [u8]) {
        if data.len() <= COPIED {
            self.first.extend_from_slice(&data);
            self.first.extend_from_slice(last);
        } else {
            (self.then, self.last) = (data, last);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        let first = self.first.get(self.written..).unwrap_or_default();
        let io = Pin::new(io);
        let written = if self.then.is_empty() && self.last.is_empty() {
            ready!(io.poll_write(cx, first))?
        } else {
            ready!(io.poll_write_vectored(cx, &[first, &self.then, self.last].map(IoSlice::new)))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_first = written.min(first.len());
        self.written += of_first;
        if self.written == self.first.len() {
            // Connections wait for their next exchange for long: what a large head took is not kept.
            self.first.clear();
            self.first.shrink_to(GATHERED);
            self.written = 0;
        }
        let of_then = (written - of_first).min(self.then.len());
        self.then.advance(of_then);
        self.last = self.last.get(written - of_first - of_then..).unwrap_or_default();
        Poll::Ready(Ok(()))
    }
}

fn line(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What a head announces; `None` if it announces nothing clear.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = values.next()?.to_str().ok()?.parse().ok()?;
    values.next().is_none().then_some(length)
}

/// The trailers that a head has named, and that may be trailers (RFC 9110 section 6.5.1).
fn trailers_of(headers: &HeaderMap) -> Vec<HeaderName> {
    let named = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(may_trail).collect()
}

fn may_trail(name: &HeaderName) -> bool {
    let decides = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::HOST,
        header::MAX_FORWARDS,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
    ];
    !decides.contains(name)
}
