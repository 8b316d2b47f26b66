//! The context of a trace, as requests carry it: W3C's `traceparent` (<https://www.w3.org/TR/trace-context/>), and
//! Zipkin's headers, several or one (<https://github.com/openzipkin/b3-propagation>). And which exchanges are worth
//! keeping whatever their traces' decision.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    access_log::TraceIds,
    api::{mesh::Propagator, values::Share},
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const X_B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const X_B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const X_B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The digit of a request's id that says why it is traced, and what it is of those that are: by chance, because the client
/// wanted it, or a service.
const REASON_AT: usize = 14;
const BY_CHANCE: u8 = b'9';
const WANTED: [u8; 2] = [b'a', b'b'];
/// Ids fall into so many parts.
const PARTS: u64 = 10_000;

/// What a request says of the trace that it is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, and the span that the request was made in.
    pub parent: Option<TraceIds>,
    /// Whether spans are to be kept; `None` leaves that to whoever reads it.
    pub sampled: Option<bool>,
    forms: Forms,
    /// There are headers of traces, malformed ones perhaps.
    has_headers: bool,
}

/// The forms in which it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forms {
    w3c: bool,
    b3: bool,
    b3_multi: bool,
}

impl TraceContext {
    /// Reads it. Where forms differ, W3C's holds, then Zipkin's single header. What is malformed counts as not there.
    pub fn read(headers: &HeaderMap) -> Self {
        // Most requests from outside have none. Looking at the names that are there is cheaper than looking up each.
        if !headers.keys().any(is_of_trace) {
            return Self::default();
        }
        let (w3c, single, multi) = (read_w3c(headers), read_b3(headers), read_b3_multi(headers));
        let forms = Forms {
            w3c: w3c.is_some(),
            b3: single.is_some_and(|(parent, _)| parent.is_some()),
            b3_multi: multi.is_some_and(|(parent, _)| parent.is_some()),
        };
        let with_ids = [w3c, single, multi].into_iter().flatten().find(|(parent, _)| parent.is_some());
        // A decision may come without a trace.
        let decided = || [single, multi].into_iter().flatten().find_map(|(_, sampled)| sampled);
        let (parent, sampled) = with_ids.unwrap_or_default();
        // Zipkin's word for "yes" forces what W3C's flag has left out.
        let forced = decided().filter(|sampled| *sampled);
        Self { parent, sampled: forced.or(sampled).or_else(decided), forms, has_headers: true }
    }

    /// The trace, if the request says that it is recorded.
    pub fn recorded(&self) -> Option<u128> {
        self.parent.filter(|_| self.sampled == Some(true)).map(|parent| parent.trace)
    }

    /// Writes the context of a span into a request's headers: in the forms in which it came, or else in those that
    /// traces begin in.
    pub fn write(&self, span: TraceIds, sampled: bool, begin: &[Propagator], headers: &mut HeaderMap) {
        let forms = match (self.parent, self.forms) {
            (Some(_), forms) => forms,
            (None, _) => Forms {
                w3c: begin.contains(&Propagator::TraceContext),
                b3: begin.contains(&Propagator::B3),
                b3_multi: begin.contains(&Propagator::B3Multi),
            },
        };
        if self.has_headers && (!forms.w3c || self.parent.is_none()) {
            // What was there was malformed; a state belongs to its parent.
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
        }
        if forms.w3c {
            headers.insert(TRACEPARENT, traceparent(span, sampled));
        }
        let decision = if sampled { "1" } else { "0" };
        if forms.b3 {
            let parent = self.parent.map(|parent| format!("-{:016x}", parent.span)).unwrap_or_default();
            insert(headers, B3, &format!("{}-{:016x}-{decision}{parent}", b3_trace(span.trace), span.span));
        }
        if forms.b3_multi {
            insert(headers, X_B3_TRACE_ID, &b3_trace(span.trace));
            insert(headers, X_B3_SPAN_ID, &format!("{:016x}", span.span));
            match self.parent {
                Some(parent) => insert(headers, X_B3_PARENT, &format!("{:016x}", parent.span)),
                None => drop(headers.remove(X_B3_PARENT)),
            }
            headers.insert(X_B3_SAMPLED, HeaderValue::from_static(decision));
        }
    }
}

fn is_of_trace(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "traceparent"
            | "tracestate"
            | "b3"
            | "x-b3-traceid"
            | "x-b3-spanid"
            | "x-b3-parentspanid"
            | "x-b3-sampled"
            | "x-b3-flags"
    )
}

