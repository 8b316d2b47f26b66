//! `ratings`: stars per reviewer, kept in memory, and the ways of failing that `SERVICE_VERSION` asks for.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    server::{self, App, Body},
    settings::Settings,
};

/// How late `v-delayed` answers every other request.
const DELAY: Duration = Duration::from_secs(7);
/// Largest accepted `POST` body, in bytes, and how many products can have posted ratings: the map lives in memory.
const MAX_BODY: usize = 64 << 10;
const MAX_PRODUCTS: usize = 1000;

pub(super) struct Ratings {
    version: String,
    started: Instant,
    posted: Mutex<BTreeMap<i64, Map<String, Value>>>,
}

/// What a request for ratings gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Late,
    Refused,
}

/// What happens to one request: `coin` decides where half of them suffer, `running` is how long the service has run.
fn fate(version: &str, running: Duration, coin: bool) -> Fate {
    match version {
        "v-faulty" if coin => Fate::Refused,
        "v-delayed" if coin => Fate::Late,
        "v-unavailable" if is_odd_period(running, Duration::from_secs(60)) => Fate::Refused,
        "v-unhealthy" if !is_healthy(version, running) => Fate::Refused,
        _ => Fate::Answered,
    }
}

fn is_healthy(version: &str, running: Duration) -> bool {
    version != "v-unhealthy" || !is_odd_period(running, Duration::from_secs(15 * 60))
}

/// Every other period, beginning with the second.
fn is_odd_period(running: Duration, period: Duration) -> bool {
    (running.as_millis() / period.as_millis()) % 2 == 1
}

impl Ratings {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { version: settings.service_version.clone(), started: Instant::now(), posted: Mutex::default() }
    }

    fn health(&self) -> Response<Body> {
        if is_healthy(&self.version, self.started.elapsed()) {
            server::json(StatusCode::OK, &json!({"status": "Ratings is healthy"}))
        } else {
            server::json(StatusCode::INTERNAL_SERVER_ERROR, &json!({"status": "Ratings is not healthy"}))
        }
    }

    async fn get(&self, id: i64) -> Response<Body> {
        match fate(&self.version, self.started.elapsed(), rand::random()) {
            Fate::Answered => {}
            Fate::Late => tokio::time::sleep(DELAY).await,
            Fate::Refused => {
                return server::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": "Service unavailable"}));
            }
        }
        let posted = self.posted.lock().get(&id).cloned();
        let ratings = posted.map_or_else(|| json!({"Reviewer1": 5, "Reviewer2": 4}), Value::Object);
        rated(id, &ratings)
    }

    async fn post(&self, id: i64, body: Incoming) -> Response<Body> {
        if self.version == "v2" {
            let error = json!({"error": "Post not implemented for database backed ratings"});
            return server::json(StatusCode::NOT_IMPLEMENTED, &error);
        }
        let body = Limited::new(body, MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let Ok(Value::Object(ratings)) = serde_json::from_slice(&body) else {
            return server::json(StatusCode::BAD_REQUEST, &json!({"error": "please provide valid ratings JSON"}));
        };
        let mut posted = self.posted.lock();
        if posted.len() >= MAX_PRODUCTS && !posted.contains_key(&id) {
            return server::json(StatusCode::INSUFFICIENT_STORAGE, &json!({"error": "too many rated products"}));
        }
        posted.insert(id, ratings.clone());
        rated(id, &Value::Object(ratings))
    }
}

/// Sent chunked, like the original: a stream says no length.
fn rated(id: i64, ratings: &Value) -> Response<Body> {
    let body = Bytes::from(json!({"id": id, "ratings": ratings}).to_string());
    let chunks = StreamBody::new(stream::iter([Ok(Frame::data(body))]));
    server::reply(StatusCode::OK, "application/json", Bytes::new()).map(|_| chunks.boxed())
}

