//! `reviews`: two opinions on every book, from v2 on with the stars that `ratings` knows.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{
    forward::handed_on,
    server::{self, App, Body},
    settings::Settings,
};
use crate::demo::http_call;

const REVIEWS: [(&str, &str); 2] = [
    ("Reviewer1", "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

pub(super) struct Reviews {
    settings: Settings,
}

impl Reviews {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings }
    }

    async fn reviews(&self, id: i64, headers: &HeaderMap) -> Value {
        let mut reviews = REVIEWS.map(|(reviewer, text)| json!({"reviewer": reviewer, "text": text}));
        if let Some(color) = &self.settings.star_color {
            let ratings = self.ratings(id, headers, color).await;
            for (review, (reviewer, _)) in reviews.iter_mut().zip(REVIEWS) {
                review["rating"] = match ratings.as_ref().and_then(|ratings| ratings[reviewer].as_i64()) {
                    Some(stars) => json!({"stars": stars, "color": color}),
                    None => json!({"error": "Ratings service is currently unavailable"}),
                };
            }
        }
        json!({
            "id": id.to_string(),
            "podname": self.settings.podname,
            "clustername": self.settings.clustername,
            "reviews": reviews,
        })
    }

    /// Stars by reviewer, or none where the service failed or was too slow.
    async fn ratings(&self, id: i64, headers: &HeaderMap, color: &str) -> Option<Value> {
        let mut request = Request::get(format!("http://{}/ratings/{id}", self.settings.ratings));
        request.headers_mut()?.extend(handed_on(headers));
        let request = request.body(Full::new(Bytes::new())).ok()?;
        let response = match http_call::call(self.settings.proxy.as_ref(), request, patience(color)).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!("ratings: {error:#}");
                return None;
            }
        };
        if response.status() != StatusCode::OK {
            tracing::warn!("ratings answered {}", response.status());
            return None;
        }
        serde_json::from_slice::<Value>(response.body()).ok().map(|mut body| body["ratings"].take())
    }
}

/// How long ratings may take: black stars wait longer than the productpage does, red ones less. The fault injection
/// tasks are built on that difference.
fn patience(color: &str) -> Duration {
    if color == "black" { Duration::from_secs(10) } else { Duration::from_millis(2500) }
}

impl App for Reviews {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return server::not_found();
        }
        let path = request.uri().path();
        if path == "/health" {
            return server::json(StatusCode::OK, &json!({"status": "Reviews is healthy"}));
        }
        match path.strip_prefix("/reviews/").and_then(|id| id.parse().ok()) {
            Some(id) => server::json(StatusCode::OK, &self.reviews(id, request.headers()).await),
            None => server::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{
        super::{
            Version,
            testing::{Fake, Running, settings},
        },
        *,
    };

    async fn reviews(version: Version, ratings: &Running) -> Running {
        let podname = "reviews-pod".to_owned();
        let settings = Settings { ratings: ratings.address.clone(), podname, ..settings(version) };
        Running::start(Reviews::new(settings)).await
    }

    fn rated() -> Fake {
        Fake::default().with("/ratings/0", 200, json!({"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}))
    }

    fn ratings_of(body: &Value) -> Vec<Value> {
        body["reviews"].as_array().unwrap().iter().map(|review| review["rating"].clone()).collect()
    }

    #[tokio::test]
    async fn health_says_so() {
        let (ratings, _) = rated().start().await;
        let reviews = reviews(Version::V1, &ratings).await;
        assert_eq!(reviews.get_json("/health").await, (200, json!({"status": "Reviews is healthy"})));
    }

    #[tokio::test]
    async fn v1_has_two_reviews_and_never_asks_for_ratings() {
        let (ratings, asked) = rated().start().await;
        let (status, body) = reviews(Version::V1, &ratings).await.get_json("/reviews/0").await;
        let expected = json!({
            "id": "0",
            "podname": "reviews-pod",
            "clustername": "null",
            "reviews": [
                {"reviewer": "Reviewer1", "text": REVIEWS[0].1},
                {"reviewer": "Reviewer2", "text": REVIEWS[1].1},
            ],
        });
        assert_eq!((status, body), (200, expected));
        assert!(asked.lock().is_empty());
    }

    #[tokio::test]
    async fn v2_has_black_stars_and_v3_red_ones() {
        let (ratings, _) = rated().start().await;
        for (version, color) in [(Version::V2, "black"), (Version::V3, "red")] {
            let (_, body) = reviews(version, &ratings).await.get_json("/reviews/0").await;
            let expected = [json!({"stars": 5, "color": color}), json!({"stars": 4, "color": color})];
            assert_eq!(ratings_of(&body), expected);
        }
    }

    #[tokio::test]
    async fn failed_ratings_leave_the_reviews_with_an_error_each() {
        let (ratings, _) = Fake::default().with("/ratings/0", 503, "{}").start().await;
        let (status, body) = reviews(Version::V2, &ratings).await.get_json("/reviews/0").await;
        let error = json!({"error": "Ratings service is currently unavailable"});
        assert_eq!((status, ratings_of(&body)), (200, vec![error.clone(), error]));
    }

    #[tokio::test(start_paused = true)]
    async fn red_stars_wait_two_and_a_half_seconds_and_black_ones_ten() {
        let (ratings, _) = Fake::default().start().await;
        for (version, expected_ms) in [(Version::V3, 2500), (Version::V2, 10_000)] {
            let reviews = reviews(version, &ratings).await;
            let before = Instant::now();
            let (status, body) = reviews.get_json("/reviews/0").await;
            let took_ms = before.elapsed().as_millis();
            assert!((expected_ms..expected_ms + 100).contains(&took_ms), "took {took_ms} ms, not {expected_ms}");
            assert_eq!(
                (status, &ratings_of(&body)[0]["error"]),
                (200, &json!("Ratings service is currently unavailable"))
            );
        }
    }

    #[tokio::test]
    async fn the_user_and_the_request_id_are_handed_on_to_ratings() {
        let (ratings, asked) = rated().start().await;
        let request = Request::get("/").header("end-user", "jason").header("x-request-id", "42").header("accept", "x");
        reviews(Version::V2, &ratings).await.send(request, "/reviews/0", "").await;
        let (_, headers) = asked.lock()[0].clone();
        assert_eq!(
            (&headers["end-user"], &headers["x-request-id"]),
            (&"jason".parse().unwrap(), &"42".parse().unwrap())
        );
        assert!(!headers.contains_key("accept"));
    }

    #[tokio::test]
    async fn with_a_proxy_ratings_is_asked_there_by_its_name() {
        let body = json!({"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}});
        let (proxy, asked) = Fake::default().with("http://ratings:9080/ratings/0", 200, body).start().await;
        let settings =
            Settings::new(Version::V3, |name| (name == "http_proxy").then(|| format!("http://{}", proxy.address)));
        let reviews = Running::start(Reviews::new(settings.unwrap())).await;
        let (_, body) = reviews.get_json("/reviews/0").await;
        assert_eq!(ratings_of(&body)[0]["stars"], 5);
        assert_eq!(asked.lock()[0].1["host"], "ratings:9080");
    }

    #[tokio::test]
    async fn an_id_that_is_no_number_is_not_found() {
        let (ratings, _) = rated().start().await;
        assert_eq!(reviews(Version::V1, &ratings).await.get("/reviews/x").await.status(), 404);
    }
}
