//! Values that the kinds of the Gateway API share.

use std::{borrow::Cow, time::Duration as StdDuration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use crate::api::values::{Text, checked_text, go_duration, shortened};

checked_text!(
    /// A DNS name, or `*.` and one, which stands for all names that end so.
    Hostname,
    1..=253,
    r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    "a DNS name in lower case, with *. at most before it"
);

checked_text!(
    /// A DNS name without a wildcard.
    PreciseHostname,
    1..=253,
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    "a DNS name in lower case"
);

checked_text!(
    /// An API group; empty for the core group, which has Service and Secret.
    Group,
    0..=253,
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$",
    "an API group such as gateway.networking.k8s.io"
);

checked_text!(
    /// The kind of a document, such as `Service`.
    KindName,
    1..=63,
    r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$",
    "a kind such as Service"
);

checked_text!(
    /// The name of a document.
    ObjectName,
    1..=253,
    r"^(?s:.)*$",
    "the name of a document"
);

checked_text!(
    /// The name of a listener, of a service's port, or of a rule.
    SectionName,
    1..=253,
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    "a name of a-z, 0-9, '-' and '.'"
);

checked_text!(
    /// Who serves a class of gateways.
    ControllerName,
    1..=253,
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$",
    "a DNS name, '/' and a path, such as example.com/gateway-controller"
);

checked_text!(
    /// The key of an annotation or option: `[DNS name/]name`.
    AnnotationKey,
    1..=253,
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$",
    "a key: [DNS name/]letters, digits, '-', '_', '.'"
);

checked_text!(
    /// The value of an annotation or option.
    AnnotationValue,
    0..=4096,
    r"^(?s:.)*$",
    "a value"
);

checked_text!(
    /// The name of a header or query parameter.
    HeaderName,
    1..=256,
    r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$",
    "a header's name"
);

checked_text!(
    /// The value of a header.
    HeaderValue,
    1..=4096,
    r"^[!-~]+([\t ]?[!-~]+)*$",
    "a header's value: printable ASCII with single blanks between"
);

checked_text!(
    /// The protocol of a listener: HTTP, HTTPS, TLS, TCP or UDP in any case, or one of an implementation.
    ProtocolType,
    1..=255,
    r"^([a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]+)$",
    "a protocol such as HTTP, HTTPS, TLS or TCP"
);

checked_text!(
    /// A URI with scheme and authority.
    AbsoluteUri,
    1..=253,
    r"^[^:/?#]+://[^/?#]*[^?#]*(\?[^#]*)?(#.*)?$",
    "a URI with its scheme, such as spiffe://cluster.local/ns/default/sa/web"
);

checked_text!(
    /// Whom a cross-origin request may come from: `*`, or scheme, host and maybe a port.
    CorsOrigin,
    1..=253,
    r"^(\*|https?://((\*\.)?([a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}|\*))?)$",
    "an origin: *, or http:// or https:// with a host, which may start with *., and maybe a port"
);

/// A duration of up to four numbers with the units h, m, s and ms (GEP-2257), such as `1h30m` or `500ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

const DURATION_PATTERN: &str = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$";

impl Duration {
    /// `None` for zero, which means that there is no limit.
    pub fn limit(self) -> Option<StdDuration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    pub fn get(self) -> StdDuration {
        self.0
    }
}

/// The numbers of a GEP-2257 duration, each of at most 5 digits; `None` if it is none.
fn gep_duration(text: &str) -> Option<StdDuration> {
    let is_digit = |c: char| c.is_ascii_digit();
    let numbers = text.split(|c: char| !is_digit(c)).filter(|number| !number.is_empty());
    let units: Vec<&str> = text.split(is_digit).filter(|unit| !unit.is_empty()).collect();
    let is_right = numbers.clone().count() == units.len()
        && (1..=4).contains(&units.len())
        && numbers.clone().all(|number| number.len() <= 5)
        && units.iter().all(|unit| ["h", "m", "s", "ms"].contains(unit));
    is_right.then(|| go_duration(text)).flatten()
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?.0;
        gep_duration(&text).map(Self).ok_or_else(|| {
            let text = shortened(&text);
            de::Error::custom(format!("{text:?} is not a duration: numbers with h, m, s or ms, such as 1h30m or 500ms"))
        })
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "GatewayDuration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": DURATION_PATTERN })
    }
}

#[cfg(test)]
mod value_tests {
    use super::*;

    #[test]
    fn a_duration_is_what_gep_2257_allows() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1h1m1s1ms", Some(3_661_001)),
            ("99999h", Some(359_996_400_000)),
            ("1m1h", Some(3_660_000)),
            ("1.5s", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1us", None),
            ("1d", None),
            ("s", None),
            ("1", None),
            ("", None),
            ("-1s", None),
            ("1s ", None),
        ] {
            assert_eq!(gep_duration(text).map(|duration| duration.as_millis()), millis, "{text}");
        }
    }
}
