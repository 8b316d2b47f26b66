//! Responses whose callers do not read on. Their bodies are not asked for more, and so hear nothing of the time that is
//! up: it is looked at ten times a second instead.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use tokio::time::Instant;

/// What is taken away when its time is up.
pub(crate) type Lent<T> = Rc<RefCell<Option<T>>>;

/// When its time is up, and where it is as long as somebody wants it.
type Loan<T> = (Instant, Weak<RefCell<Option<T>>>);

/// Those of a worker.
pub(crate) struct Overdue<T>(RefCell<Vec<Loan<T>>>);

impl<T> Default for Overdue<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Overdue<T> {
    pub(crate) fn lend(&self, what: T, until: Instant) -> Lent<T> {
        let lent = Rc::new(RefCell::new(Some(what)));
        self.0.borrow_mut().push((until, Rc::downgrade(&lent)));
        lent
    }

    /// Takes away what has been lent for long enough.
    pub(crate) fn collect(&self, now: Instant) {
        let mut over = Vec::new();
        self.0.borrow_mut().retain(|(until, lent)| match lent.upgrade() {
            Some(lent) if *until <= now => {
                over.push(lent);
                false
            }
            lent => lent.is_some(),
        });
        // Not while the list is held: what is dropped may do anything.
        for lent in over {
            let taken = lent.borrow_mut().take();
            drop(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_lent_is_taken_away_in_its_time_and_what_is_given_back_is_forgotten() {
        let (overdue, now) = (Overdue::default(), Instant::now());
        let [short, long] = [1, 2].map(|seconds| overdue.lend(seconds, now + Duration::from_secs(seconds)));
        drop(overdue.lend(3, now));
        overdue.collect(now + Duration::from_secs(1));
        assert_eq!((*short.borrow(), *long.borrow()), (None, Some(2)));
        assert_eq!(overdue.0.borrow().len(), 1);
        drop(long);
        overdue.collect(now);
        assert!(overdue.0.borrow().is_empty());
    }
}
