//! What went through one node in the last half hour, in steps of ten seconds: for charts, and for replaying a graph.
//!
//! Steps are those of the wall clock, so that what several nodes tell of one adds up.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proxy::metrics::{BOUNDS, Counts, Edge};

use super::{Call, Side, merge::Sum, windows};

/// The shortest step that can be asked for, in seconds; others are multiples of it.
pub const STEP_SECONDS: u64 = 10;
/// How far back it goes, in seconds.
pub const MAX_SINCE_SECONDS: u64 = 30 * 60;
/// Steps that are kept, besides the one that is not over yet.
const MAX_SLOTS: usize = (MAX_SINCE_SECONDS / STEP_SECONDS) as usize;
/// Bytes that all steps may take: then the oldest goes, and what is kept reaches less far back. Half an hour of 400 busy
/// edges fits.
const MAX_BYTES: usize = 8 * 1024 * 1024;

const OPEN: &str = "open";

/// A node's last half hour.
#[derive(Debug, Default)]
pub struct History {
    /// Those that are over, the oldest first.
    slots: VecDeque<Slot>,
    bytes: usize,
    /// The step that goes on: its number, counted from 1970, and what has come in it so far.
    number: u64,
    current: HashMap<Arc<Edge>, (Counts, u64)>,
    /// So that an edge is kept once, however many steps it is in.
    edges: HashSet<Arc<Edge>>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    rows: Box<[(Arc<Edge>, Numbers)]>,
}

/// What an edge has brought in a step; smaller than [`Counts`], of which most is 0.
#[derive(Debug, Default)]
struct Numbers {
    requests: u32,
    failures: u32,
    client_errors: u32,
    retries: u32,
    opened: u32,
    /// At the step's end.
    open: u32,
    mutual_tls: u32,
    in_the_clear: u32,
    received_bytes: u64,
    sent_bytes: u64,
    /// Buckets that are not empty.
    durations: Box<[(u8, u32)]>,
}

/// Which steps are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one's number: those of ten seconds since 1970.
    pub first: u64,
    /// Of ten seconds, for each point.
    pub steps_per_point: u64,
    pub points: usize,
}

/// What went over one edge, point by point, as told by one node, or by all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Track {
    #[serde(flatten)]
    pub call: Call,
    pub reporter: Side,
    pub series: Series,
}

/// Numbers of each point: counts within it, not rates. What is 0 all the time is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// `requests`, of these `failures`, `client_errors` and `retries`; of connections of bytes `opened`, of these
    /// `refused`, and `open` at the point's end; `received_bytes` and `sent_bytes` from and to callers; of requests and
    /// connections, those by `mutual_tls` between nodes and those `in_the_clear`: as in [`super::Rates`].
    pub counts: BTreeMap<Cow<'static, str>, Vec<u64>>,
    /// Requests by the number of their bucket of durations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub durations: BTreeMap<u8, Vec<u64>>,
}

impl Range {
    /// The latest points of so many seconds each, that are over, within `since` before now. `unix` is how long ago 1970
    /// began.
    pub fn latest(since: Duration, step: Duration, unix: Duration) -> Self {
        let steps_per_point = (step.as_secs() / STEP_SECONDS).max(1);
        let points = since.as_secs().div_ceil(steps_per_point * STEP_SECONDS).min(MAX_SLOTS as u64);
        // Points begin at multiples of their length, so that they stay what they are from one question to the next.
        let end = unix.as_secs() / STEP_SECONDS / steps_per_point * steps_per_point;
        Self { first: end.saturating_sub(points * steps_per_point), steps_per_point, points: points as usize }
    }

    pub fn step(&self) -> Duration {
        Duration::from_secs(self.steps_per_point * STEP_SECONDS)
    }

    /// When the first point begins, since 1970.
    pub fn begin(&self) -> Duration {
        start_of(self.first)
    }

    /// In which point a step is.
    fn point(&self, number: u64) -> Option<usize> {
        let point = number.checked_sub(self.first)? / self.steps_per_point.max(1);
        usize::try_from(point).ok().filter(|point| *point < self.points)
    }