impl App for Ratings {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/health" {
            return self.health();
        }
        let Some(id) = path.strip_prefix("/ratings/") else {
            return server::not_found();
        };
        let Ok(id) = id.parse::<i64>() else {
            return server::json(StatusCode::BAD_REQUEST, &json!({"error": "please provide numeric product ID"}));
        };
        match *request.method() {
            Method::GET => self.get(id).await,
            Method::POST => self.post(id, request.into_body()).await,
            _ => server::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Version,
            testing::{Running, settings},
        },
        *,
    };

    async fn ratings(service_version: &str) -> Running {
        let settings = Settings { service_version: service_version.to_owned(), ..settings(Version::V1) };
        Running::start(Ratings::new(&settings)).await
    }

    #[tokio::test]
    async fn health_says_so() {
        assert_eq!(ratings("v1").await.get_json("/health").await, (200, json!({"status": "Ratings is healthy"})));
    }

    #[tokio::test]
    async fn two_reviewers_have_rated_every_book_and_the_answer_is_chunked() {
        let response = ratings("v1").await.get("/ratings/3").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["transfer-encoding"], "chunked");
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body, json!({"id": 3, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}));
    }

    #[tokio::test]
    async fn an_id_that_is_no_number_is_refused() {
        let expected = json!({"error": "please provide numeric product ID"});
        assert_eq!(ratings("v1").await.get_json("/ratings/x").await, (400, expected));
    }

    #[tokio::test]
    async fn posted_ratings_replace_those_of_that_book() {
        let ratings = ratings("v1").await;
        let posted = ratings.post("/ratings/3", r#"{"Reviewer1": 1, "Reviewer2": 2}"#).await;
        assert_eq!(posted.status(), 200);
        let expected = json!({"id": 3, "ratings": {"Reviewer1": 1, "Reviewer2": 2}});
        assert_eq!(ratings.get_json("/ratings/3").await, (200, expected));
        let other = json!({"id": 4, "ratings": {"Reviewer1": 5, "Reviewer2": 4}});
        assert_eq!(ratings.get_json("/ratings/4").await, (200, other));
    }

    #[tokio::test]
    async fn a_post_that_is_no_json_map_is_refused() {
        let ratings = ratings("v1").await;
        for body in ["", "{", "[1]", "5"] {
            assert_eq!(ratings.post("/ratings/3", body).await.status(), 400, "{body:?}");
        }
    }

    #[tokio::test]
    async fn v2_does_not_take_posts() {
        assert_eq!(ratings("v2").await.post("/ratings/3", "{}").await.status(), 501);
    }

    #[test]
    fn faulty_refuses_and_delayed_is_late_for_one_side_of_the_coin() {
        let now = Duration::ZERO;
        assert_eq!([fate("v-faulty", now, true), fate("v-faulty", now, false)], [Fate::Refused, Fate::Answered]);
        assert_eq!([fate("v-delayed", now, true), fate("v-delayed", now, false)], [Fate::Late, Fate::Answered]);
        assert_eq!(fate("v1", now, true), Fate::Answered);
    }

    #[test]
    fn unavailable_alternates_by_the_minute_and_stays_healthy() {
        for (second, expected) in
            [(0, Fate::Answered), (59, Fate::Answered), (60, Fate::Refused), (120, Fate::Answered)]
        {
            let running = Duration::from_secs(second);
            assert_eq!(fate("v-unavailable", running, true), expected, "at {second} s");
            assert!(is_healthy("v-unavailable", running));
        }
    }

    #[test]
    fn unhealthy_alternates_every_fifteen_minutes_and_says_so() {
        for (minute, healthy) in [(0, true), (14, true), (15, false), (29, false), (30, true)] {
            let running = Duration::from_secs(minute * 60);
            assert_eq!(is_healthy("v-unhealthy", running), healthy, "at {minute} min");
            assert_eq!(fate("v-unhealthy", running, true) == Fate::Answered, healthy, "at {minute} min");
        }
    }

    #[tokio::test]
    async fn an_unhealthy_service_fails_its_health_check() {
        let settings = Settings { service_version: "v-unhealthy".to_owned(), ..settings(Version::V1) };
        let mut unhealthy = Ratings::new(&settings);
        unhealthy.started -= Duration::from_secs(15 * 60);
        let running = Running::start(unhealthy).await;
        assert_eq!(running.get_json("/health").await, (500, json!({"status": "Ratings is not healthy"})));
        assert_eq!(running.get_json("/ratings/0").await, (503, json!({"error": "Service unavailable"})));
    }
}
