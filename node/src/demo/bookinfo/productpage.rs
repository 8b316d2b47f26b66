//! `productpage`: the page, its login, and the same data as JSON.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{HeaderValue, LOCATION, REFERER, SET_COOKIE},
    uri::Authority,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    forward::handed_on_for_user,
    page::{self, Answer},
    server::{self, App, Body},
    session::{Sessions, form_value},
    settings::Settings,
};
use crate::demo::http_call;

/// How long one call to another service may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest accepted login form, in bytes.
const MAX_FORM: usize = 16 << 10;

pub(super) struct Productpage {
    settings: Settings,
    sessions: Sessions,
    /// Answers of other services, by service and status.
    results: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

/// A service that productpage asks, and how often it tries.
#[derive(Clone, Copy)]
enum Upstream {
    Details,
    Reviews,
    Ratings,
}

impl Upstream {
    fn name(self) -> &'static str {
        match self {
            Self::Details => "details",
            Self::Reviews => "reviews",
            Self::Ratings => "ratings",
        }
    }

    /// Two for reviews is bookinfo's deliberate bug: a slow rating makes the page wait 6 s and fail all the same.
    fn tries(self) -> u32 {
        if matches!(self, Self::Reviews) { 2 } else { 1 }
    }
}

impl Productpage {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, sessions: Sessions::default(), results: Mutex::default() }
    }

    async fn page(&self, headers: &HeaderMap) -> Response<Body> {
        let user = self.sessions.user(headers);
        let forwarded = handed_on_for_user(headers, user.as_ref());
        let (_, details) = self.ask(Upstream::Details, "0", &forwarded).await;
        join_all((0..self.settings.flood_factor).map(|_| self.ask(Upstream::Reviews, "0", &forwarded))).await;
        let (_, reviews) = self.ask(Upstream::Reviews, "0", &forwarded).await;
        let user = user.map(|user| String::from_utf8_lossy(user.as_bytes()).into_owned());
        html(page::product(user.as_deref(), &details, &reviews))
    }

    /// `/api/v1/products/ID[/reviews|/ratings]`, given what follows `products/`.
    async fn api(&self, path: &str, headers: &HeaderMap) -> Response<Body> {
        let (id, upstream) = match path.split_once('/') {
            None => (path, Upstream::Details),
            Some((id, "reviews")) => (id, Upstream::Reviews),
            Some((id, "ratings")) => (id, Upstream::Ratings),
            Some(_) => return server::not_found(),
        };
        let user = self.sessions.user(headers);
        let (status, answer) = self.ask(upstream, id, &handed_on_for_user(headers, user.as_ref())).await;
        server::json(status, &answer.unwrap_or_else(|error| error))
    }

    /// Asks another service about a product: its status and JSON, or the status (500 if there was no answer) and an
    /// error object.
    async fn ask(&self, upstream: Upstream, id: &str, headers: &HeaderMap) -> (StatusCode, Answer) {
        let name = upstream.name();
        let mut status = StatusCode::INTERNAL_SERVER_ERROR;
        for _ in 0..upstream.tries() {
            status = match self.call(upstream, id, headers).await {
                Ok((StatusCode::OK, Some(answer))) => {
                    self.count(name, StatusCode::OK);
                    return (StatusCode::OK, Ok(answer));
                }
                Ok((StatusCode::OK, None)) => StatusCode::INTERNAL_SERVER_ERROR,
                Ok((status, _)) => status,
                Err(error) => {
                    tracing::warn!("{name}: {error:#}");
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
        }
        self.count(name, status);
        let error = format!("Sorry, product {name} are currently unavailable for this book.");
        (status, Err(json!({ "error": error })))
    }

    async fn call(
        &self,
        upstream: Upstream,
        id: &str,
        headers: &HeaderMap,
    ) -> anyhow::Result<(StatusCode, Option<Value>)> {
        let name = upstream.name();
        let mut request =
            Request::get(format!("http://{}/{name}/{id}", self.authority(upstream))).body(Full::default())?;
        *request.headers_mut() = headers.clone();
        let response = http_call::call(self.settings.proxy.as_ref(), request, PATIENCE).await?;
        Ok((response.status(), serde_json::from_slice(response.body()).ok()))
    }

    fn authority(&self, upstream: Upstream) -> &Authority {
        match upstream {
            Upstream::Details => &self.settings.details,
            Upstream::Reviews => &self.settings.reviews,
            Upstream::Ratings => &self.settings.ratings,
        }
    }

    fn count(&self, upstream: &'static str, status: StatusCode) {
        *self.results.lock().entry((upstream, status.as_u16())).or_default() += 1;
    }

    fn metrics(&self) -> Response<Body> {
        let mut text = String::from(
            "# HELP request_result_total Results of requests to other services\n# TYPE request_result_total counter\n",
        );
        for ((app, code), count) in &*self.results.lock() {
            // Writing to a String does not fail.
            let _ =
                writeln!(text, "request_result_total{{destination_app=\"{app}\",response_code=\"{code}\"}} {count}");
        }
        server::reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
    }

    async fn login(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let form: Bytes = Limited::new(body, MAX_FORM).collect().await.map(|form| form.to_bytes()).unwrap_or_default();
        match form_value(&form, "username").and_then(|user| self.sessions.sign_in(&user)) {
            Some(cookie) => back(&head.headers, cookie),
            None => server::reply(StatusCode::BAD_REQUEST, "text/plain", "please provide a user name"),
        }
    }
}

/// A redirect to the page that the request came from, with a cookie.
fn back(headers: &HeaderMap, cookie: HeaderValue) -> Response<Body> {
    let came_from = headers.get(REFERER).cloned().unwrap_or(HeaderValue::from_static("productpage"));
    let mut response = server::reply(StatusCode::FOUND, "text/plain", "");
    response.headers_mut().insert(LOCATION, came_from);
    response.headers_mut().insert(SET_COOKIE, cookie);
    response
}

fn html(page: String) -> Response<Body> {
    server::reply(StatusCode::OK, "text/html; charset=utf-8", page)
}

impl App for Productpage {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let headers = request.headers();
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/login") => self.login(request).await,
            (&Method::GET, "/" | "/index.html") => html(page::index()),
            (&Method::GET, "/health") => {
                server::reply(StatusCode::OK, "text/html; charset=utf-8", "Product page is healthy")
            }
            (&Method::GET, "/logout") => back(headers, self.sessions.sign_out(headers)),
            (&Method::GET, "/productpage") => self.page(headers).await,
            (&Method::GET, "/static/bookinfo.css") => server::reply(StatusCode::OK, "text/css", page::STYLESHEET),
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, "/api/v1/products") => {
                let products = json!([{"id": 0, "title": page::TITLE, "descriptionHtml": page::DESCRIPTION}]);
                server::json(StatusCode::OK, &products)
            }
            (&Method::GET, path) => match path.strip_prefix("/api/v1/products/") {
                Some(rest) => self.api(rest, headers).await,
                None => server::not_found(),
            },
            _ => server::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{
        super::{
            Version,
            testing::{Asked, Fake, Running, settings},
        },
        *,
    };

    const SORRY_DETAILS: &str = "Sorry, product details are currently unavailable for this book.";
    const SORRY_REVIEWS: &str = "Sorry, product reviews are currently unavailable for this book.";

    fn reviews_body() -> Value {
        let rating = json!({"stars": 5, "color": "black"});
        let review = json!({"reviewer": "Reviewer1", "text": "Good.", "rating": rating});
        json!({"id": "0", "podname": "reviews-v2", "clustername": "null", "reviews": [review]})
    }

    fn healthy() -> Fake {
        Fake::default()
            .with("/details/0", 200, json!({"id": 0, "author": "William Shakespeare"}))
            .with("/reviews/0", 200, reviews_body())
            .with("/ratings/0", 200, json!({"id": 0, "ratings": {"Reviewer1": 5}}))
    }

    /// The productpage with `fake` as all three of its upstreams.
    async fn start_with(fake: Fake, flood_factor: u32) -> (Running, Running, Asked) {
        let (upstream, asked) = fake.start().await;
        let address = upstream.address.clone();
        let settings = Settings {
            details: address.clone(),
            reviews: address.clone(),
            ratings: address,
            flood_factor,
            ..settings(Version::V1)
        };
        (Running::start(Productpage::new(settings)).await, upstream, asked)
    }

    fn html_of(response: &Response<Bytes>) -> &str {
        assert_eq!(response.status(), 200);
        std::str::from_utf8(response.body()).unwrap()
    }

    #[tokio::test]
    async fn index_health_and_stylesheet_are_served() {
        let (app, _upstream, _) = start_with(healthy(), 0).await;
        for path in ["/", "/index.html"] {
            assert!(html_of(&app.get(path).await).contains("href=\"productpage\""));
        }
        assert_eq!(html_of(&app.get("/health").await), "Product page is healthy");
        assert_eq!(app.get("/static/bookinfo.css").await.headers()["content-type"], "text/css");
        assert_eq!(app.get("/static/other.css").await.status(), 404);
    }

    #[tokio::test]
    async fn the_page_shows_details_and_reviews_with_stars() {
        let (app, _upstream, _) = start_with(healthy(), 0).await;
        let response = app.get("/productpage").await;
        let html = html_of(&response);
        let markers = [page::TITLE, "William Shakespeare", "Reviews served by: <u>reviews-v2</u>", "text-black-500"];
        for marker in markers.into_iter().chain(["<svg id=\"glyphicon glyphicon-star\""]) {
            assert!(html.contains(marker), "{marker}");
        }
    }

    #[tokio::test]
    async fn the_product_list_has_the_one_book() {
        let (app, _upstream, _) = start_with(healthy(), 0).await;
        let (status, body) = app.get_json("/api/v1/products").await;
        assert_eq!((status, body[0]["id"].as_i64(), body[0]["title"].as_str()), (200, Some(0), Some(page::TITLE)));
    }

    #[tokio::test]
    async fn the_api_hands_out_what_the_other_services_say() {
        let (app, _upstream, _) = start_with(healthy(), 0).await;
        let (status, details) = app.get_json("/api/v1/products/0").await;
        assert_eq!((status, &details["author"]), (200, &json!("William Shakespeare")));
        assert_eq!(app.get_json("/api/v1/products/0/reviews").await, (200, reviews_body()));
        assert_eq!(app.get_json("/api/v1/products/0/ratings").await.1["ratings"]["Reviewer1"], 5);
        assert_eq!(app.get("/api/v1/products/0/prices").await.status(), 404);
    }

    #[tokio::test]
    async fn the_api_reports_an_upstream_failure_with_its_status() {
        let fake =
            Fake::default().with("/details/0", 503, "{}").with("/reviews/0", 404, "").with("/ratings/0", 418, "");
        let (app, _upstream, _) = start_with(fake, 0).await;
        assert_eq!(app.get_json("/api/v1/products/0").await, (503, json!({"error": SORRY_DETAILS})));
        assert_eq!(app.get_json("/api/v1/products/0/reviews").await, (404, json!({"error": SORRY_REVIEWS})));
        let sorry = json!({"error": "Sorry, product ratings are currently unavailable for this book."});
        assert_eq!(app.get_json("/api/v1/products/0/ratings").await, (418, sorry));
    }

    #[tokio::test]
    async fn without_an_answer_the_api_says_500_and_the_page_apologises() {
        let app = Running::start(Productpage::new(settings(Version::V1))).await;
        assert_eq!(app.get_json("/api/v1/products/0").await, (500, json!({"error": SORRY_DETAILS})));
        let response = app.get("/productpage").await;
        let html = html_of(&response);
        let errors = ["Error fetching product details", SORRY_DETAILS, "Error fetching product reviews", SORRY_REVIEWS];
        for error in errors {
            assert!(html.contains(error), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_reviews_are_tried_twice_for_three_seconds_each() {
        let fake = Fake::default().with("/details/0", 200, "{}");
        let (app, _upstream, _) = start_with(fake, 0).await;
        let before = Instant::now();
        let response = app.get("/productpage").await;
        let took_ms = before.elapsed().as_millis();
        assert!((6000..6100).contains(&took_ms), "took {took_ms} ms");
        assert!(html_of(&response).contains(SORRY_REVIEWS));
    }

    #[tokio::test]
    async fn failing_reviews_are_tried_twice_and_details_once() {
        let fake = Fake::default().with("/details/0", 500, "").with("/reviews/0", 500, "");
        let (app, _upstream, asked) = start_with(fake, 0).await;
        app.get("/productpage").await;
        let targets: Vec<String> = asked.lock().iter().map(|(target, _)| target.clone()).collect();
        assert_eq!(targets, ["/details/0", "/reviews/0", "/reviews/0"]);
    }

    #[tokio::test]
    async fn flooding_calls_reviews_that_many_times_more() {
        let (app, _upstream, asked) = start_with(healthy(), 5).await;
        app.get("/productpage").await;
        assert_eq!(asked.lock().iter().filter(|(target, _)| target == "/reviews/0").count(), 6);
    }

    #[tokio::test]
    async fn signing_in_makes_the_end_user_header_until_signing_out() {
        let (app, _upstream, asked) = start_with(healthy(), 0).await;
        let form = Request::post("/").header("referer", "http://books/productpage");
        let login = app.send(form, "/login", "username=jason&passwd=secret").await;
        assert_eq!(
            (login.status(), &login.headers()["location"]),
            (StatusCode::FOUND, &"http://books/productpage".parse().unwrap())
        );
        let cookie = login.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("session="));

        let page = app.send(Request::get("/").header("cookie", &cookie), "/productpage", "").await;
        assert!(html_of(&page).contains("Signed in as <b>jason</b>"));
        assert!(asked.lock().drain(..).all(|(_, headers)| headers["end-user"] == "jason"));

        let logout = Request::get("/").header("cookie", &cookie).header("referer", "http://books/productpage");
        let logout = app.send(logout, "/logout", "").await;
        assert_eq!(
            (logout.status(), &logout.headers()["location"]),
            (StatusCode::FOUND, &"http://books/productpage".parse().unwrap())
        );
        app.send(Request::get("/").header("cookie", &cookie), "/productpage", "").await;
        assert!(asked.lock().drain(..).all(|(_, headers)| !headers.contains_key("end-user")));
    }

    #[tokio::test]
    async fn a_login_without_a_name_is_refused() {
        let (app, _upstream, _) = start_with(healthy(), 0).await;
        assert_eq!(app.post("/login", "passwd=secret").await.status(), 400);
    }

    #[tokio::test]
    async fn one_request_id_goes_to_every_service() {
        let (app, _upstream, asked) = start_with(healthy(), 0).await;
        app.send(Request::get("/").header("x-request-id", "42"), "/productpage", "").await;
        assert!(asked.lock().drain(..).all(|(_, headers)| headers["x-request-id"] == "42"));
        app.get("/productpage").await;
        let ids: Vec<HeaderValue> =
            asked.lock().drain(..).map(|(_, headers)| headers["x-request-id"].clone()).collect();
        assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
    }

    #[tokio::test]
    async fn results_are_counted_by_service_and_status() {
        let fake = healthy().with("/reviews/0", 503, "");
        let (app, _upstream, _) = start_with(fake, 0).await;
        app.get("/productpage").await;
        let metrics = app.get("/metrics").await;
        let metrics = html_of(&metrics);
        assert!(metrics.contains("\nrequest_result_total{destination_app=\"details\",response_code=\"200\"} 1\n"));
        assert!(metrics.contains("\nrequest_result_total{destination_app=\"reviews\",response_code=\"503\"} 1\n"));
    }
}