    /// Whether a node can answer it: nobody may ask for more than there is.
    pub fn is_bounded(&self) -> bool {
        (1..=MAX_SLOTS).contains(&self.points) && (1..=MAX_SLOTS as u64).contains(&self.steps_per_point)
    }
}

fn start_of(number: u64) -> Duration {
    Duration::from_secs(number.saturating_mul(STEP_SECONDS))
}

impl History {
    /// What is added from here on is of this time, on the wall clock.
    pub fn begin(&mut self, unix: Duration) {
        let number = unix.as_secs() / STEP_SECONDS;
        if number == self.number {
            return;
        }
        // The clock was set back: what is kept would be of another time. A second's correction only lengthens the step.
        if number + 1 < self.number {
            *self = Self { number, ..Self::default() };
            return;
        }
        if number < self.number {
            return;
        }
        let rows: Box<[_]> =
            self.current.drain().map(|(edge, (counts, open))| (edge, Numbers::of(&counts, open))).collect();
        let slot = Slot { number: self.number, rows };
        self.bytes += slot.bytes();
        self.slots.push_back(slot);
        self.number = number;
        let oldest = number.saturating_sub(MAX_SLOTS as u64);
        while self.slots.front().is_some_and(|slot| slot.number < oldest || self.bytes > MAX_BYTES) {
            self.bytes -= self.slots.pop_front().map_or(0, |slot| slot.bytes());
        }
        self.edges.retain(|edge| Arc::strong_count(edge) > 1);
    }

    /// Adds what an edge has brought; `open` are its connections now.
    pub fn add(&mut self, edge: &Edge, counts: &Counts, open: u64) {
        let edge = match self.edges.get(edge) {
            Some(known) => known.clone(),
            None => {
                let edge = Arc::new(edge.clone());
                self.edges.insert(edge.clone());
                edge
            }
        };
        let (sum, open_now) = self.current.entry(edge).or_default();
        windows::add(sum, counts);
        *open_now = open;
    }

    /// When the oldest step that is kept begins, since 1970.
    pub fn known_from(&self) -> Option<Duration> {
        self.slots.front().map(|slot| start_of(slot.number))
    }

    /// What went over each edge, the busiest first.
    pub fn tracks(&self, range: &Range) -> Vec<Track> {
        let mut found: HashMap<&Arc<Edge>, (Series, u64)> = HashMap::new();
        for slot in &self.slots {
            let Some(point) = range.point(slot.number) else { continue };
            for (edge, numbers) in &slot.rows {
                let (series, activity) = found.entry(edge).or_default();
                *activity += u64::from(numbers.requests) + u64::from(numbers.opened) + u64::from(numbers.open);
                series.put(point, range.points, numbers);
            }
        }
        let mut tracks: Vec<(u64, Track)> = found
            .into_iter()
            .map(|(edge, (series, activity))| {
                let (call, reporter) = Call::of(edge);
                (activity, Track { call, reporter, series })
            })
            .collect();
        tracks.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.call.cmp(&other.call)));
        tracks.into_iter().map(|(_, track)| track).collect()
    }
}

impl Slot {
    fn bytes(&self) -> usize {
        let of_row =
            |(_, numbers): &(Arc<Edge>, Numbers)| size_of::<(Arc<Edge>, Numbers)>() + size_of_val(&*numbers.durations);
        size_of::<Self>() + self.rows.iter().map(of_row).sum::<usize>()
    }
}

impl Numbers {
    fn of(counts: &Counts, open: u64) -> Self {
        let short = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let durations = counts.durations.iter().enumerate().filter(|(_, count)| **count > 0);
        Self {
            requests: short(counts.requests),
            failures: short(counts.failures),
            client_errors: short(counts.client_errors),
            retries: short(counts.retries),
            opened: short(counts.opened),
            open: short(open),
            mutual_tls: short(counts.mutual_tls),
            in_the_clear: short(counts.in_the_clear),
            received_bytes: counts.received_bytes,
            sent_bytes: counts.sent_bytes,
            durations: durations.map(|(bucket, count)| (bucket as u8, short(*count))).collect(),
        }
    }
}

