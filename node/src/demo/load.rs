//! Visitors of the bookstore: single ones, and a steady light load of them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{
    Request, Response,
    header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE},
    uri::Authority,
};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    bookinfo::Version,
    http_call,
    plan::{Host, SERVICE_PORT},
    tally::Tally,
};

/// Pages per second of the steady load are one per this.
const PACE: Duration = Duration::from_millis(50);
/// Every so many pages is jason's.
const JASON_EVERY: u64 = 5;
/// Pages in flight at most; beyond that the load waits for answers.
const MAX_IN_FLIGHT: usize = 64;
/// A page may take twice 3 s for reviews and 3 s for details.
const PATIENCE: Duration = Duration::from_secs(12);

/// Somebody with a browser on a host, whose requests go through the host's outbound proxy.
#[derive(Clone)]
pub(super) struct Visitor {
    proxy: Authority,
    cookie: Option<HeaderValue>,
}

impl Visitor {
    pub(super) fn anonymous(host: &Host) -> Self {
        Self {
            proxy: Authority::from_maybe_shared(host.outbound()).expect("an address and a port are an authority"),
            cookie: None,
        }
    }

    /// Signs in at the productpage and keeps its session cookie.
    pub(super) async fn signed_in(host: &Host, user: &str) -> anyhow::Result<Self> {
        let mut visitor = Self::anonymous(host);
        let form = Request::post(format!("http://productpage:{SERVICE_PORT}/login"))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(format!("username={user}&passwd={user}")))?;
        let response = visitor.send(form).await?;
        let cookie = response.headers().get(SET_COOKIE).and_then(|cookie| cookie.to_str().ok()?.split(';').next());
        let cookie = cookie.with_context(|| format!("the login answered {} without a cookie", response.status()))?;
        visitor.cookie = Some(HeaderValue::from_str(cookie)?);
        Ok(visitor)
    }

    /// Visits the productpage; the version of reviews that it shows.
    pub(super) async fn page(&self) -> anyhow::Result<Version> {
        let mut request = Request::get(format!("http://productpage:{SERVICE_PORT}/productpage"));
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let response = self.send(request.body(Full::default())?).await?;
        ensure!(response.status() == 200, "the page answered {}: {}", response.status(), start_of(response.body()));
        version_of_page(std::str::from_utf8(response.body())?)
    }

    /// Asks reviews itself, as `user` where there is one; the version that answered.
    pub(super) async fn reviews(&self, user: Option<&str>) -> anyhow::Result<Version> {
        let mut request = Request::get(format!("http://reviews:{SERVICE_PORT}/reviews/0"));
        if let Some(user) = user {
            request = request.header("end-user", user);
        }
        let response = self.send(request.body(Full::default())?).await?;
        ensure!(response.status() == 200, "reviews answered {}: {}", response.status(), start_of(response.body()));
        let body: serde_json::Value = serde_json::from_slice(response.body())?;
        let podname = body["podname"].as_str().unwrap_or_default();
        version_of_instance(podname).with_context(|| format!("reviews of an unknown instance {podname:?}"))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        http_call::call(Some(&self.proxy), request, PATIENCE).await
    }
}

fn start_of(body: &Bytes) -> String {
    String::from_utf8_lossy(body).trim().chars().take(200).collect()
}

/// The version of reviews that a page shows, if the page is whole: no part failed, and stars as that version has them.
fn version_of_page(html: &str) -> anyhow::Result<Version> {
    for error in ["Error fetching product details", "Error fetching product reviews", "currently unavailable"] {
        ensure!(!html.contains(error), "the page says: {error}");
    }
    let served_by = html.split_once("Reviews served by: <u>").and_then(|(_, rest)| Some(rest.split_once("</u>")?.0));
    let version = served_by.and_then(version_of_instance).context("the page does not say who served its reviews")?;
    let color = if html.contains("text-black-500\"><svg id=\"glyphicon glyphicon-star\"") {
        Some("black")
    } else if html.contains("text-red-500\"><svg id=\"glyphicon glyphicon-star\"") {
        Some("red")
    } else {
        None
    };
    match (version, color) {
        (Version::V1, None) | (Version::V2, Some("black")) | (Version::V3, Some("red")) => Ok(version),
        (_, color) => bail!("the page shows {} stars with reviews {version:?}", color.unwrap_or("no")),
    }
}

fn version_of_instance(podname: &str) -> Option<Version> {
    match podname {
        "reviews-v1" => Some(Version::V1),
        "reviews-v2" => Some(Version::V2),
        "reviews-v3" => Some(Version::V3),
        _ => None,
    }
}

/// About 20 pages per second, one in five jason's, until dropped.
pub(super) struct Load {
    tally: Arc<Mutex<Tally>>,
    _task: AbortOnDropHandle<()>,
}

impl Load {
    pub(super) async fn start(host: &Host) -> anyhow::Result<Self> {
        let (anonymous, jason) = (Visitor::anonymous(host), Visitor::signed_in(host, "jason").await?);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let task = AbortOnDropHandle::new(tokio::spawn(visit(anonymous, jason, tally.clone())));
        Ok(Self { tally, _task: task })
    }

    pub(super) fn tally(&self) -> parking_lot::MutexGuard<'_, Tally> {
        self.tally.lock()
    }
}

async fn visit(anonymous: Visitor, jason: Visitor, tally: Arc<Mutex<Tally>>) {
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for count in 1_u64.. {
        pace.tick().await;
        // Never closed.
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let is_jason = count % JASON_EVERY == 0;
        let visitor = if is_jason { jason.clone() } else { anonymous.clone() };
        let tally = tally.clone();
        tokio::spawn(async move {
            let page = visitor.page().await;
            tally.lock().record(Instant::now(), is_jason, page);
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(podname: &str, stars: &str) -> String {
        format!("<html>{stars}<p>Reviews served by: <u>{podname}</u></p></html>")
    }

    fn stars(color: &str) -> String {
        format!("<div class=\"flex gap-x-1 text-{color}-500\"><svg id=\"glyphicon glyphicon-star\"")
    }

    #[test]
    fn a_whole_page_tells_its_version_of_reviews() {
        assert_eq!(version_of_page(&page("reviews-v1", "")).unwrap(), Version::V1);
        assert_eq!(version_of_page(&page("reviews-v2", &stars("black"))).unwrap(), Version::V2);
        assert_eq!(version_of_page(&page("reviews-v3", &stars("red"))).unwrap(), Version::V3);
    }

    #[test]
    fn a_page_with_a_failed_part_or_the_wrong_stars_is_a_failure() {
        for html in [
            String::new(),
            page("reviews-v9", ""),
            page("reviews-v1", &stars("red")),
            page("reviews-v2", ""),
            page("reviews-v3", "Ratings service is currently unavailable"),
            page("reviews-v1", "Error fetching product details"),
        ] {
            assert!(version_of_page(&html).is_err(), "{html}");
        }
    }
}
