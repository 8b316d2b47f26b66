//! The form of a line: a text with Envoy's operators in it, or a JSON object of such texts.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::{
    Entry,
    operator::{Operator, Value},
};
use crate::headers::TemplateError;

/// Istio's format of a text, without its end of line: <https://istio.io/latest/docs/tasks/observability/logs/access-log/>.
const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
     \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
     \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
     %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

/// Istio's fields of a JSON line.
const DEFAULT_JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// Deepest nesting of a JSON format.
const MAX_DEPTH: usize = 8;

/// How an [`Entry`] is written.
#[derive(Debug, PartialEq)]
pub struct LogFormat {
    form: Form,
    needs_heads: bool,
}

#[derive(Debug, PartialEq)]
enum Form {
    Text(Vec<Piece>),
    Json(Vec<(String, Label)>),
}

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Operator(Operator),
}

/// What a JSON format has under a name.
#[derive(Debug, PartialEq)]
enum Label {
    Text(Vec<Piece>),
    Object(Vec<(String, Label)>),
    /// Neither text nor object: written as it is.
    Fixed(Json),
}

impl LogFormat {
    /// # Errors
    /// An operator that Envoy does not know, or that is for what weft does not have; or a `%` alone. In words that
    /// name it.
    pub fn text(format: &str) -> Result<Self, String> {
        Ok(Self::of(Form::Text(pieces(format.trim_end_matches('\n'))?)))
    }

    /// # Errors
    /// As [`Self::text`], of each text in it.
    pub fn json(format: &serde_json::Map<String, Json>) -> Result<Self, String> {
        Ok(Self::of(Form::Json(labels(format, 1)?)))
    }

    /// Istio's default text.
    pub fn default_text() -> Self {
        Self::text(DEFAULT_TEXT).unwrap_or_else(|_| Self::of(Form::Text(Vec::new())))
    }

    /// A JSON object with Istio's default fields.
    pub fn default_json() -> Self {
        let read = DEFAULT_JSON.iter().map(|(name, text)| Ok(((*name).to_owned(), Label::Text(pieces(text)?))));
        Self::of(Form::Json(read.collect::<Result<_, String>>().unwrap_or_default()))
    }

    fn of(form: Form) -> Self {
        let needs_heads = match &form {
            Form::Text(pieces) => need_heads(pieces),
            Form::Json(labels) => labels.iter().any(|(_, label)| label.needs_heads()),
        };
        Self { form, needs_heads }
    }

    /// Whether it reads headers or trailers that are not kept unless asked for.
    pub fn needs_heads(&self) -> bool {
        self.needs_heads
    }

    /// Whether it is a JSON object.
    pub fn is_json(&self) -> bool {
        matches!(self.form, Form::Json(_))
    }

    /// Writes one line, without its end. `node` is the name of this one.
    pub fn write(&self, entry: &Entry, node: &str, line: &mut String) {
        match &self.form {
            Form::Text(pieces) => write_text(pieces, entry, node, line),
            Form::Json(_) => {
                let object = Json::Object(self.labels(entry, node));
                // Writing to a text does not fail.
                let _ = write!(line, "{object}");
            }
        }
    }

    /// What a tag of a span is worth, where operators without a value are nothing.
    pub fn tag(&self, entry: &Entry, node: &str) -> String {
        let Form::Text(pieces) = &self.form else { return String::new() };
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Operator(operator) if operator.value(entry, node) == Value::Nothing => {}
                piece => piece.write(entry, node, &mut text),
            }
        }
        text
    }

    /// The fields of a JSON format; of a text none.
    pub fn labels(&self, entry: &Entry, node: &str) -> serde_json::Map<String, Json> {
        match &self.form {
            Form::Text(_) => serde_json::Map::new(),
            Form::Json(labels) => object(labels, entry, node),
        }
    }
}