impl Series {
    fn put(&mut self, point: usize, points: usize, numbers: &Numbers) {
        // Of connections, opened ones are counted, of requests, these.
        let failures = if numbers.requests > 0 { "failures" } else { "refused" };
        for (name, count) in [
            ("requests", u64::from(numbers.requests)),
            (failures, numbers.failures.into()),
            ("client_errors", numbers.client_errors.into()),
            ("retries", numbers.retries.into()),
            ("opened", numbers.opened.into()),
            ("mutual_tls", numbers.mutual_tls.into()),
            ("in_the_clear", numbers.in_the_clear.into()),
            ("received_bytes", numbers.received_bytes),
            ("sent_bytes", numbers.sent_bytes),
        ] {
            if count > 0 {
                add_at(self.column(name, points), point, count);
            }
        }
        // Later steps of a point come later.
        if (numbers.open > 0 || self.counts.contains_key(OPEN))
            && let Some(open) = self.column(OPEN, points).get_mut(point)
        {
            *open = numbers.open.into();
        }
        for (bucket, count) in &numbers.durations {
            add_at(self.durations.entry(*bucket).or_insert_with(|| vec![0; points]), point, (*count).into());
        }
    }

    fn column(&mut self, name: &'static str, points: usize) -> &mut Vec<u64> {
        self.counts.entry(name.into()).or_insert_with(|| vec![0; points])
    }

    /// Whether it is as long as was asked for, and has nothing that nobody could ask for.
    pub fn is_of(&self, points: usize) -> bool {
        const MAX_NAMES: usize = 32;
        self.counts.len() <= MAX_NAMES
            && self.durations.keys().all(|bucket| usize::from(*bucket) < BOUNDS.len())
            && self.counts.values().chain(self.durations.values()).all(|values| values.len() == points)
    }
}

impl Sum for Series {
    fn add(&mut self, other: &Self) {
        for (name, values) in &other.counts {
            add_all(self.counts.entry(name.clone()).or_default(), values);
        }
        for (bucket, values) in &other.durations {
            add_all(self.durations.entry(*bucket).or_default(), values);
        }
    }
}

fn add_at(sums: &mut [u64], point: usize, value: u64) {
    if let Some(sum) = sums.get_mut(point) {
        *sum = sum.saturating_add(value);
    }
}

