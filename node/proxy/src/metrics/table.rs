//! All series of one kind, by their labels; and which of them are over.
//!
//! A series is forgotten once nobody counts in it any more, and
//! - it has not changed for [`IDLE`], and a scrape was told its last value: nothing that was counted is lost to who
//!   scrapes; or
//! - it has not changed for [`UNREAD`]: nobody scrapes.
//!
//! If its labels come again, it begins at 0, as after a restart. What [`Numbers::is_remembered`] is kept for a day.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::time::Instant;

use super::{labels::Labels, shape::Ends};

/// See the module's documentation.
const IDLE: Duration = Duration::from_secs(15 * 60);
const UNREAD: Duration = Duration::from_secs(60 * 60);
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);
/// Most series of a kind. More label sets than that share one series that is not told to anybody, and are counted.
pub(super) const MAX_SERIES: usize = 4_096;

/// The numbers of one series.
pub(super) trait Numbers {
    /// Grows whenever one of them does.
    fn progress(&self) -> u64;

    /// Whether somebody wants to know of it for longer than metrics are kept.
    fn is_remembered(&self) -> bool;

    fn ends(&self) -> &Ends;
}

pub(super) struct Table<S> {
    series: RwLock<HashMap<Arc<Labels>, Kept<S>>>,
    /// Given to whoever would make the table too large.
    rest: RwLock<Option<Arc<S>>>,
    /// Label sets that got it.
    overflows: AtomicU64,
}

struct Kept<S> {
    series: Arc<S>,
    /// The progress that the latest scrape was told.
    told: AtomicU64,
    /// The progress at the latest look, and since when it is that.
    seen: u64,
    since: Instant,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self { series: RwLock::default(), rest: RwLock::default(), overflows: AtomicU64::new(0) }
    }
}

impl<S: Numbers> Table<S> {
    /// The series of these labels, which `make` makes if it is new.
    pub(super) fn get(&self, labels: Labels, make: impl FnOnce() -> S) -> Arc<S> {
        let mut all = self.series.write();
        if let Some(kept) = all.get(&labels) {
            return kept.series.clone();
        }
        if all.len() >= MAX_SERIES {
            drop(all);
            self.overflows.fetch_add(1, Ordering::Relaxed);
            return self.rest.write().get_or_insert_with(|| Arc::new(make())).clone();
        }
        let series = Arc::new(make());
        // Nothing was told yet: not even that it is there.
        let kept = Kept { series: series.clone(), told: AtomicU64::new(u64::MAX), seen: 0, since: Instant::now() };
        all.insert(Arc::new(labels), kept);
        series
    }

    /// All series as they are now. Nobody waits for what is done with them.
    pub(super) fn all(&self) -> Vec<(Arc<Labels>, Arc<S>)> {
        self.series.read().iter().map(|(labels, kept)| (labels.clone(), kept.series.clone())).collect()
    }

    /// As [`Self::all`], for a scrape.
    pub(super) fn tell(&self) -> Vec<(Arc<Labels>, Arc<S>)> {
        let all = self.series.read();
        let tell = |(labels, kept): (&Arc<Labels>, &Kept<S>)| {
            // Before the numbers themselves are read: they may be more by then, and not less.
            kept.told.store(kept.series.progress(), Ordering::Relaxed);
            (labels.clone(), kept.series.clone())
        };
        all.iter().map(tell).collect()
    }

    /// Forgets what is over, and gives it back.
    pub(super) fn expire(&self, now: Instant) -> Vec<(Arc<Labels>, Arc<S>)> {
        let is_over = |_: &Arc<Labels>, kept: &mut Kept<S>| {
            let progress = kept.series.progress();
            if progress != kept.seen {
                (kept.seen, kept.since) = (progress, now);
            }
            let is_told = kept.told.load(Ordering::Relaxed) == progress;
            // Whoever counts in it holds it; and gets it only under this lock.
            let is_held = Arc::strong_count(&kept.series) > 1;
            !is_held && now.duration_since(kept.since) >= lifetime(is_told, kept.series.is_remembered())
        };
        self.series.write().extract_if(is_over).map(|(labels, kept)| (labels, kept.series)).collect()
    }

    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.series.read().len()
    }
}

fn lifetime(is_told: bool, is_remembered: bool) -> Duration {
    match (is_remembered, is_told) {
        (true, _) => REMEMBERED,
        (false, true) => IDLE,
        (false, false) => UNREAD,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            labels::{Names, Reporter},
            series::Parties,
        },
        *,
    };

    struct Count(AtomicU64, bool, Ends);

    impl Default for Count {
        fn default() -> Self {
            Self(AtomicU64::new(0), false, Ends::of(&Parties::new(Reporter::Source)))
        }
    }

    impl Numbers for Count {
        fn progress(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn is_remembered(&self) -> bool {
            self.1
        }

        fn ends(&self) -> &Ends {
            &self.2
        }
    }

    fn labels(value: &str) -> Labels {
        static NAMES: Names = Names::new();
        Labels::new(&NAMES, vec![("label", value.to_owned().into())])
    }

    fn count(table: &Table<Count>, value: &str) {
        table.get(labels(value), Count::default).0.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at the table once a minute.
    fn pass(table: &Table<Count>, now: &mut Instant, minutes: u64) {
        for _ in 0..minutes {
            *now += Duration::from_secs(60);
            table.expire(*now);
        }
    }

    #[test]
    fn what_was_told_goes_after_a_quarter_of_an_hour_and_what_was_not_after_an_hour() {
        let (table, mut now) = (Table::default(), Instant::now());
        count(&table, "told");
        table.tell();
        count(&table, "never told");
        pass(&table, &mut now, 10);
        count(&table, "told");
        pass(&table, &mut now, 20);
        assert_eq!(table.len(), 2, "the last value of none was told");
        table.tell();
        pass(&table, &mut now, 1);
        assert_eq!(table.len(), 0, "both had been idle for long enough");

        count(&table, "never told");
        pass(&table, &mut now, 60);
        assert_eq!(table.len(), 1);
        pass(&table, &mut now, 2);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_somebody_counts_in_or_remembers_stays() {
        let (table, mut now) = (Table::default(), Instant::now());
        let held = table.get(labels("held"), Count::default);
        drop(table.get(labels("remembered"), || Count(AtomicU64::new(1), true, Count::default().2)));
        table.tell();
        pass(&table, &mut now, 23 * 60);
        assert_eq!(table.len(), 2);
        held.0.fetch_add(1, Ordering::Relaxed);
        drop(held);
        pass(&table, &mut now, 2 * 60);
        assert_eq!(table.len(), 0, "the one after a day, the other an hour after its last change");
    }

    #[test]
    fn a_full_table_counts_what_it_cannot_take() {
        let table = Table::default();
        for i in 0..MAX_SERIES + 3 {
            count(&table, &i.to_string());
        }
        assert_eq!((table.len(), table.overflows()), (MAX_SERIES, 3));
        count(&table, "0");
        assert_eq!(table.overflows(), 3);
    }
}