impl Label {
    fn needs_heads(&self) -> bool {
        match self {
            Self::Text(pieces) => need_heads(pieces),
            Self::Object(labels) => labels.iter().any(|(_, label)| label.needs_heads()),
            Self::Fixed(_) => false,
        }
    }

    fn json(&self, entry: &Entry, node: &str) -> Json {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Object(labels) => Json::Object(object(labels, entry, node)),
            // One operator keeps its type.
            Self::Text(pieces) => match pieces.as_slice() {
                [Piece::Operator(operator)] => match operator.value(entry, node) {
                    Value::Nothing => Json::Null,
                    Value::Text(text) => text.into_owned().into(),
                    Value::Number(number) => number.into(),
                    value @ (Value::Address(_) | Value::Ip(_) | Value::Date(..)) => {
                        let mut text = String::new();
                        value.write(&mut text);
                        text.into()
                    }
                },
                pieces => {
                    let mut text = String::new();
                    for piece in pieces {
                        piece.write(entry, node, &mut text);
                    }
                    text.into()
                }
            },
        }
    }
}

fn object(labels: &[(String, Label)], entry: &Entry, node: &str) -> serde_json::Map<String, Json> {
    labels.iter().map(|(name, label)| (name.clone(), label.json(entry, node))).collect()
}

fn labels(format: &serde_json::Map<String, Json>, depth: usize) -> Result<Vec<(String, Label)>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested deeper than {MAX_DEPTH}"));
    }
    let read = format.iter().map(|(name, value)| {
        let label = match value {
            Json::String(text) => Label::Text(pieces(text).map_err(|what| format!("{name}: {what}"))?),
            Json::Object(inner) => Label::Object(labels(inner, depth + 1)?),
            other => Label::Fixed(other.clone()),
        };
        Ok((name.clone(), label))
    });
    read.collect()
}

fn pieces(format: &str) -> Result<Vec<Piece>, String> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        push_text(&mut pieces, before);
        if let Some(after) = after.strip_prefix('%') {
            push_text(&mut pieces, "%");
            rest = after;
            continue;
        }
        let name: String = after.chars().take_while(|c| *c != '%').take(60).collect();
        match Operator::read(after) {
            Ok(Some((operator, after))) => {
                pieces.push(Piece::Operator(operator));
                rest = after;
            }
            Ok(None) => return Err(format!("%{name} has no end: write %% for a percent sign")),
            Err(TemplateError::Malformed(what)) => return Err(what),
            Err(TemplateError::NotHere) => return Err(format!("%{name}% is of Envoy's and nothing that weft knows")),
        }
    }
    push_text(&mut pieces, rest);
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(known)) => known.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn need_heads(pieces: &[Piece]) -> bool {
    pieces.iter().any(|piece| matches!(piece, Piece::Operator(operator) if operator.needs_heads()))
}

fn write_text(pieces: &[Piece], entry: &Entry, node: &str, line: &mut String) {
    for piece in pieces {
        let operator = match piece {
            Piece::Text(literal) => {
                line.push_str(literal);
                continue;
            }
            Piece::Operator(operator) => operator,
        };
        match operator.value(entry, node) {
            // What callers send must not look like another field, or another line.
            Value::Text(text) if !is_plain(&text) => line.push_str(&text.replace(breaks_out, "_")),
            value => value.write(line),
        }
    }
}

/// Whether nothing of it breaks out, as of nearly all: told by its bytes alone, all of which are looked at, as that is
/// done for many at once.
fn is_plain(text: &str) -> bool {
    let breaks_out = |byte: u8| !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\');
    !text.bytes().fold(false, |any, byte| any | breaks_out(byte))
}

fn breaks_out(c: char) -> bool {
    c.is_control() || matches!(c, '"' | '\\')
}

impl Piece {
    fn write(&self, entry: &Entry, node: &str, text: &mut String) {
        match self {
            Self::Text(literal) => text.push_str(literal),
            Self::Operator(operator) => operator.value(entry, node).write(text),
        }
    }
}