fn add_all(sums: &mut Vec<u64>, values: &[u64]) {
    sums.resize(sums.len().max(values.len()), 0);
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.saturating_add(*value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::windows::tests::{edge, http};

    const START: u64 = 1_800_000_000;

    fn at(second: u64) -> Duration {
        Duration::from_secs(START + second)
    }

    /// A history of `seconds` with so many requests to `web` in each of them, one of which fails.
    fn history(seconds: u64, requests: u64) -> History {
        let mut history = History::default();
        for second in 0..seconds {
            history.begin(at(second));
            history.add(&edge("web"), &http(requests, 1), 0);
        }
        history.begin(at(seconds));
        history
    }

    fn range(since: u64, step: u64, now: u64) -> Range {
        Range::latest(Duration::from_secs(since), Duration::from_secs(step), at(now))
    }

    #[test]
    fn points_are_sums_of_steps_that_are_over() {
        let history = history(65, 5);
        let tracks = history.tracks(&range(60, 10, 65));
        assert_eq!(tracks.len(), 1);
        let Track { call, reporter, series } = &tracks[0];
        assert_eq!(
            (call.source_app.as_str(), call.destination_version.as_str(), *reporter),
            ("client", "v1", Side::Source)
        );
        assert_eq!(series.counts["requests"], [50; 6]);
        assert_eq!(series.counts["failures"], [10; 6]);
        assert_eq!(series.durations, BTreeMap::from([(2, vec![50; 6])]));
        assert_eq!(series.counts.len(), 2, "what is 0 is left out: {:?}", series.counts);
        assert!(series.is_of(6) && !series.is_of(5));

        let coarse = range(60, 30, 65);
        assert_eq!((coarse.begin(), coarse.step(), coarse.points), (at(0), Duration::from_secs(30), 2));
        assert_eq!(history.tracks(&coarse)[0].series.counts["requests"], [150, 150]);
    }

    #[test]
    fn points_stay_where_they_are_as_time_goes_on() {
        let [early, late] = [range(120, 30, 89), range(120, 30, 119)].map(|range| range.begin());
        assert_eq!((early, late), (at(0) - Duration::from_secs(60), at(0) - Duration::from_secs(30)));
        assert_eq!(range(MAX_SINCE_SECONDS, 10, 0).points, MAX_SLOTS);
        assert!(range(MAX_SINCE_SECONDS, 10, 0).is_bounded());
        assert!(!Range { points: MAX_SLOTS + 1, ..range(60, 10, 0) }.is_bounded());
    }

    #[test]
    fn open_connections_are_those_at_the_points_end() {
        let mut history = History::default();
        for (second, open) in [(0, 3), (5, 2), (10, 4), (25, 1)] {
            history.begin(at(second));
            history.add(&edge("db"), &Counts::default(), open);
        }
        history.begin(at(30));
        assert_eq!(history.tracks(&range(30, 10, 30))[0].series.counts["open"], [2, 4, 1]);
        assert_eq!(history.tracks(&range(30, 30, 30))[0].series.counts["open"], [1]);
    }

    #[test]
    fn it_is_bounded_in_time_and_bytes() {
        let mut history = history(MAX_SINCE_SECONDS + 100, 1);
        assert_eq!(history.slots.len(), MAX_SLOTS);
        assert_eq!(history.known_from(), Some(at(100)));
        // Nothing comes for longer than is kept.
        history.begin(at(3 * MAX_SINCE_SECONDS));
        assert!(history.slots.len() <= 1 && history.edges.len() <= 1, "{history:?}");

        let edges: Vec<Edge> = (0..1_024).map(|i| edge(&format!("s{i}"))).collect();
        for step in 0..MAX_SLOTS as u64 + 10 {
            history.begin(at(4 * MAX_SINCE_SECONDS + step * STEP_SECONDS));
            edges.iter().for_each(|edge| history.add(edge, &http(1, 0), 0));
        }
        assert!(history.bytes <= MAX_BYTES, "{}", history.bytes);
        assert_eq!(history.bytes, history.slots.iter().map(Slot::bytes).sum::<usize>());
        assert_eq!(history.edges.len(), edges.len());
    }

    #[test]
    fn half_an_hour_of_400_edges_fits() {
        let edges: Vec<Edge> = (0..400).map(|i| edge(&format!("s{i}"))).collect();
        let mut busy = http(100, 3);
        (1..6).for_each(|bucket| busy.durations[bucket] = 20);
        let mut history = History::default();
        for step in 0..=MAX_SLOTS as u64 {
            history.begin(at(step * STEP_SECONDS));
            edges.iter().for_each(|edge| history.add(edge, &busy, 0));
        }
        assert_eq!(history.slots.len(), MAX_SLOTS, "{} bytes", history.bytes);
    }

    #[test]
    fn a_clock_that_is_set_back_begins_anew_and_one_that_is_corrected_does_not() {
        let mut history = history(100, 1);
        history.begin(at(99));
        assert_eq!(history.slots.len(), 10);
        history.begin(at(0));
        assert_eq!((history.slots.len(), history.bytes), (0, 0));
    }

    #[test]
    fn what_nodes_tell_adds_up_whichever_columns_they_have() {
        let mut sum = history(20, 5).tracks(&range(20, 10, 20)).remove(0).series;
        let mut other = history(20, 1).tracks(&range(20, 10, 20)).remove(0).series;
        other.counts.insert("of_a_newer_version".into(), vec![u64::MAX, 1]);
        sum.add(&other);
        sum.add(&other);
        assert_eq!(sum.counts["requests"], [70, 70]);
        assert_eq!(sum.counts["of_a_newer_version"], [u64::MAX, 2]);
    }

    #[test]
    fn tracks_are_read_as_they_are_written() {
        let tracks = history(20, 5).tracks(&range(20, 10, 20));
        let json = serde_json::to_string(&tracks).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Track>>(&json).unwrap(), tracks);
    }
}
