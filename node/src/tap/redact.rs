//! What a tap does not show: credentials, wherever they usually stand. Names decide; what is hidden is marked.

use http::{HeaderName, header};

/// In place of what is hidden.
pub const HIDDEN: &str = "[hidden]";

/// Parts of names whose values are secrets, in lower case.
const SECRET: [&str; 18] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "passw",
    "pwd",
    "apikey",
    "api-key",
    "api_key",
    "access-key",
    "access_key",
    "private",
    "credential",
    "session",
    "signature",
    "jwt",
    "csrf",
    "xsrf",
];
/// Whole names, which would be found in others.
const SECRET_WHOLE: [&str; 9] = ["key", "sig", "auth", "code", "pin", "otp", "sid", "x-auth", "assertion"];
/// Headers that are not secret though their names look like it.
const SHOWN: [&str; 3] = ["access-control-allow-credentials", "sec-websocket-key", "sec-websocket-accept"];

/// Whether the value of a header, parameter or field of this name is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WHOLE.contains(&name.as_str()) || SECRET.iter().any(|part| name.contains(part))
}

/// The value of a header.
pub fn header(name: &HeaderName, value: &str) -> String {
    if is_secret(name.as_str()) && !SHOWN.contains(&name.as_str()) {
        // Which scheme is no secret, and often the question.
        let scheme = value.split_once(' ').map(|(scheme, _)| scheme);
        let scheme =
            scheme.filter(|scheme| scheme.len() <= 16 && scheme.bytes().all(|byte| byte.is_ascii_alphabetic()));
        return match scheme.filter(|_| name.as_str().ends_with("authorization")) {
            Some(scheme) => format!("{scheme} {HIDDEN}"),
            None => HIDDEN.to_owned(),
        };
    }
    let is_url = [header::REFERER, header::LOCATION, header::CONTENT_LOCATION, header::LINK].contains(name)
        || matches!(name.as_str(), "x-envoy-original-path" | "x-original-url" | "x-forwarded-uri");
    if is_url { url(value) } else { value.to_owned() }
}

/// A URL or a path with a query: secrets of the query are hidden, and so is who a URL logs in as.
pub fn url(text: &str) -> String {
    let (front, fragment) = match text.split_once('#') {
        // Tokens are handed to pages there.
        Some((front, _)) => (front, format!("#{HIDDEN}")),
        None => (text, String::new()),
    };
    let (place, query) = match front.split_once('?') {
        Some((place, query)) => (place, format!("?{}", form(query))),
        None => (front, String::new()),
    };
    let place = match place.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host =
                rest[..end].rsplit_once('@').map_or(rest[..end].to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => place.to_owned(),
    };
    place + &query + &fragment
}

/// Parameters such as `a=b&c=d`.
fn form(text: &str) -> String {
    let shown = text.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if !value.is_empty() && is_secret(&decoded(name)) => format!("{name}={HIDDEN}"),
        _ => pair.to_owned(),
    });
    shown.collect::<Vec<_>>().join("&")
}

/// A text without its percent signs, which would hide a name from us alone.
pub fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The beginning of a body of this type, of which so many bytes have come in all; `None` for one that cannot be shown
/// without showing what may be in it.
pub fn body(content_type: &str, is_encoded: bool, bytes: &[u8], total: u64) -> Option<String> {
    if bytes.is_empty() {
        return None;
    }
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let more = if total > bytes.len() as u64 { format!(" … {total} bytes") } else { String::new() };
    let text = || {
        // A character may be cut off at the end.
        let text = String::from_utf8_lossy(bytes);
        text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned()
    };
    let shown = match media.as_str() {
        _ if is_encoded => None,
        "application/x-www-form-urlencoded" => Some(form(&text())),
        media if media == "application/json" || media.ends_with("+json") || media == "application/graphql" => {
            Some(json(&text()))
        }
        "" | "application/x-ndjson" => Some(json(&text())).filter(|text| !text.chars().any(is_binary)),
        media if media.starts_with("text/") || media == "application/xml" || media.ends_with("+xml") => Some(text()),
        _ => None,
    };
    let kind = if media.is_empty() { "no type" } else { &media };
    let what = if is_encoded { "compressed " } else { "" };
    Some(shown.map_or_else(|| format!("[{total} bytes of {what}{kind}]"), |text| text + &more))
}

fn is_binary(char: char) -> bool {
    char == char::REPLACEMENT_CHARACTER || (char.is_control() && !char.is_whitespace())
}

/// JSON, which may be cut off: the values of fields with secret names are hidden. Of objects and lists there, all that
/// they have.
fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let (before, from) = rest.split_at(at);
        let end = end_of_string(from);
        let (string, after) = from.split_at(end);
        shown.push_str(before);
        rest = after;
        let gap = after.len() - after.trim_start().len();
        let Some(value) = after[gap..].strip_prefix(':') else {
            shown.push_str(&string_value(string));
            continue;
        };
        shown.push_str(string);
        if is_secret(string.trim_matches('"')) {
            let blank = value.len() - value.trim_start().len();
            let value = &value[blank..];
            let end = end_of_value(value);
            if end > 0 {
                shown.extend([": \"", HIDDEN, "\""]);
            }
            rest = &value[end..];
        }
    }
    shown + rest
}

