//! Responses from bytes, which have passed [`crate::http1::framing`]: what ends where is beyond doubt.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use memchr::{memchr, memmem};

use super::Error;
use crate::{
    exchange::{connection_options, is},
    http1::framing::{self, Refusal},
    http2::MAX_HEADER_LIST,
};

/// Headers of one message.
const MAX_HEADERS: usize = 100;

/// Why a head is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{0}")]
    Syntax(#[from] httparse::Error),
    #[error("a head of more than {MAX_HEADER_LIST} bytes")]
    TooLarge,
    #[error("a status that is none")]
    Status,
    #[error("a header that is none")]
    Header,
    #[error("a Content-Length that is no number")]
    ContentLength,
    #[error("Transfer-Encoding in HTTP/1.0")]
    TransferEncoding,
}

pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) download: Download,
    /// The connection ends with it.
    pub(super) is_last: bool,
}

/// What is to come of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Download {
    Head,
    Length(u64),
    Chunks(Chunks),
    /// A body that ends with its connection.
    ToEnd,
    /// What comes is of another protocol.
    Switched,
    Over,
}

/// Where in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    Size,
    Data {
        left: u64,
    },
    /// The line end after a chunk.
    DataEnd,
    Trailers,
}

/// What there is of a body.
#[derive(Debug)]
pub(super) enum Content {
    Frame(Frame<Bytes>),
    End,
    /// More bytes are.
    Wanted,
}

/// Takes a head from the bytes, if it has come; interim ones are read over.
pub(super) fn head(input: &mut BytesMut, answers_head: bool) -> Result<Option<Head>, Malformed> {
    while !input.is_empty() {
        let Some(response) = one_head(input)? else { break };
        let Some(download) = download(&response, answers_head)? else { continue };
        let is_last = download == Download::ToEnd || download == Download::Switched || closes(&response);
        return Ok(Some(Head { response, download, is_last }));
    }
    if input.len() > MAX_HEADER_LIST as usize { Err(Malformed::TooLarge) } else { Ok(None) }
}

fn one_head(input: &mut BytesMut) -> Result<Option<Response<()>>, Malformed> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, input, &mut lines)? {
        httparse::Status::Complete(length) if length > MAX_HEADER_LIST as usize => return Err(Malformed::TooLarge),
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let mut response = Response::new(());
    *response.version_mut() = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed::Status)?;
    *response.status_mut() = status;
    if let Some(reason) = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason())
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    // Values stay where they are: each is a piece of the head's bytes.
    let start = input.as_ptr() as usize;
    let places = parsed.headers.iter().map(|line| {
        let at = line.value.as_ptr() as usize - start;
        (HeaderName::from_bytes(line.name.as_bytes()), at..at + line.value.len())
    });
    let places: Vec<_> = places.collect();
    let bytes = input.split_to(length).freeze();
    let headers = response.headers_mut();
    headers.reserve(places.len());
    for (name, place) in places {
        let value = HeaderValue::from_maybe_shared(bytes.slice(place)).map_err(|_| Malformed::Header)?;
        headers.append(name.map_err(|_| Malformed::Header)?, value);
    }
    Ok(Some(response))
}

/// What follows a head (RFC 9112 section 6.3); `None` for an interim response.
fn download(response: &Response<()>, answers_head: bool) -> Result<Option<Download>, Malformed> {
    let headers = response.headers();
    Ok(Some(match response.status().as_u16() {
        101 => Download::Switched,
        100..200 => return Ok(None),
        204 | 304 => Download::Over,
        _ if answers_head => Download::Over,
        _ if headers.contains_key(header::TRANSFER_ENCODING) => match response.version() {
            Version::HTTP_11 => Download::Chunks(Chunks::Size),
            _ => return Err(Malformed::TransferEncoding),
        },
        _ => match headers.get(header::CONTENT_LENGTH) {
            None => Download::ToEnd,
            Some(length) => match framing::decimal(length.as_bytes()).ok_or(Malformed::ContentLength)? {
                0 => Download::Over,
                length => Download::Length(length),
            },
        },
    }))
}

fn closes(response: &Response<()>) -> bool {
    let says = |what| connection_options(response.headers()).any(|option| is(option, what));
    says("close") || (response.version() == Version::HTTP_10 && !says("keep-alive"))
}

impl Download {
    /// Takes from the bytes what comes next.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Content, Error> {
        loop {
            match self {
                Self::Over | Self::Switched => return Ok(Content::End),
                _ if input.is_empty() => return Ok(Content::Wanted),
                Self::Head => return Ok(Content::Wanted),
                Self::ToEnd => return Ok(Content::Frame(Frame::data(input.split().freeze()))),
                Self::Length(left) => {
                    let data = take(left, input);
                    if *left == 0 {
                        *self = Self::Over;
                    }
                    return Ok(Content::Frame(Frame::data(data)));
                }
                Self::Chunks(Chunks::Data { left }) => {
                    let data = take(left, input);
                    if *left == 0 {
                        *self = Self::Chunks(Chunks::DataEnd);
                        self.foresee_end(input);
                    }
                    return Ok(Content::Frame(Frame::data(data)));
                }
                Self::Chunks(chunks) => match chunks.step(input)? {
                    Step::Wanted => return Ok(Content::Wanted),
                    Step::On(next) => *chunks = next,
                    Step::End(trailers) => {
                        *self = Self::Over;
                        return Ok(trailers.map_or(Content::End, |trailers| Content::Frame(Frame::trailers(trailers))));
                    }
                },
            }
        }
    }

    /// A body whose end has come too ends with its last bytes: it goes on in one piece then.
    fn foresee_end(&mut self, input: &mut BytesMut) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if input.starts_with(END) {
            input.advance(END.len());
            *self = Self::Over;
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Over => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}

/// What is there of so many bytes.
fn take(left: &mut u64, input: &mut BytesMut) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= length as u64;
    input.split_to(length).freeze()
}

enum Step {
    Wanted,
    On(Chunks),
    End(Option<HeaderMap>),
}

impl Chunks {
    /// Reads over what is not data.
    fn step(self, input: &mut BytesMut) -> Result<Step, Error> {
        let malformed = Error::MalformedBody(Refusal::Chunk);
        match self {
            Self::Data { .. } => Ok(Step::On(self)),
            Self::DataEnd => {
                if input.len() < 2 {
                    return Ok(Step::Wanted);
                }
                input.advance(2);
                Ok(Step::On(Self::Size))
            }
            Self::Size => {
                let Some(end) = memchr(b'\n', input) else { return Ok(Step::Wanted) };
                let line = input.split_to(end + 1);
                let size = line.strip_suffix(b"\r\n").and_then(framing::chunk_size).ok_or(malformed)?;
                Ok(Step::On(if size == 0 { Self::Trailers } else { Self::Data { left: size } }))
            }
            Self::Trailers if input.starts_with(b"\r\n") => {
                input.advance(2);
                Ok(Step::End(None))
            }
            Self::Trailers => {
                let Some(end) = memmem::find(input, b"\r\n\r\n") else { return Ok(Step::Wanted) };
                let lines = input.split_to(end + 4);
                Ok(Step::End(Some(trailers(&lines)?)))
            }
        }
    }
}

fn trailers(lines: &[u8]) -> Result<HeaderMap, Error> {
    let malformed = |_| Error::MalformedBody(Refusal::Trailers);
    let mut parsed = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let httparse::Status::Complete((_, lines)) = httparse::parse_headers(lines, &mut parsed).map_err(malformed)? else {
        return Err(Error::MalformedBody(Refusal::Trailers));
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}
