//! What one node's counters say of the last seconds.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use weft_proxy::metrics::{BOUNDS, Counts, Edge, SeriesId};

use super::{Call, Rates, Row, history::History};

/// The longest window that can be asked for. Whoever wants more has Prometheus.
pub const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Edges that are followed; what goes over more is not told here, though it is counted by the metrics.
const MAX_EDGES: usize = 1_024;
/// Looks at the counters that are kept: one a second for [`MAX_WINDOW`], and the one before.
const MAX_TICKS: usize = 61;

/// Differences of counters, a slot for each time that they were looked at.
#[derive(Debug, Default)]
pub struct Windows {
    /// When the counters were looked at, the latest last.
    ticks: VecDeque<Duration>,
    /// How often so far.
    ticked: u64,
    /// What each series said last.
    last: HashMap<SeriesId, Counts>,
    edges: HashMap<Edge, Slots>,
    /// Series that had something to tell at the latest look, and no room.
    left_out: usize,
    history: History,
}

/// What one edge has brought. Only slots in which there was something.
#[derive(Debug, Default)]
struct Slots {
    slots: VecDeque<(u64, Counts)>,
    /// Connections that are open now.
    open: u64,
}

/// What a node tells of its window.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub rows: Vec<Row>,
    /// Series of which nothing is told, for want of room.
    pub left_out: usize,
}

impl Windows {
    /// Looks at the counters: `read` shows each series. `now` is on any clock that does not jump, `unix` is how long ago
    /// 1970 began.
    pub fn tick(
        &mut self,
        (now, unix): (Duration, Duration),
        read: impl FnOnce(&mut dyn FnMut(SeriesId, &Edge, &Counts)),
    ) {
        let is_first = self.ticks.is_empty();
        self.ticked += 1;
        self.ticks.push_back(now);
        if self.ticks.len() > MAX_TICKS {
            self.ticks.pop_front();
        }
        self.left_out = 0;
        self.edges.values_mut().for_each(|edge| edge.open = 0);
        let mut last = HashMap::with_capacity(self.last.len());
        read(&mut |id, edge, counts| {
            last.insert(id, *counts);
            // A series that is new has all its counts from since the last look; but not all series at the first one.
            let before = self.last.get(&id).copied().unwrap_or(if is_first { *counts } else { Counts::default() });
            let open = counts.opened.saturating_sub(counts.closed);
            if before == *counts && open == 0 {
                return;
            }
            if self.edges.len() >= MAX_EDGES && !self.edges.contains_key(edge) {
                self.left_out += 1;
                return;
            }
            let slots = self.edges.entry(edge.clone()).or_default();
            slots.open += open;
            if before != *counts {
                slots.add(self.ticked, &difference(counts, &before));
            }
        });
        self.last = last;
        self.history.begin(unix);
        for (edge, slots) in &self.edges {
            let news = slots.slots.back().filter(|(tick, _)| *tick == self.ticked).map(|(_, counts)| counts);
            if news.is_some() || slots.open > 0 {
                self.history.add(edge, news.unwrap_or(&Counts::default()), slots.open);
            }
        }
        let oldest = self.ticked.saturating_sub(MAX_TICKS as u64 - 1);
        self.edges.retain(|_, edge| {
            while edge.slots.front().is_some_and(|(tick, _)| *tick <= oldest) {
                edge.slots.pop_front();
            }
            edge.open > 0 || !edge.slots.is_empty()
        });
    }

    /// What is kept for longer than windows.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Rates of the latest `window`, the busiest edges first. A node that has just begun tells of the time since then.
    pub fn rows(&self, window: Duration) -> Told {
        let Some(now) = self.ticks.back() else { return Told::default() };
        let start = now.saturating_sub(window);
        // The latest look at or before the window's start; else the oldest.
        let first = self.ticks.partition_point(|tick| *tick <= start).saturating_sub(1);
        let Some(began) = self.ticks.get(first) else { return Told::default() };
        let seconds = now.saturating_sub(*began).as_secs_f64();
        let first_tick = self.ticked - (self.ticks.len() - 1 - first) as u64;
        let row = |(edge, slots): (&Edge, &Slots)| {
            let rates = slots.rates(first_tick, seconds)?;
            let (call, reporter) = Call::of(edge);
            Some(Row { call, reporter, rates, circuit: None })
        };
        let mut rows: Vec<Row> = self.edges.iter().filter_map(row).collect();
        let activity = |row: &Row| row.rates.requests + row.rates.opened + row.rates.open as f64;
        rows.sort_by(|a, b| activity(b).total_cmp(&activity(a)).then_with(|| a.call.cmp(&b.call)));
        Told { rows, left_out: self.left_out }
    }
}

