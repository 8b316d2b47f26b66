//! Which requests a tap is to show, and how much of them.

use anyhow::{bail, ensure};
use http::{HeaderName, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_policy::access_log::{Entry, RequestLine};

use crate::traffic::{Call, Side, select::Resource};

/// The longest bodies that are shown, in bytes.
pub const MAX_BODY: usize = 16 * 1024;
pub const DEFAULT_MAX_RPS: u32 = 100;
pub const MAX_RPS: u32 = 1_000;

/// The question, as the admin API and other nodes are asked it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TapQuery {
    /// What is called, or who calls: as in `weft edges`.
    pub to: Option<String>,
    pub from: Option<String>,
    /// Of which either side is.
    pub namespace: Option<String>,
    /// Which node tells it; left out if it is any, for nodes of an older version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub method: Option<String>,
    /// A beginning; with `*` in it, the whole of it.
    pub path: Option<String>,
    /// `503`, `5xx`, `400-499`, or several with commas; 0 is no response.
    pub status: Option<String>,
    /// `NAME`, or `NAME:VALUE`: of requests.
    pub header: Vec<String>,
    /// Bytes of each body.
    pub body: usize,
    /// Requests per second of each node.
    pub max_rps: u32,
    /// Whose word it is: each request is seen at both ends.
    pub side: Side,
}

impl Default for TapQuery {
    fn default() -> Self {
        Self {
            to: None,
            from: None,
            namespace: None,
            node: None,
            method: None,
            path: None,
            status: None,
            header: Vec::new(),
            body: 0,
            max_rps: DEFAULT_MAX_RPS,
            side: Side::Source,
        }
    }
}

/// The question, as requests are held against it.
#[derive(Debug)]
pub struct Wanted {
    to: Option<Resource>,
    from: Option<Resource>,
    namespace: Option<String>,
    method: Option<Method>,
    path: Option<Pattern>,
    statuses: Vec<(u16, u16)>,
    headers: Vec<(HeaderName, Option<String>)>,
    side: Side,
    pub body: usize,
    pub max_rps: u32,
}

#[derive(Debug)]
enum Pattern {
    Begins(String),
    /// The pieces between the stars.
    Whole(Vec<String>),
}

impl TapQuery {
    /// # Errors
    /// Names the field that cannot be read, and what it should be.
    pub fn read(&self) -> anyhow::Result<Wanted> {
        let resource = |name: &str, text: &Option<String>| {
            let read = |text: &String| text.parse::<Resource>().map_err(|error| anyhow::anyhow!("{name}: {error}"));
            text.as_ref().map(read).transpose()
        };
        ensure!(self.body <= MAX_BODY, "body: at most {MAX_BODY} bytes are shown");
        ensure!((1..=MAX_RPS).contains(&self.max_rps), "max_rps: from 1 to {MAX_RPS} requests per second of each node");
        ensure!(self.header.len() <= 16, "header: at most 16 of them");
        let method = self.method.as_ref().map(|method| match method.to_ascii_uppercase().parse::<Method>() {
            Ok(method) => Ok(method),
            Err(_) => bail!("method: {method:?} is none: write GET or POST"),
        });
        let statuses = self.status.iter().flat_map(|text| text.split(',')).map(status);
        Ok(Wanted {
            to: resource("to", &self.to)?,
            from: resource("from", &self.from)?,
            namespace: self.namespace.clone(),
            method: method.transpose()?,
            path: self.path.as_deref().map(Pattern::of),
            statuses: statuses.collect::<anyhow::Result<_>>()?,
            headers: self.header.iter().map(|text| header(text)).collect::<anyhow::Result<_>>()?,
            side: self.side,
            body: self.body,
            max_rps: self.max_rps,
        })
    }

    /// Whether this node is to watch.
    pub fn is_for(&self, node: &str) -> bool {
        self.node.as_ref().is_none_or(|wanted| wanted == node)
    }

    /// In words, for the timeline.
    pub fn describe(&self) -> String {
        let mut words = Vec::new();
        let named = [
            ("to", &self.to),
            ("from", &self.from),
            ("namespace", &self.namespace),
            ("node", &self.node),
            ("method", &self.method),
            ("path", &self.path),
            ("status", &self.status),
        ];
        for (name, value) in named {
            words.extend(value.as_ref().map(|value| format!("{name} {value}")));
        }
        words.extend(self.header.iter().map(|header| {
            // A value that is looked for may be a secret.
            format!("header {}", header.split(':').next().unwrap_or_default())
        }));
        if self.body > 0 {
            words.push(format!("{} bytes of bodies", self.body));
        }
        if words.is_empty() { "all requests".to_owned() } else { words.join(", ") }
    }
}

fn status(text: &str) -> anyhow::Result<(u16, u16)> {
    let text = text.trim();
    let read = || {
        if let Some(class) = text.strip_suffix("xx") {
            let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))?;
            return Some((class * 100, class * 100 + 99));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        (first <= last && last <= 599).then_some((first, last))
    };
    match read() {
        Some(range) => Ok(range),
        None => bail!("status: {text:?} is none: write 503, 5xx or 400-499, with commas between several"),
    }
}

