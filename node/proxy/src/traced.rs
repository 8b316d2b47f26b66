//! The trace that a request is part of, as its caller says: for exemplars of metrics. Traces themselves are others' matter.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id of a trace that is recorded. See <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<u128> {
    headers.get(TRACEPARENT).and_then(recorded)
}

/// `VERSION-TRACE-SPAN-FLAGS`, of which a later version may say more; the lowest flag means that it is recorded.
fn recorded(value: &HeaderValue) -> Option<u128> {
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex =
        |text: &str, len| text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex(version, 2) || version == "ff" || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    if u8::from_str_radix(flags, 16).ok()? & 1 == 0 {
        return None;
    }
    u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recorded_trace_has_an_id() {
        let of = |text: &'static str| recorded(&HeaderValue::from_static(text));
        assert_eq!(
            of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            Some(0x0af7651916cd43dd8448eb211c80319c)
        );
        assert_eq!(
            of("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more"),
            Some(0x0af7651916cd43dd8448eb211c80319c)
        );
        for other in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