/// Whether a request is traced, by its id, as Envoy decides it: one that says so is, and of others a share by their first
/// eight digits, so that all who see the id decide alike; the id says so from then on. `None` if it is no UUID.
/// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/request_id/uuid/v3/uuid.proto>
pub fn sampled_by_request_id(share: Share, headers: &mut HeaderMap) -> Option<bool> {
    let id: [u8; 36] = headers.get(X_REQUEST_ID)?.as_bytes().try_into().ok()?;
    let first = hex(&id[..8])?;
    if id[REASON_AT] == BY_CHANCE || WANTED.contains(&id[REASON_AT]) {
        return Some(true);
    }
    let is_sampled = (first % PARTS) < (share.percent() * PARTS as f64 / 100.0).round() as u64;
    if is_sampled {
        let mut id = id;
        id[REASON_AT] = BY_CHANCE;
        if let Ok(text) = std::str::from_utf8(&id) {
            insert(headers, X_REQUEST_ID, text);
        }
    }
    Some(is_sampled)
}

/// Has the spans of a copy of a request not kept.
pub fn unsample(headers: &mut HeaderMap) {
    let TraceContext { parent: Some(span), .. } = TraceContext::read(headers) else { return };
    if headers.contains_key(TRACEPARENT) {
        headers.insert(TRACEPARENT, traceparent(span, false));
    }
    if headers.contains_key(B3) {
        insert(headers, B3, &format!("{}-{:016x}-0", b3_trace(span.trace), span.span));
    }
    if headers.contains_key(X_B3_TRACE_ID) {
        headers.insert(X_B3_SAMPLED, HeaderValue::from_static("0"));
        headers.remove(X_B3_FLAGS);
    }
}

/// No other request has the same, so HTTP/2 is told not to remember it.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(mut value) = HeaderValue::from_str(value) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

/// Without a detour by formatting: each request of a mesh gets one. As [`insert`] has it, HTTP/2 does not remember it.
fn traceparent(span: TraceIds, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&span.trace.to_be_bytes(), &mut text[3..35]);
    write_hex(&span.span.to_be_bytes(), &mut text[36..52]);
    text[54] = if sampled { b'1' } else { b'0' };
    let mut value = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Two digits for each byte.
fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// Trace ids of 64 bits stay so: some know no others.
fn b3_trace(trace: u128) -> String {
    if trace >> 64 == 0 { format!("{trace:016x}") } else { format!("{trace:032x}") }
}

type Found = (Option<TraceIds>, Option<bool>);

fn read_w3c(headers: &HeaderMap) -> Option<Found> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (Some(only), None) = (all.next(), all.next()) else { return None };
    let text = only.as_bytes();
    let (version, rest) = (hex(text.get(..2)?)?, text.get(2..)?);
    // Later versions may say more behind what this one says.
    let is_whole = text.len() == 55 || (version != 0 && text.get(55) == Some(&b'-'));
    let is_split = rest.first() == Some(&b'-') && text.get(35) == Some(&b'-') && text.get(52) == Some(&b'-');
    if version == 0xff || !is_whole || !is_split {
        return None;
    }
    let ids = ids(text.get(3..35)?, text.get(36..52)?)?;
    Some((Some(ids), Some(hex(text.get(53..55)?)? & 1 == 1)))
}

fn read_b3(headers: &HeaderMap) -> Option<Found> {
    let text = headers.get(B3)?.to_str().ok()?;
    let mut parts = text.split('-');
    let first = parts.next()?;
    if let Some(sampled) = decision(first) {
        return Some((None, Some(sampled)));
    }
    let ids = ids(first.as_bytes(), parts.next()?.as_bytes())?;
    Some((Some(ids), parts.next().and_then(decision)))
}

fn read_b3_multi(headers: &HeaderMap) -> Option<Found> {
    let bytes = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    let debug = || bytes(X_B3_FLAGS).is_some_and(|flags| flags == b"1").then_some(true);
    let sampled = || bytes(X_B3_SAMPLED).and_then(|text| decision(std::str::from_utf8(text).ok()?));
    let ids = bytes(X_B3_TRACE_ID).and_then(|trace| ids(trace, bytes(X_B3_SPAN_ID)?));
    let decided = debug().or_else(sampled);
    (ids.is_some() || decided.is_some()).then_some((ids, decided))
}

fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn ids(trace: &[u8], span: &[u8]) -> Option<TraceIds> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let (upper, lower) = trace.split_at(trace.len() - 16);
    let (trace, span) = (u128::from(hex(upper)?) << 64 | u128::from(hex(lower)?), hex(span)?);
    (trace != 0 && span != 0).then_some(TraceIds { trace, span })
}

/// Lower-case digits only, as both specifications write them; 16 at most.
fn hex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// How long a period of the choice lasts.
const PERIOD_MS: u64 = 10_000;
/// The slowest of a period that are kept, about.
const SLOWEST: usize = 20;
/// Failures of a period that are kept at most.
const FAILURES: u32 = 100;