fn header(text: &str) -> anyhow::Result<(HeaderName, Option<String>)> {
    let (name, value) =
        text.split_once(':').map_or((text, None), |(name, value)| (name, Some(value.trim().to_owned())));
    match name.trim().parse::<HeaderName>() {
        Ok(name) => Ok((name, value)),
        Err(_) => bail!("header: {name:?} is no header's name: write NAME or NAME:VALUE"),
    }
}

impl Pattern {
    fn of(text: &str) -> Self {
        match text.contains('*') {
            true => Self::Whole(text.split('*').map(str::to_owned).collect()),
            false => Self::Begins(text.to_owned()),
        }
    }

    fn is(&self, path: &str) -> bool {
        let pieces = match self {
            Self::Begins(beginning) => return path.starts_with(beginning.as_str()),
            Self::Whole(pieces) => pieces,
        };
        let [first, middle @ .., last] = pieces.as_slice() else { return false };
        let Some(mut rest) = path.strip_prefix(first.as_str()) else { return false };
        for piece in middle {
            let Some(at) = rest.find(piece.as_str()) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

impl Wanted {
    /// As far as it can be told at a request's begin.
    pub fn may_want(&self, request: &RequestLine) -> bool {
        let path = || request.path().split('?').next().unwrap_or_default();
        self.method.as_ref().is_none_or(|method| *method == request.method)
            && self.path.as_ref().is_none_or(|pattern| pattern.is(path()))
            && self.headers.iter().all(|(name, value)| {
                let Some(found) = request.header(name) else { return false };
                value.as_ref().is_none_or(|value| found.as_bytes() == value.as_bytes())
            })
    }

    /// The rest, at its end.
    pub fn wants(&self, entry: &Entry, call: &Call) -> bool {
        let side = if entry.is_server { Side::Destination } else { Side::Source };
        let is_in = |namespace: &String| {
            [&call.source_namespace, &call.service_namespace, &call.destination_namespace].contains(&namespace)
        };
        side == self.side
            && (self.statuses.is_empty()
                || self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&entry.status)))
            && self.namespace.as_ref().is_none_or(is_in)
            && self.to.as_ref().is_none_or(|to| to.is_called(call))
            && self.from.as_ref().is_none_or(|from| from.calls(call))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Version};

    use super::*;

    fn line(method: &Method, path: &str, headers: &[(&'static str, &'static str)]) -> RequestLine {
        let headers: HeaderMap =
            headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap>();
        RequestLine::of(method, &path.parse().unwrap(), Version::HTTP_11, &headers, true)
    }

    fn wanted(change: impl FnOnce(&mut TapQuery)) -> Wanted {
        let mut query = TapQuery::default();
        change(&mut query);
        query.read().unwrap()
    }

    #[test]
    fn heads_are_held_against_method_path_and_headers() {
        let get = line(&Method::GET, "/api/v1/items?x=1", &[("x-user", "jason")]);
        assert!(wanted(|_| ()).may_want(&get));
        for path in ["/api", "/api/v1/items", "/api/*/items", "*items", "/api*", "*"] {
            assert!(wanted(|query| query.path = Some(path.into())).may_want(&get), "{path}");
        }
        for path in ["/apis", "api", "/api/*/item", "*/v2/*", "/api/v1/items/*"] {
            assert!(!wanted(|query| query.path = Some(path.into())).may_want(&get), "{path}");
        }
        assert!(wanted(|query| query.method = Some("get".into())).may_want(&get));
        assert!(!wanted(|query| query.method = Some("POST".into())).may_want(&get));
        for (header, is) in [("x-user", true), ("X-User: jason", true), ("x-user:jaso", false), ("x-other", false)] {
            assert_eq!(wanted(|query| query.header = vec![header.into()]).may_want(&get), is, "{header}");
        }
    }

    #[test]
    fn statuses_are_read_as_people_write_them() {
        assert_eq!(
            wanted(|query| query.status = Some("5xx, 404,0,410-412".into())).statuses,
            [(500, 599), (404, 404), (0, 0), (410, 412)]
        );
        for wrong in ["6xx", "x", "", "500-400", "1000", "5x"] {
            let query = TapQuery { status: Some(wrong.into()), ..TapQuery::default() };
            assert!(query.read().unwrap_err().to_string().starts_with("status: "), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_name() {
        let refused = |query: TapQuery| query.read().unwrap_err().to_string();
        assert!(refused(TapQuery { body: MAX_BODY + 1, ..TapQuery::default() }).starts_with("body"));
        assert!(refused(TapQuery { max_rps: 0, ..TapQuery::default() }).starts_with("max_rps"));
        assert!(refused(TapQuery { to: Some("pod/x".into()), ..TapQuery::default() }).starts_with("to"));
        assert!(refused(TapQuery { header: vec!["a b".into()], ..TapQuery::default() }).starts_with("header"));
        let words = TapQuery { to: Some("web".into()), header: vec!["x-key: s".into()], ..TapQuery::default() };
        assert_eq!(words.describe(), "to web, header x-key");
    }
}
