//! What labels are worth that documents ask of requests (`tagOverrides` of a Telemetry, such as `request.host`). Their
//! names come from documents, their values from whoever calls: so an expression has [`MAX_VALUES`] values at most, and
//! what goes beyond is [`OTHER`], and counted.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_policy::{
    access_log::{Entry, ExpressionContext, Known},
    telemetry::{MetricsShape, UNKNOWN},
};

use super::series::{Exchanged, HttpOutcome, Parties};
use crate::metrics::RequestProtocol;

/// Most values that one expression has at a time.
const MAX_VALUES: usize = 100;
/// Longest value, in bytes.
const MAX_LEN: usize = 128;
/// A value that does not come for so long makes room for others: as long as a series is kept.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// What a value is called for which there is no room.
const OTHER: &str = "other";

/// What expressions were worth for a request, each by its text.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Recorded(Vec<(Arc<str>, Arc<str>)>);

impl Recorded {
    /// Of a request that nobody had the time to look at.
    pub(crate) fn other(shape: &MetricsShape) -> Self {
        Self(shape.recorded().iter().map(|expression| (expression.as_text().clone(), OTHER.into())).collect())
    }

    pub(super) fn value(&self, expression: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| **of == *expression).map(|(_, value)| &**value)
    }
}

/// A request that is counted where expressions are asked.
pub(crate) struct Counted {
    pub(crate) parties: Parties,
    pub(crate) protocol: RequestProtocol,
    pub(crate) outcome: HttpOutcome,
    pub(crate) exchanged: Exchanged,
    /// Those of a gRPC call, of the caller and to it.
    pub(crate) messages: (u64, u64),
}

/// The values of all expressions that were asked, and when each came last.
#[derive(Default)]
pub(crate) struct Values(HashMap<Arc<str>, HashMap<Arc<str>, Instant>>);

impl Values {
    /// What is to be recorded of an exchange, and how many values had no room. Asked on a thread with a stack of
    /// [`weft_policy::access_log::EXPRESSION_STACK`].
    pub(crate) fn of(
        &mut self,
        shape: &MetricsShape,
        entry: &Entry,
        context: &ExpressionContext,
        now: Instant,
    ) -> (Recorded, u64) {
        let mut cut = 0;
        let worth = shape.recorded().iter().map(|expression| {
            let value = expression.text(&Known::of(entry), context).filter(|value| !value.is_empty());
            let value = self.take(expression.as_text(), &value.unwrap_or_else(|| UNKNOWN.to_owned()), now);
            cut += u64::from(value.is_none());
            (expression.as_text().clone(), value.unwrap_or_else(|| OTHER.into()))
        });
        (Recorded(worth.collect()), cut)
    }

    /// The value as it is kept, if there is room.
    fn take(&mut self, expression: &Arc<str>, value: &str, now: Instant) -> Option<Arc<str>> {
        let known = self.0.entry(expression.clone()).or_default();
        if let Some((kept, _)) = known.get_key_value(value) {
            let kept = kept.clone();
            known.insert(kept.clone(), now);
            return Some(kept);
        }
        if known.len() >= MAX_VALUES || value.len() > MAX_LEN {
            return None;
        }
        let kept: Arc<str> = value.into();
        known.insert(kept.clone(), now);
        Some(kept)
    }

    /// Makes room: for what has not come for long, and of what documents do not ask any more.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, known| {
            known.retain(|_, last| now.saturating_duration_since(*last) < IDLE);
            !known.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_has_a_hundred_values_and_idle_ones_make_room() {
        let (mut values, now, expression) = (Values::default(), Instant::now(), Arc::from("request.host"));
        for n in 0..MAX_VALUES {
            assert_eq!(values.take(&expression, &n.to_string(), now).as_deref(), Some(&*n.to_string()));
        }
        assert_eq!(values.take(&expression, "one more", now), None);
        assert_eq!(values.take(&Arc::from("request.method"), "one more", now).as_deref(), Some("one more"));
        let later = now + IDLE - Duration::from_secs(1);
        assert!(values.take(&expression, "7", later).is_some());
        values.forget(now + IDLE);
        assert_eq!(values.0.len(), 1, "nothing is kept of the other expression");
        assert!(values.take(&expression, "one more", later).is_some());
        assert_eq!(values.0[&expression].len(), 2);
        assert_eq!(values.take(&expression, &"a".repeat(MAX_LEN + 1), later), None);
    }
}
