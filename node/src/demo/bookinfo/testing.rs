//! Services on real sockets, for the tests beside them.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, uri::Authority};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Version,
    server::{self, App, Body},
    settings::Settings,
};
use crate::demo::http_call;

/// Settings with no variable set, whose upstreams nobody listens on.
pub(super) fn settings(version: Version) -> Settings {
    let nobody: Authority = "127.0.0.1:1".parse().unwrap();
    let settings = Settings::new(version, |_| None).unwrap();
    Settings { details: nobody.clone(), reviews: nobody.clone(), ratings: nobody, ..settings }
}

/// A service that runs until dropped.
pub(super) struct Running {
    pub(super) address: Authority,
    _stop: DropGuard,
}

impl Running {
    pub(super) async fn start(app: impl App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(listener, app, stop.clone()));
        Self { address, _stop: stop.drop_guard() }
    }

    pub(super) async fn send(&self, request: http::request::Builder, path: &str, body: &str) -> Response<Bytes> {
        let request = request.uri(format!("http://{}{path}", self.address));
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        http_call::call(None, request, std::time::Duration::from_secs(60)).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Response<Bytes> {
        self.send(Request::builder(), path, "").await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Response<Bytes> {
        self.send(Request::builder().method(Method::POST), path, body).await
    }

    pub(super) async fn get_json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }
}

/// What a [`Fake`] was asked: the request target as it came, and the headers.
pub(super) type Asked = Arc<Mutex<Vec<(String, HeaderMap)>>>;

/// An upstream that answers by request target and remembers what it was asked. A target without an answer hangs.
#[derive(Default)]
pub(super) struct Fake {
    answers: HashMap<String, (StatusCode, String)>,
    asked: Asked,
}

impl Fake {
    pub(super) fn with(mut self, target: &str, status: u16, body: impl ToString) -> Self {
        self.answers.insert(target.to_owned(), (StatusCode::from_u16(status).unwrap(), body.to_string()));
        self
    }

    pub(super) async fn start(self) -> (Running, Asked) {
        let asked = self.asked.clone();
        (Running::start(self).await, asked)
    }
}

impl App for Fake {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let target = request.uri().to_string();
        self.asked.lock().push((target.clone(), request.headers().clone()));
        match self.answers.get(&target) {
            Some((status, body)) => server::reply(*status, "application/json", body.clone()),
            None => std::future::pending().await,
        }
    }
}