/// Chooses, when exchanges end, which to keep of those that were not sampled: failures, and those slower than the
/// slowest few of the period before. One for each worker.
#[derive(Debug, Default)]
pub struct Tail {
    period: u64,
    /// What was slow in the period before.
    threshold: Duration,
    /// The slowest of this one so far.
    slowest: BinaryHeap<Reverse<Duration>>,
    kept: usize,
    failures: u32,
}

impl Tail {
    pub fn keeps(&mut self, failed: bool, duration: Duration, now_ms: u64) -> bool {
        let period = now_ms / PERIOD_MS;
        if period != self.period {
            let is_next = period == self.period + 1 && self.slowest.len() == SLOWEST;
            let slowest = self.slowest.peek().map(|Reverse(least)| *least);
            *self = Self { period, threshold: slowest.filter(|_| is_next).unwrap_or_default(), ..Self::default() };
        }
        if self.slowest.len() < SLOWEST {
            self.slowest.push(Reverse(duration));
        } else if self.slowest.peek().is_some_and(|Reverse(least)| duration > *least) {
            self.slowest.pop();
            self.slowest.push(Reverse(duration));
        }
        if failed && self.failures < FAILURES {
            self.failures += 1;
            return true;
        }
        // A period that is slower as a whole keeps no more than twice as many.
        let is_slow = duration >= self.threshold && self.kept < 2 * SLOWEST;
        self.kept += usize::from(is_slow);
        is_slow
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut all: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        all.sort();
        all
    }

    const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const SPAN: TraceIds = TraceIds { trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, span: 0x00f0_67aa_0ba9_02b7 };

