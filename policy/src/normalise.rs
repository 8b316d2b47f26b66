//! Path normalisation, so that routing, authorisation and workload see one and the same path. Rules of section
//! "D-PATH"; the levels are those of Istio's `pathNormalization`.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Deserialize;

/// How much of a path is made uniform. Each level does what the one before does, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// Nothing.
    None,
    /// As RFC 3986 has it: `.` and `..` segments are resolved, characters that need no escape have none, others have
    /// one. Besides, `\` is read as `/`.
    #[default]
    Base,
    /// Also, several slashes become one.
    MergeSlashes,
    /// Also, and before all else, `%2f` and `%5c` are read as slashes.
    DecodeAndMergeSlashes,
}

/// A path that cannot be made uniform; the answer is status 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has an escaped NUL")]
pub struct BadPath;

/// Normalises a path; the query stays as it is, a fragment is dropped. What does not start with `/`, such as `*`, is
/// no path and stays. Allocates only if something changes.
///
/// # Errors
/// The path has `%00`, at any level but `NONE`.
pub fn normalise(path_and_query: &str, level: PathNormalization) -> Result<Cow<'_, str>, BadPath> {
    let whole = path_and_query.split('#').next().unwrap_or_default();
    if level == PathNormalization::None || !whole.starts_with('/') {
        return Ok(whole.into());
    }
    let query_at = whole.find('?').unwrap_or(whole.len());
    let (path, query) = whole.split_at(query_at);
    if path.contains("%00") {
        return Err(BadPath);
    }
    if !needs_change(path, level) {
        return Ok(whole.into());
    }
    let mut normal = without_dots(&unescaped(path, level));
    if level >= PathNormalization::MergeSlashes {
        normal = merged(&normal);
    }
    normal.push_str(query);
    Ok(normal.into())
}

/// With `%41` read as `A`; what is no such triple stays.
pub(crate) fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match triple(&bytes[at..]) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned().into()
}

