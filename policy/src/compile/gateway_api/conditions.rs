//! From the `matches` of a route to what requests are matched against.

use std::sync::Arc;

use http::HeaderName;

use crate::{
    api::{
        gateway::{GrpcMethodMatch, GrpcRouteMatch, HttpPathMatch, HttpRouteMatch, PathMatchType, ValueMatchType},
        values::{Regex, StringMatch},
    },
    matcher::{ClientMatch, Field, Fields, RequestMatch, UriMatch, ValueMatch},
    pattern::Pattern,
};

/// `None` is a condition that always holds, and `port` the one that the client dialled. Returns `None` where an
/// expression does not compile, which the document's check has refused.
pub(super) fn http(condition: Option<&HttpRouteMatch>, port: Option<u16>, fields: &mut Fields) -> Option<RequestMatch> {
    let everything = HttpRouteMatch::default();
    let condition = condition.unwrap_or(&everything);
    let mut wanted = Wanted { fields, values: Vec::new() };
    if let Some(method) = condition.method {
        wanted.add(Field::Method, StringMatch::Exact(method.as_str().to_owned()));
    }
    for header in condition.headers.iter() {
        wanted.add_header(&header.name, value(header.kind, &header.value)?);
    }
    for parameter in condition.query_params.iter() {
        wanted.add(Field::Query(parameter.name.to_string()), value(parameter.kind, &parameter.value)?);
    }
    Some(RequestMatch {
        client: ClientMatch { port, ..ClientMatch::default() },
        uri: Some(path(&condition.path)?),
        values: wanted.values,
    })
}

/// As [`http`].
pub(super) fn grpc(condition: Option<&GrpcRouteMatch>, port: Option<u16>, fields: &mut Fields) -> Option<RequestMatch> {
    let mut wanted = Wanted { fields, values: Vec::new() };
    for header in condition.iter().flat_map(|condition| condition.headers.iter()) {
        wanted.add_header(&header.name, value(header.kind, &header.value)?);
    }
    let uri = match condition.and_then(|condition| condition.method.as_ref()) {
        Some(method) => grpc_path(method)?,
        None => path(&HttpPathMatch::default())?,
    };
    let client = ClientMatch { port, ..ClientMatch::default() };
    Some(RequestMatch { client, uri: Some(uri), values: wanted.values })
}

/// Conditions on values, each field once: of several entries for one the first holds, as the Gateway API says.
struct Wanted<'f> {
    fields: &'f mut Fields,
    values: Vec<ValueMatch>,
}

impl Wanted<'_> {
    fn add(&mut self, field: Field, wanted: StringMatch) {
        let field = self.fields.place_of(field);
        if !self.values.iter().any(|known| known.field == field) {
            self.values.push(ValueMatch { field, wanted, inverted: false, question: None });
        }
    }

    fn add_header(&mut self, name: &str, wanted: StringMatch) {
        // Its type allows header names only.
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return };
        self.add(if name == http::header::HOST { Field::Authority } else { Field::Header(name) }, wanted);
    }
}

fn value(kind: ValueMatchType, text: &str) -> Option<StringMatch> {
    match kind {
        ValueMatchType::Exact => Some(StringMatch::Exact(text.to_owned())),
        ValueMatchType::RegularExpression => regex(Pattern::new(text).ok()?),
    }
}

fn regex(pattern: Pattern) -> Option<StringMatch> {
    Some(StringMatch::Regex(Regex(Arc::new(pattern))))
}

fn path(path: &HttpPathMatch) -> Option<UriMatch> {
    let (value, whole_segments) = match path.kind {
        PathMatchType::Exact => (StringMatch::Exact(path.value.clone()), false),
        // A slash at its end means nothing.
        PathMatchType::PathPrefix => (StringMatch::Prefix(path.value.trim_end_matches('/').to_owned()), true),
        PathMatchType::RegularExpression => (regex(Pattern::new(&path.value).ok()?)?, false),
    };
    Some(UriMatch { value, ignore_case: false, whole_segments, question: None })
}

/// gRPC's path is `/SERVICE/METHOD`.
fn grpc_path(method: &GrpcMethodMatch) -> Option<UriMatch> {
    let value = match (method.kind, method.service.as_deref(), method.method.as_deref()) {
        (ValueMatchType::Exact, Some(service), Some(method)) => StringMatch::Exact(format!("/{service}/{method}")),
        (ValueMatchType::Exact, Some(service), None) => StringMatch::Prefix(format!("/{service}/")),
        _ => regex(method.path_pattern().ok()?)?,
    };
    Some(UriMatch { value, ignore_case: false, whole_segments: false, question: None })
}
