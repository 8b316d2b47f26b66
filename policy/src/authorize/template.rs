//! Path templates: `{*}` for one segment, `{**}` for any number of them.

/// A path with placeholders, each a whole segment; `{**}` stands once, after the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathTemplate {
    /// What comes before `{**}`, or all.
    segments: Vec<Segment>,
    /// What comes after `{**}`, from its slash on.
    after_rest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
}

const ONE: &str = "{*}";
const REST: &str = "{**}";

/// What Envoy's templates allow in a segment: RFC 3986's `pchar`, without `*`.
fn is_segment_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b)
}

impl PathTemplate {
    /// Whether a path is a template, or was meant to be one.
    pub(crate) fn is_template(path: &str) -> bool {
        path.contains(['{', '}'])
    }

    pub(crate) fn read(path: &str) -> Result<Self, String> {
        let Some(rest) = path.strip_prefix('/') else { return Err(format!("{path:?} must start with /")) };
        let mut template = Self { segments: Vec::new(), after_rest: None };
        let last = rest.split('/').count() - 1;
        for (index, segment) in rest.split('/').enumerate() {
            match (segment, &mut template.after_rest) {
                (ONE | REST, Some(_)) => return Err(format!("{path:?} has a placeholder after {REST}, the last")),
                (ONE, None) => template.segments.push(Segment::Any),
                (REST, None) => template.after_rest = Some(String::new()),
                (literal, _) if (literal.is_empty() && index != last) || !literal.bytes().all(is_segment_byte) => {
                    return Err(format!("{path:?}: segment {literal:?} is neither {ONE}, {REST} nor plain text"));
                }
                (literal, Some(after)) => *after = format!("{after}/{literal}"),
                (literal, None) => template.segments.push(Segment::Literal(literal.into())),
            }
        }
        Ok(template)
    }

    /// Whether it matches a path without query.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for segment in &self.segments {
            let Some(inside) = rest.strip_prefix('/') else { return false };
            let end = inside.find('/').unwrap_or(inside.len());
            let (found, after) = inside.split_at(end);
            let matches = match segment {
                Segment::Literal(literal) => found == literal,
                Segment::Any => !found.is_empty() && found.bytes().all(is_segment_byte),
            };
            if !matches {
                return false;
            }
            rest = after;
        }
        match &self.after_rest {
            None => rest.is_empty(),
            Some(after) => {
                let any = rest.strip_prefix('/').and_then(|rest| rest.strip_suffix(after.as_str()));
                any.is_some_and(|any| any.bytes().all(|b| b == b'/' || is_segment_byte(b)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_by_segments() {
        for (template, path, expected) in [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/", false),
            ("/a/{*}", "/a", false),
            ("/a/{*}", "/a/b/c", false),
            ("/a/{*}", "/a/b/", false),
            ("/a/{*}/c", "/a/b/c", true),
            ("/{*}/b/{*}", "/x/b/y", true),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/a/b//c/", true),
            ("/a/{**}/z", "/a//z", true),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/z", false),
            ("/a/{**}/z", "/a/b/zz", false),
            ("/{*}/{**}", "/a/b/c", true),
            ("/{*}/{**}", "/a", false),
            ("/a/{*}", "/A/b", false),
            ("/a/{*}", "/a/b%20c", true),
            ("/a/{*}", "/a/*", false),
            ("/a/{*}", "/a/b\"", false),
            ("/{*}/a/", "/x/a/", true),
            ("/{*}/a/", "/x/a", false),
        ] {
            assert_eq!(PathTemplate::read(template).unwrap().matches(path), expected, "{template} on {path}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for template in [
            "/{**}/{*}",
            "/{**}/{**}",
            "/a{*}",
            "/{*}a",
            "/{name}/{*}",
            "/{name=*}/{**}",
            "/*/{*}",
            "/**/{*}",
            "/{}/{*}",
            "{*}",
            "/a//{*}",
            "/a b/{*}",
            "/{name}",
            "/a/{name}/b",
            "/{*}/a/{name",
            "/{*}/a}/b",
            "/{*}/a/{*}.txt",
            "/a/{**}b/c",
            "/{*}/a/?b",
            "/{*}/a/*",
        ] {
            assert!(PathTemplate::read(template).is_err(), "{template}");
        }
    }
}