impl Slots {
    fn add(&mut self, tick: u64, counts: &Counts) {
        match self.slots.back_mut() {
            Some((latest, sum)) if *latest == tick => add(sum, counts),
            _ => self.slots.push_back((tick, *counts)),
        }
    }

    /// Of the slots after `first_tick`, which are so many seconds; `None` if there is nothing in them.
    fn rates(&self, first_tick: u64, seconds: f64) -> Option<Rates> {
        let mut sum = Counts::default();
        let wanted = self.slots.iter().filter(|(tick, _)| *tick > first_tick);
        wanted.for_each(|(_, counts)| add(&mut sum, counts));
        if self.open == 0 && (sum == Counts::default() || seconds <= 0.0) {
            return None;
        }
        // Of connections, opened ones are counted, of requests, these.
        let (failures, refused) = if sum.requests > 0 { (sum.failures, 0) } else { (0, sum.failures) };
        let rate = |count: u64| if seconds > 0.0 { round(count as f64 / seconds) } else { 0.0 };
        Some(Rates {
            requests: rate(sum.requests),
            failures: rate(failures),
            client_errors: rate(sum.client_errors),
            mutual_tls: rate(sum.mutual_tls),
            in_the_clear: rate(sum.in_the_clear),
            retries: rate(sum.retries),
            durations: if sum.requests > 0 { sum.durations.map(rate).to_vec() } else { Vec::new() },
            opened: rate(sum.opened),
            refused: rate(refused),
            open: self.open,
            received_bytes: rate(sum.received_bytes),
            sent_bytes: rate(sum.sent_bytes),
        })
    }
}

/// Short in JSON, and exact enough: one request in a window of a minute is 0.0167.
fn round(rate: f64) -> f64 {
    (rate * 10_000.0).round() / 10_000.0
}

fn difference(now: &Counts, before: &Counts) -> Counts {
    Counts {
        requests: now.requests.saturating_sub(before.requests),
        failures: now.failures.saturating_sub(before.failures),
        client_errors: now.client_errors.saturating_sub(before.client_errors),
        mutual_tls: now.mutual_tls.saturating_sub(before.mutual_tls),
        in_the_clear: now.in_the_clear.saturating_sub(before.in_the_clear),
        retries: now.retries.saturating_sub(before.retries),
        durations: std::array::from_fn::<_, { BOUNDS.len() }, _>(|i| {
            now.durations[i].saturating_sub(before.durations[i])
        }),
        opened: now.opened.saturating_sub(before.opened),
        closed: now.closed.saturating_sub(before.closed),
        received_bytes: now.received_bytes.saturating_sub(before.received_bytes),
        sent_bytes: now.sent_bytes.saturating_sub(before.sent_bytes),
    }
}

pub(super) fn add(sum: &mut Counts, counts: &Counts) {
    sum.requests += counts.requests;
    sum.failures += counts.failures;
    sum.client_errors += counts.client_errors;
    sum.mutual_tls += counts.mutual_tls;
    sum.in_the_clear += counts.in_the_clear;
    sum.retries += counts.retries;
    sum.durations.iter_mut().zip(counts.durations).for_each(|(sum, count)| *sum += count);
    sum.opened += counts.opened;
    sum.closed += counts.closed;
    sum.received_bytes += counts.received_bytes;
    sum.sent_bytes += counts.sent_bytes;
}

#[cfg(test)]
pub(super) mod tests {
    use weft_proxy::metrics::{Party, Reporter};

    use super::*;

    pub(crate) fn edge(service: &str) -> Edge {
        let party = |app: &str| Party {
            namespace: "default".into(),
            workload: format!("{app}-v1"),
            app: app.into(),
            version: "v1".into(),
        };
        Edge {
            reporter: Reporter::Source,
            source: party("client"),
            destination: party(service),
            service_namespace: "default".into(),
            service: service.into(),
            is_outside: false,
            protocol: "http",
        }
    }

