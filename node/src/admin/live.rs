//! Live data as server-sent events, for pages that show it: a `data:` of JSON each second, or when something happens,
//! until the client goes away.
//! See <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{server::Body, tap::TapEvent};
use crate::{actors::Handles, events::Told};

const EVERY: Duration = Duration::from_secs(1);
/// An event may reach its node's timeline, or this one, so late: documents bring the time of their author.
const LATE: Duration = Duration::from_secs(60);

/// Traffic of all nodes, each second.
pub(super) fn traffic(handles: Handles, window: Duration) -> Response<Body> {
    let told = stream::unfold((handles, ticks()), move |(handles, mut ticks)| async move {
        ticks.tick().await;
        let traffic = handles.traffic(window).await;
        Some((data(&*traffic), (handles, ticks)))
    });
    response(told)
}

/// What has happened within `since`, and then whatever happens. A comment each second keeps the connection alive.
pub(super) fn events(handles: Handles, since: Duration) -> Response<Body> {
    let state = (handles, ticks(), since, Seen::default());
    let told = stream::unfold(state, |(handles, mut ticks, within, mut seen)| async move {
        ticks.tick().await;
        let news = seen.news(handles.events(within).await.events);
        let text = if news.is_empty() { ":\n\n".to_owned() } else { news.iter().map(data).collect() };
        Some((text, (handles, ticks, LATE, seen)))
    });
    response(told)
}

/// Tells news from what was told before, by when and what: nodes that notice it later add nothing.
#[derive(Debug, Default)]
pub struct Seen(VecDeque<(u64, String, String)>);

impl Seen {
    /// As many as one answer may hold, so that nothing in it is forgotten.
    const KEPT: usize = 50_000;

    pub fn news(&mut self, told: Vec<Told>) -> Vec<Told> {
        let news = told.into_iter().filter(|Told { event, .. }| {
            // Who notices first may be asked last: the time of one event may become earlier.
            let is_known = self.0.iter().any(|(at, subject, what)| {
                at.abs_diff(event.at) <= 10_000 && *subject == event.subject && *what == event.what
            });
            if !is_known {
                self.0.push_back((event.at, event.subject.clone(), event.what.clone()));
                if self.0.len() > Self::KEPT {
                    self.0.pop_front();
                }
            }
            !is_known
        });
        news.collect()
    }
}

/// What a tap tells, until it ends or its reader goes.
pub(super) fn tap(events: mpsc::Receiver<TapEvent>) -> Response<Body> {
    // Comments keep the connection alive, and show that nobody reads.
    let told = stream::unfold((events, ticks()), |(mut events, mut ticks)| async move {
        let text = tokio::select! {
            event = events.recv() => data(&event?),
            _ = ticks.tick() => ":\n\n".to_owned(),
        };
        Some((text, (events, ticks)))
    });
    response(told)
}

fn ticks() -> Interval {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn data(value: &impl Serialize) -> String {
    // JSON has no line breaks, which would end it.
    serde_json::to_string(value).map_or_else(|_| ":\n\n".to_owned(), |json| format!("data: {json}\n\n"))
}

fn response(told: impl futures_util::Stream<Item = String> + Send + 'static) -> Response<Body> {
    let frames = told.map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames.boxed())));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, Kind};

    #[test]
    fn an_event_is_news_once() {
        let told = |at, what: &str| Told {
            event: Event { at, kind: Kind::Member, subject: "host-1".into(), what: what.into() },
            nodes: vec!["host-2".into()],
        };
        let mut seen = Seen::default();
        assert_eq!(seen.news(vec![told(20_000, "failed"), told(21_000, "recovered")]).len(), 2);
        assert!(
            seen.news(vec![told(19_500, "failed"), told(21_000, "recovered")]).is_empty(),
            "noticed earlier elsewhere"
        );
        assert_eq!(seen.news(vec![told(40_000, "failed")]).len(), 1, "it failed once more");
    }

    #[test]
    fn data_is_one_line_and_ends_with_an_empty_one() {
        assert_eq!(data(&"a\nb"), "data: \"a\\nb\"\n\n");
    }
}