    #[test]
    fn contexts_are_read_in_all_forms() {
        let multi = [("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"), ("x-b3-spanid", "00f067aa0ba902b7")];
        let with = |more: (&'static str, &'static str)| headers(&[multi[0], multi[1], more]);
        let short = TraceIds { trace: 0xa3ce_929d_0e0e_4736, ..SPAN };
        for (headers, parent, sampled) in [
            (headers(&[]), None, None),
            (headers(&[("traceparent", W3C)]), Some(SPAN), Some(true)),
            (headers(&[("traceparent", &W3C.replace("-01", "-00"))]), Some(SPAN), Some(false)),
            (headers(&[("traceparent", &format!("01{}-more", &W3C[2..]))]), Some(SPAN), Some(true)),
            (headers(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7")]), Some(short), None),
            (headers(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-d-05e3ac9a4f6e3b90")]), Some(short), Some(true)),
            (headers(&[("b3", "0")]), None, Some(false)),
            (headers(&multi), Some(SPAN), None),
            (with(("x-b3-sampled", "0")), Some(SPAN), Some(false)),
            (with(("x-b3-flags", "1")), Some(SPAN), Some(true)),
            (headers(&[("x-b3-sampled", "1")]), None, Some(true)),
            // A caller's "yes" forces a trace, whatever it was begun with.
            (headers(&[("traceparent", &W3C.replace("-01", "-00")), ("x-b3-sampled", "1")]), Some(SPAN), Some(true)),
        ] {
            let read = TraceContext::read(&headers);
            assert_eq!((read.parent, read.sampled), (parent, sampled), "{headers:?}");
        }
    }

    #[test]
    fn ids_of_requests_decide_as_envoy_has_it() {
        // 0x2710 is 10,000: what begins so is the first part, and what begins with 0x270f the last.
        for (id, percent, sampled, becomes) in [
            ("00002710-58cc-4372-a567-0e02b2c3d479", 0.01, Some(true), "00002710-58cc-9372-a567-0e02b2c3d479"),
            ("00002710-58cc-4372-a567-0e02b2c3d479", 0.0, Some(false), "00002710-58cc-4372-a567-0e02b2c3d479"),
            ("0000270f-58cc-4372-a567-0e02b2c3d479", 99.99, Some(false), "0000270f-58cc-4372-a567-0e02b2c3d479"),
            ("0000270f-58cc-4372-a567-0e02b2c3d479", 100.0, Some(true), "0000270f-58cc-9372-a567-0e02b2c3d479"),
            ("0000270f-58cc-9372-a567-0e02b2c3d479", 0.0, Some(true), "0000270f-58cc-9372-a567-0e02b2c3d479"),
            ("0000270f-58cc-a372-a567-0e02b2c3d479", 0.0, Some(true), "0000270f-58cc-a372-a567-0e02b2c3d479"),
            ("0000270f-58cc-b372-a567-0e02b2c3d479", 0.0, Some(true), "0000270f-58cc-b372-a567-0e02b2c3d479"),
            ("mine", 100.0, None, "mine"),
            ("xxxxxxxx-58cc-4372-a567-0e02b2c3d479", 100.0, None, "xxxxxxxx-58cc-4372-a567-0e02b2c3d479"),
        ] {
            let mut headers = headers(&[("x-request-id", id)]);
            assert_eq!(sampled_by_request_id(Share::of_number(percent), &mut headers), sampled, "{id} {percent}");
            assert_eq!(headers[X_REQUEST_ID], becomes, "{percent}");
        }
        assert_eq!(sampled_by_request_id(Share::ALL, &mut HeaderMap::new()), None);
    }

    #[test]
    fn malformed_contexts_are_none() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let read = TraceContext::read(&headers(&[("traceparent", text)]));
            assert_eq!(read, TraceContext { has_headers: true, ..TraceContext::default() }, "{text}");
        }
        let mut twice = headers(&[("traceparent", W3C)]);
        twice.append(TRACEPARENT, W3C.parse().unwrap());
        assert_eq!(TraceContext::read(&twice).parent, None);
        assert_eq!(TraceContext::read(&headers(&[("b3", "a-b")])).parent, None);
    }

    #[test]
    fn what_came_goes_on_in_its_form_and_what_begins_in_the_chosen_ones() {
        let child = TraceIds { trace: SPAN.trace, span: 0xa };
        let w3c_of_child = "00-4bf92f3577b34da6a3ce929d0e0e4736-000000000000000a-01";
        let write = |mut all: HeaderMap, begin: &[Propagator]| {
            TraceContext::read(&all).write(child, true, begin, &mut all);
            shown(&all)
        };
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let every = [Propagator::TraceContext, Propagator::B3, Propagator::B3Multi];
        assert_eq!(
            write(headers(&[("traceparent", W3C), ("tracestate", "a=b")]), &every),
            pairs(&[("traceparent", w3c_of_child), ("tracestate", "a=b")])
        );
        assert_eq!(
            write(headers(&[("traceparent", "bad"), ("tracestate", "a=b")]), &[Propagator::TraceContext]),
            pairs(&[("traceparent", w3c_of_child)])
        );
        let b3 = "4bf92f3577b34da6a3ce929d0e0e4736-000000000000000a-1";
        assert_eq!(
            write(headers(&[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")]), &every),
            pairs(&[("b3", &format!("{b3}-00f067aa0ba902b7"))])
        );
        assert_eq!(
            write(HeaderMap::new(), &every),
            pairs(&[
                ("b3", b3),
                ("traceparent", w3c_of_child),
                ("x-b3-sampled", "1"),
                ("x-b3-spanid", "000000000000000a"),
                ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ])
        );
    }

    #[test]
    fn copies_of_requests_are_not_sampled() {
        let mut all = headers(&[("traceparent", W3C)]);
        unsample(&mut all);
        assert_eq!(all[TRACEPARENT], W3C.replace("-01", "-00"));
        let mut none = HeaderMap::new();
        unsample(&mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn failures_and_the_slowest_are_kept() {
        let mut tail = Tail::default();
        let ms = Duration::from_millis;
        // The first period knows no measure: a few are kept.
        let kept = (0..1_000).filter(|i| tail.keeps(false, ms(i % 100), 10_000)).count();
        assert_eq!(kept, 2 * SLOWEST);
        assert!(!tail.keeps(false, ms(50), 20_000), "not among the slowest of the last period");
        assert!(tail.keeps(false, ms(99), 20_000));
        assert!(tail.keeps(true, ms(0), 20_000));
        let kept = (0..1_000).filter(|_| tail.keeps(true, ms(0), 20_000)).count();
        assert_eq!(kept, FAILURES as usize - 1);
        // After a pause there is no measure again.
        assert!(tail.keeps(false, ms(1), 90_000));
    }

    proptest! {
        #[test]
        fn no_header_makes_reading_panic(text in "[0-9a-f\\-]{0,60}", other in "\\PC{0,60}") {
            for text in [text, other] {
                let Ok(value) = HeaderValue::from_str(&text) else { continue };
                for name in [TRACEPARENT, B3, X_B3_TRACE_ID] {
                    let mut headers = HeaderMap::new();
                    headers.insert(name, value.clone());
                    let _ = TraceContext::read(&headers);
                }
            }
        }

        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let ids = TraceIds { trace, span };
            for form in [Propagator::TraceContext, Propagator::B3, Propagator::B3Multi] {
                let mut headers = HeaderMap::new();
                TraceContext::default().write(ids, sampled, &[form], &mut headers);
                let read = TraceContext::read(&headers);
                prop_assert_eq!((read.parent, read.sampled), (Some(ids), Some(sampled)));
            }
        }
    }

    #[test]
    fn only_a_recorded_trace_has_an_id() {
        let of = |text: &str| TraceContext::read(&headers(&[("traceparent", text)])).recorded();
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