    pub(crate) fn http(requests: u64, failures: u64) -> Counts {
        let mut durations = [0; BOUNDS.len()];
        durations[2] = requests;
        Counts { requests, failures, durations, ..Counts::default() }
    }

    fn tick(windows: &mut Windows, second: u64, series: &[(u64, &str, Counts)]) {
        windows.tick((Duration::from_secs(second), Duration::from_secs(1_000_000 + second)), |see| {
            for (id, service, counts) in series {
                see(SeriesId::of(*id), &edge(service), counts);
            }
        });
    }

    fn requests(windows: &Windows, seconds: u64) -> Vec<(String, f64)> {
        let told = windows.rows(Duration::from_secs(seconds));
        told.rows.into_iter().map(|row| (row.call.service, row.rates.requests)).collect()
    }

    #[test]
    fn rates_are_of_the_window_and_nothing_of_before_the_first_look() {
        let mut windows = Windows::default();
        assert!(requests(&windows, 10).is_empty());
        tick(&mut windows, 100, &[(1, "web", http(1_000, 0))]);
        assert!(requests(&windows, 10).is_empty(), "counted before anybody looked");
        for second in 1..=20 {
            tick(&mut windows, 100 + second, &[(1, "web", http(1_000 + 10 * second, second))]);
        }
        assert_eq!(requests(&windows, 10), [("web".to_owned(), 10.0)]);
        assert_eq!(requests(&windows, 60), [("web".to_owned(), 10.0)], "only 20 s are known");
        let rates = &windows.rows(Duration::from_secs(5)).rows[0].rates;
        assert_eq!((rates.failures, rates.success()), (1.0, Some(0.9)));
        assert_eq!(rates.quantile(0.5), Some(3.0));
        tick(&mut windows, 121, &[(1, "web", http(1_200, 20))]);
        assert_eq!(requests(&windows, 1), [], "nothing in the last second");
    }

    #[test]
    fn a_series_that_comes_counts_whole_and_one_that_goes_takes_nothing_away() {
        let mut windows = Windows::default();
        tick(&mut windows, 0, &[]);
        tick(&mut windows, 1, &[(1, "web", http(5, 0)), (2, "web", http(5, 5))]);
        tick(&mut windows, 2, &[(1, "web", http(5, 0))]);
        assert_eq!(requests(&windows, 2), [("web".to_owned(), 5.0)]);
        tick(&mut windows, 3, &[(1, "web", http(5, 0)), (3, "web", http(2, 0))]);
        assert_eq!(requests(&windows, 1), [("web".to_owned(), 2.0)], "the series began anew, under another id");
        for second in 4..70 {
            tick(&mut windows, second, &[(1, "web", http(5, 0))]);
        }
        assert!(windows.edges.is_empty(), "nothing is kept of what is over");
    }

    #[test]
    fn open_connections_are_told_though_they_are_quiet() {
        let mut windows = Windows::default();
        let tcp = |opened, closed| Counts { opened, closed, ..Counts::default() };
        tick(&mut windows, 0, &[(1, "db", tcp(3, 1))]);
        assert_eq!(windows.rows(Duration::from_secs(1)).rows[0].rates.open, 2);
        tick(&mut windows, 1, &[(1, "db", Counts { sent_bytes: 2_000, failures: 1, ..tcp(4, 4) })]);
        let rates = windows.rows(Duration::from_secs(1)).rows[0].rates.clone();
        assert_eq!((rates.open, rates.opened, rates.refused, rates.sent_bytes), (0, 1.0, 1.0, 2_000.0));
    }

    #[test]
    fn however_many_edges_there_are_so_many_are_followed() {
        let mut windows = Windows::default();
        tick(&mut windows, 0, &[]);
        let names: Vec<String> = (0..MAX_EDGES + 5).map(|i| format!("s{i}")).collect();
        let series: Vec<_> = (0..).zip(&names).map(|(id, name)| (id, name.as_str(), http(1, 0))).collect();
        tick(&mut windows, 1, &series);
        let told = windows.rows(Duration::from_secs(1));
        assert_eq!((told.rows.len(), told.left_out), (MAX_EDGES, 5));
    }
}
