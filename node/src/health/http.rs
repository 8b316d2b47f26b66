//! An HTTP request whose status tells.

use std::{net::SocketAddr, pin::pin};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;

use super::{ProbeError, USER_AGENT, connect};

/// What is asked, and which answers are good ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    pub path: String,
    pub port: u16,
    /// In place of the address and port.
    pub host: Option<HeaderValue>,
    pub headers: HeaderMap,
    pub statuses: Statuses,
}

/// Statuses of HTTP, as ranges with both ends in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<(u16, u16)>);

impl Default for Statuses {
    /// Kubernetes' rule.
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl Statuses {
    /// Reads such as `200-299,404`.
    ///
    /// # Errors
    /// What is not such a list.
    pub fn read(text: &str) -> Result<Self, String> {
        let code = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = code(first).zip(code(last)).filter(|(first, last)| first <= last);
            range.ok_or_else(|| {
                format!("{:?} is not a status or a range of them; write one such as 200-299,404", part.trim())
            })
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }

    fn include(&self, status: StatusCode) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status.as_u16()))
    }
}

impl HttpProbe {
    pub(super) async fn ask(&self, address: SocketAddr) -> Result<(), ProbeError> {
        let mut request = Request::get(&self.path)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|source| ProbeError::Request { what: format!("path {:?}", self.path), source })?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        let host = || HeaderValue::try_from(address.to_string()).ok();
        if let Some(host) = self.host.clone().or_else(host) {
            headers.insert(header::HOST, host);
        }
        let stream = TokioIo::new(connect(address).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let mut answer = pin!(sender.send_request(request));
        // Driven here rather than in a task of its own: dropping the probe then closes the connection.
        let status = tokio::select! {
            biased;
            answer = &mut answer => answer?.status(),
            // However the connection ended, the answer's head or the reason for its absence is there now.
            _ = connection => answer.await?.status(),
        };
        if self.statuses.include(status) { Ok(()) } else { Err(ProbeError::Status(status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let includes = |text: &str, code| Statuses::read(text).unwrap().include(StatusCode::from_u16(code).unwrap());
        assert!(includes("200-299,404", 200) && includes("200-299, 404", 404) && includes("200-299,404", 299));
        assert!(!includes("200-299,404", 300) && !includes("401", 200));
        for wrong in ["", "20", "600", "299-200", "200-", "2xx", "200,"] {
            assert!(Statuses::read(wrong).is_err(), "{wrong}");
        }
    }
}
