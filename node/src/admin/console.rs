//! The console's files, as browsers get them. They are in the binary, compressed (`node/build.rs`); a binary that was
//! built without Node serves a page that says how to get them.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{self, HeaderName},
};
use http_body_util::{BodyExt, Full};

use super::server::Body;

mod built {
    include!(concat!(env!("OUT_DIR"), "/console.rs"));
}

/// Nothing but the console's own files and the admin API: no inline script or style, nothing from elsewhere, in nobody's
/// frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Names of files change with what is in them.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const NOT_BUILT: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<title>weft</title>
<h1>This weft has no console</h1>
<p>It was built where Node.js was missing. Install Node.js 20 or later and npm, and build it again:</p>
<pre>make build</pre>
<p>The admin API is here all the same: <a href=\"/api/v1/status\">status</a>, <a href=\"/api/v1/traffic\">traffic</a>,
<a href=\"/metrics\">metrics</a>; and <code>weft top</code> shows the mesh in a terminal.</p>
</html>
";

/// The file of that name; `None` if the console has none.
pub(super) fn file(name: &str, asked: &HeaderMap) -> Option<Response<Body>> {
    let name = if name.is_empty() { "index.html" } else { name };
    if built::FILES.is_empty() && name == "index.html" {
        let mut response = Response::new(Full::new(Bytes::from_static(NOT_BUILT.as_bytes())).boxed_unsync());
        guard(response.headers_mut());
        set(response.headers_mut(), header::CONTENT_TYPE, "text/html; charset=utf-8");
        set(response.headers_mut(), header::CACHE_CONTROL, "no-store");
        return Some(response);
    }
    let content_type = content_type(name)?;
    let place = built::FILES.binary_search_by_key(&name, |(name, _)| name).ok()?;
    let (_, content) = built::FILES[place];
    let is_page = !matches!(content_type, "text/javascript; charset=utf-8" | "text/css; charset=utf-8");
    let tag = format!("\"{}\"", built::VERSION);
    let values = |name: HeaderName| asked.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let mut response = if is_page && values(header::IF_NONE_MATCH).any(|known| known.contains(&tag)) {
        empty(StatusCode::NOT_MODIFIED)
    } else if !takes_gzip(values(header::ACCEPT_ENCODING)) {
        // Every browser takes it, and so does whoever says nothing (RFC 9110, section 12.5.3).
        empty(StatusCode::NOT_ACCEPTABLE)
    } else {
        let mut response = Response::new(Full::new(Bytes::from_static(content)).boxed_unsync());
        set(response.headers_mut(), header::CONTENT_TYPE, content_type);
        set(response.headers_mut(), header::CONTENT_ENCODING, "gzip");
        response
    };
    let headers = response.headers_mut();
    guard(headers);
    set(headers, header::VARY, "accept-encoding");
    set(headers, header::CACHE_CONTROL, if is_page { "no-cache" } else { FOR_EVER });
    if let (true, Ok(tag)) = (is_page, tag.parse()) {
        headers.insert(header::ETAG, tag);
    }
    Some(response)
}

/// `None` of what browsers are not meant to get.
fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

fn takes_gzip<'v>(accepted: impl Iterator<Item = &'v str>) -> bool {
    let mut accepted = accepted.flat_map(|value| value.split(',')).map(str::trim).peekable();
    accepted.peek().is_none()
        || accepted.any(|coding| {
            let (name, weight) = coding.split_once(';').map_or((coding, ""), |(name, weight)| (name.trim(), weight));
            matches!(name, "gzip" | "*") && weight.trim().strip_prefix("q=").and_then(|q| q.parse().ok()) != Some(0.0)
        })
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response
}

fn guard(headers: &mut HeaderMap) {
    set(headers, header::CONTENT_SECURITY_POLICY, POLICY);
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    set(headers, HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    set(headers, HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_whoever_takes_it() {
        for (accepted, taken) in [
            (vec![], true),
            (vec!["gzip, deflate, br"], true),
            (vec!["br", "gzip;q=0.5"], true),
            (vec!["*"], true),
            (vec!["gzip; q=0"], false),
            (vec!["identity"], false),
        ] {
            assert_eq!(takes_gzip(accepted.iter().copied()), taken, "{accepted:?}");
        }
    }

    #[test]
    fn the_page_is_always_there_and_nothing_else_may_be_loaded_by_it() {
        let page = file("", &HeaderMap::new()).unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(file("version", &HeaderMap::new()).is_none());
        assert!(file("../Cargo.toml", &HeaderMap::new()).is_none());
    }

    #[test]
    fn names_are_in_order_so_that_they_are_found() {
        assert!(built::FILES.is_sorted_by_key(|(name, _)| *name));
    }
}