/// The byte that an escape such as `%2F` at the start stands for.
pub(crate) fn triple(bytes: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    match bytes {
        [b'%', high, low, ..] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

/// RFC 3986, section 2.3: the same with and without escape.
fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

/// What a path can only have escaped, as Envoy has it.
fn needs_escape(b: u8) -> bool {
    !b.is_ascii_graphic() || matches!(b, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// What an escape is read as, where it is not kept.
fn read_as(escaped: u8, level: PathNormalization) -> Option<u8> {
    match escaped {
        b'/' | b'\\' if level == PathNormalization::DecodeAndMergeSlashes => Some(b'/'),
        b if is_unreserved(b) => Some(b),
        _ => None,
    }
}

fn needs_change(path: &str, level: PathNormalization) -> bool {
    let bytes = path.as_bytes();
    let merges = level >= PathNormalization::MergeSlashes;
    (0..bytes.len()).any(|at| match bytes[at] {
        b'\\' => true,
        b'%' => triple(&bytes[at..]).is_some_and(|byte| read_as(byte, level).is_some()),
        b'/' => match &bytes[at + 1..] {
            [b'/', ..] => merges,
            [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => true,
            _ => false,
        },
        b => needs_escape(b),
    })
}

fn unescaped(path: &str, level: PathNormalization) -> String {
    let mut out = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    let mut bare_percents = Vec::new();
    while at < bytes.len() {
        if let Some(byte) = triple(&bytes[at..]) {
            match read_as(byte, level) {
                Some(byte) => out.push(char::from(byte)),
                None => out.push_str(&path[at..at + 3]),
            }
            at += 3;
            continue;
        }
        match bytes[at] {
            b'\\' => out.push('/'),
            b'%' => {
                bare_percents.push(out.len());
                out.push('%');
            }
            b if needs_escape(b) => out.push_str(&format!("%{b:02X}")),
            b => out.push(char::from(b)),
        }
        at += 1;
    }
    // `%%300` must not become `%00`, which the next reader would decode.
    for percent in bare_percents.into_iter().rev() {
        if triple(&out.as_bytes()[percent..]).is_some() {
            out.insert_str(percent + 1, "25");
        }
    }
    out
}

/// RFC 3986, section 5.2.4: `..` takes the segment before it away, even an empty one.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_dots = matches!(segment, "." | "..");
        if segment == ".." {
            kept.pop();
        }
        if !is_dots {
            kept.push(segment);
        } else if segments.peek().is_none() {
            // What ends in dots is a directory.
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PathNormalization::*, *};

    fn check(level: PathNormalization, cases: &[(&str, &str)]) {
        for (path, expected) in cases {
            assert_eq!(normalise(path, level).unwrap(), *expected, "{path} at {level:?}");
        }
    }

    #[test]
    fn d_path_none_changes_nothing_but_drops_a_fragment() {
        check(
            None,
            &[
                ("/", "/"),
                ("/app#foo", "/app"),
                ("/app/../admin", "/app/../admin"),
                ("/app//", "/app//"),
                ("/app/%2f%2E", "/app/%2f%2E"),
                (r"/app\admin", r"/app\admin"),
                ("/%00", "/%00"),
            ],
        );
    }

    #[test]
    fn d_path_base_is_rfc_3986_and_reads_a_backslash_as_a_slash() {
        check(
            Base,
            &[
                ("/", "/"),
                ("/app", "/app"),
                ("/app/", "/app/"),
                ("/app#foo", "/app"),
                ("/app#foo?x", "/app"),
                ("/app?a=/../b%2e", "/app?a=/../b%2e"),
                ("/app/../admin", "/admin"),
                ("/app/../admin?q", "/admin?q"),
                ("/app/..", "/"),
                ("/app/.", "/app/"),
                ("/app/./x", "/app/x"),
                ("/..", "/"),
                ("/../../x", "/x"),
                ("/a/b/../../c", "/c"),
                ("/a/b/..", "/a/"),
                ("/app//", "/app//"),
                ("//", "//"),
                ("/app/%2f", "/app/%2f"),
                ("/app%2F/", "/app%2F/"),
                ("/xyz%30..//abc", "/xyz0..//abc"),
                ("/app/%2E./admin", "/admin"),
                ("/app/.%2e/admin", "/admin"),
                ("/app/%2e%2E", "/"),
                (r"/app\admin", "/app/admin"),
                (r"/app\..\admin", "/admin"),
                (r"/app/\/\/\admin", "/app//////admin"),
                (r"/%2Fapp%5cadmin%5Cabc", r"/%2Fapp%5cadmin%5Cabc"),
                (r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc", r"/%5Capp%2f%5c%2F..%2fadmin%5c/abc"),
                ("/app//../admin", "/app/admin"),
                ("/app//../../admin", "/admin"),
                ("/...", "/..."),
                ("/..;/x", "/..;/x"),
                ("/.a/..b", "/.a/..b"),
                ("/%zz%2", "/%zz%2"),
                ("/%7e%7E", "/~~"),
                ("/%252e%252e/x", "/%252e%252e/x"),
                ("/a b", "/a%20b"),
                ("/é", "/%C3%A9"),
                ("/{a}^|", "/%7Ba%7D%5E%7C"),
                ("/[a]!$&'()*+,;=:@", "/[a]!$&'()*+,;=:@"),
                ("/%%300", "/%2500"),
                ("/%2%66", "/%252f"),
                ("/%%32%65", "/%252e"),
                ("/%%41", "/%A"),
                ("/xyz/%2", "/xyz/%2"),
                ("/a/b/../../../../c", "/c"),
                (r"/a/..\c", "/c"),
                ("/%5c%25", "/%5c%25"),
                ("/a//..", "/a/"),
                ("//..", "/"),
                ("*", "*"),
                ("", ""),
            ],
        );
    }

    #[test]
    fn d_path_merge_slashes_leaves_one_of_several() {
        check(
            MergeSlashes,
            &[
                ("/app//", "/app/"),
                ("//app", "/app"),
                ("/app/%2f", "/app/%2f"),
                ("/xyz%30..//abc", "/xyz0../abc"),
                (r"/app/\/\/\admin", "/app/admin"),
                (r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc", r"/%5Capp%2f%5c%2F..%2fadmin%5c/abc"),
                ("/app//../admin", "/app/admin"),
                ("/app//../../admin", "/admin"),
                ("/app?a=//b", "/app?a=//b"),
            ],
        );
    }

    #[test]
    fn d_path_decode_and_merge_slashes_reads_escaped_slashes_first() {
        check(
            DecodeAndMergeSlashes,
            &[
                ("/app/%2f", "/app/"),
                ("/app%2f/", "/app/"),
                (r"/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"),
                (r"/%5Capp%2f%5c%2F%2e%2e%2fadmin%5c\abc", "/app/admin/abc"),
                ("/app%2f..%2fadmin", "/admin"),
                ("/%c0%2e%c0%2e/admin", "/%c0.%c0./admin"),
                ("/%c0%2fadmin", "/%c0/admin"),
            ],
        );
    }

    #[test]
    fn d_path_what_only_looks_like_slashes_and_dots_stays() {
        for path in [
            "/0x2e0x2e/admin",
            "/0x2e0x2e0x2fadmin",
            "/0x5c0x5cadmin",
            "/%25c0%25ae%25c1%259cadmin",
            "/%252e%252e%252fadmin",
            "/%c1%9cadmin",
            "/%c0%ae%c0%ae/admin",
            "/%c0%afadmin",
            "/.../admin",
            "/..;/admin",
            "/;/admin",
            "/admin;a=b/xyz",
            "/admin,a=b/xyz",
            "/ADMIN",
        ] {
            check(DecodeAndMergeSlashes, &[(path, path)]);
            assert!(matches!(normalise(path, DecodeAndMergeSlashes), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    #[test]
    fn d_path_escapes_are_decoded_for_unreserved_characters_and_slashes_alone() {
        for byte in 1..=0xff_u8 {
            let path = format!("/admin%{byte:02x}");
            let expected = match byte {
                b'/' | b'\\' => "/admin/".to_owned(),
                b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                    format!("/admin{}", char::from(byte))
                }
                _ => path.clone(),
            };
            check(DecodeAndMergeSlashes, &[(&path, &expected)]);
        }
    }

    #[test]
    fn d_path_an_escaped_nul_is_refused() {
        for level in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            for path in ["/admin%00", "/xyz/.%00../abc", "/xyz/AAAAA%%0000/abc"] {
                assert_eq!(normalise(path, level), Err(BadPath), "{path}");
            }
            assert!(normalise("/admin?x=%00", level).is_ok());
        }
    }

    proptest! {
        #[test]
        fn normalising_again_changes_nothing_and_allocates_nothing(
            path in "/([./\\\\a0%?#{ é]|%2[eEfF]|%5c|%00|%41|%3[0-9]|%6[0-9]){0,12}",
            level in prop::sample::select(vec![None, Base, MergeSlashes, DecodeAndMergeSlashes]),
        ) {
            if let Ok(once) = normalise(&path, level) {
                let twice = normalise(&once, level).unwrap();
                prop_assert_eq!(&twice, &once);
                prop_assert!(matches!(twice, Cow::Borrowed(_)));
            }
        }

        #[test]
        fn no_text_makes_normalising_panic(path in ".*") {
            for level in [None, Base, MergeSlashes, DecodeAndMergeSlashes] {
                let _ = normalise(&path, level);
            }
        }
    }
}