/// A string that is a value, with its quotes: an address may have secrets in its query.
fn string_value(string: &str) -> String {
    let inner = string.trim_matches('"');
    match inner.contains('?') && !inner.contains(char::is_whitespace) {
        true => string.replacen(inner, &url(inner), 1),
        false => string.to_owned(),
    }
}

/// Where a string ends that begins here, with its quotes.
fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (i, char) in text.char_indices().skip(1) {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// Where a value ends that begins here.
fn end_of_value(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(char) = text[at..].chars().next() {
        match char {
            '"' => at += end_of_string(&text[at..]),
            '{' | '[' => {
                depth += 1;
                at += 1;
            }
            '}' | ']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            ',' | '}' | ']' if depth == 0 => return at,
            char => {
                at += char.len_utf8();
                continue;
            }
        }
        if depth == 0 && matches!(char, '"' | '}' | ']') {
            return at;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_header(name: &str, value: &str) -> String {
        header(&name.parse().unwrap(), value)
    }

    #[test]
    fn credentials_in_headers_are_hidden_and_others_are_not() {
        assert_eq!(of_header("authorization", "Bearer eyJhbGciOi"), "Bearer [hidden]");
        assert_eq!(of_header("proxy-authorization", "c2VjcmV0"), HIDDEN);
        for name in [
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-auth-token",
            "x-amz-security-token",
            "x-csrf-token",
            "x-vault-token",
        ] {
            assert_eq!(of_header(name, "s3cret of mine"), HIDDEN, "{name}");
        }
        for (name, value) in
            [("accept", "*/*"), ("user-agent", "curl/8"), ("x-request-id", "abc"), ("sec-websocket-key", "x")]
        {
            assert_eq!(of_header(name, value), value);
        }
        assert_eq!(
            of_header("referer", "https://me:pw@host/a?token=x#id"),
            "https://[hidden]@host/a?token=[hidden]#[hidden]"
        );
    }

    #[test]
    fn secrets_in_queries_are_hidden_however_their_names_are_written() {
        assert_eq!(
            url("/a?q=1&access_token=x&KEY=y&ap%69_key=z&empty_token="),
            "/a?q=1&access_token=[hidden]&KEY=[hidden]&ap%69_key=[hidden]&empty_token="
        );
        assert_eq!(url("/monkey?keyboard=qwerty"), "/monkey?keyboard=qwerty");
        assert_eq!(url("*"), "*");
        assert_eq!(url("/?%&%zz=%4"), "/?%&%zz=%4");
    }

    #[test]
    fn bodies_are_shown_if_their_secrets_can_be_found() {
        let show = |kind: &str, text: &str| body(kind, false, text.as_bytes(), text.len() as u64);
        assert_eq!(show("text/plain", "hello").as_deref(), Some("hello"));
        assert_eq!(
            show("application/x-www-form-urlencoded", "user=me&password=pw").as_deref(),
            Some("user=me&password=[hidden]")
        );
        let json = r#"{"user": "me", "Password" : "p\"w", "n": 1, "tokens": {"a": ["b"]}, "pin":7}"#;
        let shown = r#"{"user": "me", "Password": "[hidden]", "n": 1, "tokens": "[hidden]", "pin": "[hidden]"}"#;
        assert_eq!(show("application/problem+json; charset=utf-8", json).as_deref(), Some(shown));
        let addresses = r#"{"target":"/a?token=abc&b=1","text":"Who? #1"}"#;
        let shown = r#"{"target":"/a?token=[hidden]&b=1","text":"Who? #1"}"#;
        assert_eq!(show("application/json", addresses).as_deref(), Some(shown));
        assert_eq!(show("application/grpc", "\0\0abc").as_deref(), Some("[5 bytes of application/grpc]"));
        assert_eq!(show("", "\0\0abc").as_deref(), Some("[5 bytes of no type]"));
        assert_eq!(body("text/plain", true, b"\x1f\x8b", 2).as_deref(), Some("[2 bytes of compressed text/plain]"));
        assert_eq!(show("text/plain", ""), None);
    }

    #[test]
    fn a_body_that_is_cut_off_hides_what_it_has_of_a_secret() {
        let whole = r#"{"a":1,"secret":"abcdefgh","é":"é"}"#;
        for end in 0..whole.len() {
            let shown =
                body("application/json", false, &whole.as_bytes()[..end], whole.len() as u64).unwrap_or_default();
            assert!(!shown.contains("abc"), "{shown}");
        }
        let cut = body("application/json", false, &whole.as_bytes()[..20], 36).unwrap();
        assert_eq!(cut, r#"{"a":1,"secret": "[hidden]" … 36 bytes"#);
    }
}
