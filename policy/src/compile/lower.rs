//! From what a document says to what a request is matched against.

use http::HeaderName;

use crate::{
    api::networking::{HttpMatchRequest, HttpRewrite},
    matcher::{HeaderField, RequestMatch, UriMatch},
    rewrite::{PathRewrite, RegexRewrite},
};

pub(super) fn request_match(one: &HttpMatchRequest) -> RequestMatch {
    let uri = one.uri.clone().map(|value| UriMatch { value, ignore_case: one.ignore_uri_case });
    let header = |name: &str| match name {
        ":method" => Some(HeaderField::Method),
        ":scheme" => Some(HeaderField::Scheme),
        ":authority" => Some(HeaderField::Authority),
        name if name.eq_ignore_ascii_case("host") => Some(HeaderField::Authority),
        name => HeaderName::from_bytes(name.as_bytes()).ok().map(HeaderField::Header),
    };
    let headers = one.headers.iter().filter_map(|(name, wanted)| Some((header(name)?, wanted.clone()))).collect();
    RequestMatch { uri, method: one.method.clone(), headers }
}

/// `None` leaves the path as it is.
pub(super) fn path_rewrite(rewrite: &HttpRewrite) -> Option<PathRewrite> {
    match &rewrite.uri_regex_rewrite {
        // Compiled once when it was checked, so it compiles.
        Some(regex) => RegexRewrite::new(&regex.pattern, &regex.rewrite).ok().map(PathRewrite::Regex),
        None => (!rewrite.uri.is_empty()).then(|| PathRewrite::Matched(rewrite.uri.clone())),
    }
}
