//! `details`: what there is to know about a book.

use anyhow::ensure;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{
    server::{self, App, Body},
    settings::Settings,
};

pub(super) struct Details;

impl Details {
    pub(super) fn new(settings: &Settings) -> anyhow::Result<Self> {
        ensure!(
            !settings.external_books,
            "ENABLE_EXTERNAL_BOOK_SERVICE=true asks for details v2, which this stand-in does not play: unset it"
        );
        Ok(Self)
    }
}

impl App for Details {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return server::not_found();
        }
        match request.uri().path() {
            "/health" => server::json(StatusCode::OK, &json!({"status": "Details is healthy"})),
            path => match path.strip_prefix("/details/") {
                Some(id) => book(id),
                None => server::not_found(),
            },
        }
    }
}

fn book(id: &str) -> Response<Body> {
    let Ok(id) = id.parse::<i64>() else {
        return server::json(StatusCode::BAD_REQUEST, &json!({"error": "please provide numeric product id"}));
    };
    let book = json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    });
    server::json(StatusCode::OK, &book)
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

    async fn details() -> Running {
        Running::start(Details::new(&settings(Version::V1)).unwrap()).await
    }

    #[tokio::test]
    async fn health_says_so() {
        assert_eq!(details().await.get_json("/health").await, (200, json!({"status": "Details is healthy"})));
    }

    #[tokio::test]
    async fn a_book_has_its_details() {
        let expected = json!({
            "id": 7, "author": "William Shakespeare", "year": 1595, "type": "paperback", "pages": 200,
            "publisher": "PublisherA", "language": "English", "ISBN-10": "1234567890", "ISBN-13": "123-1234567890",
        });
        assert_eq!(details().await.get_json("/details/7").await, (200, expected));
    }

    #[tokio::test]
    async fn an_id_that_is_no_number_is_refused() {
        let expected = json!({"error": "please provide numeric product id"});
        assert_eq!(details().await.get_json("/details/seven").await, (400, expected));
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        assert_eq!(details().await.get("/").await.status(), 404);
    }

    #[test]
    fn details_v2_is_refused_at_start() {
        let asking = Settings { external_books: true, ..settings(Version::V1) };
        assert!(Details::new(&asking).is_err());
    }
}
