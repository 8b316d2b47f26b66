//! How connections to the endpoints of a cluster are made, and how long they are kept: what DestinationRules say of that
//! in `connectionPool` and `tls`.

use std::{sync::Arc, time::Duration};

use http::uri::Authority;
use weft_wire::id::SpiffeId;

use crate::origination::Protection;

/// What documents say of a cluster's connections. Where a field is absent, the proxy's own default holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// For TCP and TLS together.
    pub connect_timeout: Option<Duration>,
    pub keepalive: Option<Keepalive>,
    /// After that a connection of bytes is cut, and one of HTTP gets nothing new.
    pub max_duration: Option<Duration>,
    /// A connection of bytes is cut when none has passed for so long; zero is never.
    pub idle_timeout: Option<Duration>,
    /// A connection of HTTP is closed when no request was under way for so long; zero is never.
    pub http_idle_timeout: Option<Duration>,
    /// So many requests, and a connection gets nothing new.
    pub max_requests: Option<u32>,
    /// Of HTTP/2, at once on one connection.
    pub max_streams: Option<u32>,
    pub ping: Option<Ping>,
    /// Of connections to places outside of the mesh; those to its workloads are encrypted anyway.
    pub protection: Option<Protection>,
    /// Whom workloads of the mesh have to prove to be one of, instead of who they are announced as.
    pub servers: Option<Arc<[SpiffeId]>>,
    /// Of connections of bytes.
    pub tunnel: Option<Tunnel>,
    /// Of HTTP, to places outside of the mesh.
    pub version: VersionChoice,
}

/// Which version of HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionChoice {
    /// That of the port's protocol.
    #[default]
    Declared,
    Http2,
    /// The one that the client speaks.
    Client,
}

impl VersionChoice {
    /// Whether HTTP/2 is spoken, given whether it is declared, and whether the client speaks it.
    pub fn is_http2(self, declared: bool, client: bool) -> bool {
        match self {
            Self::Declared => declared,
            Self::Http2 => true,
            Self::Client => client,
        }
    }
}

/// An endpoint is a proxy, which is asked to carry bytes on to another place (RFC 9110 section 9.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Host and port.
    pub target: Authority,
    /// Asked for by POST, with the bytes in the bodies of request and response, and not by CONNECT.
    pub by_post: bool,
}

/// TCP's keep-alive; where a field is absent, the system's own value holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    pub probes: Option<u32>,
    /// Before the first probe, and between two.
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// How often an upstream of HTTP/2 is pinged, and how long it may take to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    pub interval: Duration,
    pub timeout: Duration,
}

impl ConnectionSettings {
    /// Whether a connection that was made so many requests and so long ago may serve one more.
    pub fn may_serve(&self, requests: u32, age: Duration) -> bool {
        self.max_requests.is_none_or(|most| requests < most) && self.max_duration.is_none_or(|most| age < most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_serves_until_it_has_had_its_requests_or_its_time() {
        let settings = ConnectionSettings {
            max_requests: Some(2),
            max_duration: Some(Duration::from_secs(9)),
            ..ConnectionSettings::default()
        };
        assert!(settings.may_serve(1, Duration::from_secs(8)));
        assert!(!settings.may_serve(2, Duration::ZERO));
        assert!(!settings.may_serve(0, Duration::from_secs(9)));
        assert!(ConnectionSettings::default().may_serve(u32::MAX, Duration::MAX));
    }
}
