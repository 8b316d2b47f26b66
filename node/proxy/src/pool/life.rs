//! How long a connection of a pool may serve.

use std::{cell::Cell, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_policy::connection::ConnectionSettings;

use crate::{origination::Originator, ports::OriginationTable};

/// An idle connection older than this is closed, unless documents say otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a connection was made with, and what it has served. Boxed, because exchanges carry it about.
pub(super) struct Life(Box<Kept>);

struct Kept {
    /// Where documents say something of it, which is seldom.
    limited: Option<Limited>,
    /// This end of it.
    local: Option<SocketAddr>,
}

struct Limited {
    settings: Arc<ConnectionSettings>,
    born: Instant,
    requests: Cell<u32>,
    /// With a place outside of the mesh.
    tls: Option<Tls>,
}

/// TLS with a place outside of the mesh.
pub(super) struct Tls {
    /// The server that was asked for.
    pub(super) server: Arc<str>,
    pub(super) originator: Arc<Originator>,
}

impl Life {
    pub(super) fn begin(settings: Option<Arc<ConnectionSettings>>) -> Self {
        Self::begin_with(settings, None)
    }

    pub(super) fn begin_with(settings: Option<Arc<ConnectionSettings>>, tls: Option<Tls>) -> Self {
        let limited = |settings| Limited { settings, born: Instant::now(), requests: Cell::new(0), tls };
        Self(Box::new(Kept { limited: settings.map(limited), local: None }))
    }

    /// From which address it was made.
    pub(super) fn from(mut self, local: Option<SocketAddr>) -> Self {
        self.0.local = local;
        self
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }

    pub(super) fn count_request(&self) {
        if let Some(limited) = &self.0.limited {
            limited.requests.set(limited.requests.get().saturating_add(1));
        }
    }

    /// Whether it may serve one more request.
    pub(super) fn may_serve(&self) -> bool {
        let Some(limited) = &self.0.limited else { return true };
        limited.settings.may_serve(limited.requests.get(), limited.born.elapsed())
    }

    /// Whether it is to be closed, if nothing has used it since then.
    pub(super) fn is_over(&self, idle_since: Instant) -> bool {
        let limit = self.settings().and_then(|settings| settings.http_idle_timeout).unwrap_or(IDLE_TIMEOUT);
        !self.may_serve() || (!limit.is_zero() && idle_since.elapsed() >= limit)
    }

    /// The server that TLS was begun with, if it is a place outside of the mesh.
    pub(super) fn server(&self) -> Option<&str> {
        Some(&self.0.limited.as_ref()?.tls.as_ref()?.server)
    }

    /// Whether TLS would be begun in the same way now.
    pub(super) fn is_current(&self, originations: &OriginationTable) -> bool {
        let Some(Limited { settings, tls: Some(tls), .. }) = self.0.limited.as_ref() else { return true };
        let origination = settings.protection.as_ref().and_then(|protection| protection.origination());
        let now = origination.and_then(|origination| originations.get(origination));
        matches!(now, Some(Ok(now)) if Arc::ptr_eq(now, &tls.originator))
    }

    /// The most streams at once, where documents say so.
    pub(super) fn max_streams(&self) -> Option<u32> {
        self.settings()?.max_streams
    }

    pub(super) fn settings(&self) -> Option<&Arc<ConnectionSettings>> {
        self.0.limited.as_ref().map(|limited| &limited.settings)
    }
}

/// Whether connections for the one may serve for the other. Mostly both are absent, or one place in memory.
pub(super) fn is_same(one: Option<&Arc<ConnectionSettings>>, other: Option<&Arc<ConnectionSettings>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_over_after_a_minute_unless_documents_say_otherwise() {
        let of = |limit: u64| {
            let http_idle_timeout = Some(Duration::from_secs(limit));
            Life::begin(Some(Arc::new(ConnectionSettings { http_idle_timeout, ..ConnectionSettings::default() })))
        };
        let (plain, short, never) = (Life::begin(None), of(2), of(0));
        let since = Instant::now();
        for (seconds, over) in [(1, [false, false]), (2, [false, true]), (59, [false, true]), (60, [true, true])] {
            tokio::time::advance(Duration::from_secs(seconds) - since.elapsed()).await;
            assert_eq!([plain.is_over(since), short.is_over(since)], over, "after {seconds} s");
        }
        assert!(!never.is_over(since));
    }

    #[test]
    fn connections_are_for_clusters_that_say_the_same_of_them() {
        let of = |most| Some(Arc::new(ConnectionSettings { max_requests: most, ..ConnectionSettings::default() }));
        let (one, same, other) = (of(Some(1)), of(Some(1)), of(Some(2)));
        let life = Life::begin(one.clone());
        let is_for = |settings| is_same(life.settings(), settings);
        assert!(is_for(one.as_ref()) && is_for(same.as_ref()));
        assert!(!is_for(other.as_ref()) && !is_for(None));
    }
}
