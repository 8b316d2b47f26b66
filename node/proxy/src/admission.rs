//! How many connections are taken: of each listener, and of each host that has yet to prove who it is.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Room for the connections of one listening address, on all workers together.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    open: Arc<AtomicUsize>,
    max: usize,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// Room for one more, until what is returned is dropped; `None` if all is taken.
    pub(crate) fn take(&self) -> Option<Slot> {
        let slot = Slot(self.open.clone());
        (slot.0.fetch_add(1, Ordering::Relaxed) < self.max).then_some(slot)
    }
}

/// One connection's room.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Handshakes under way from one address, on one worker. A node dials a few at once; a host that opens more is not
/// waiting for any of them.
const MAX_HANDSHAKES: u32 = 128;

/// The handshakes under way of one worker.
#[derive(Debug, Default)]
pub(crate) struct Handshakes(RefCell<HashMap<IpAddr, u32>>);

impl Handshakes {
    /// Room for one more from this address, until what is returned is dropped.
    pub(crate) fn begin(&self, from: IpAddr) -> Option<Handshake<'_>> {
        let mut under_way = self.0.borrow_mut();
        let of_address = under_way.entry(from).or_default();
        if *of_address >= MAX_HANDSHAKES {
            return None;
        }
        *of_address += 1;
        Some(Handshake { all: self, from })
    }
}

/// One handshake's room.
#[derive(Debug)]
pub(crate) struct Handshake<'h> {
    all: &'h Handshakes,
    from: IpAddr,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let mut under_way = self.all.0.borrow_mut();
        if let Some(of_address) = under_way.get_mut(&self.from) {
            *of_address -= 1;
            if *of_address == 0 {
                under_way.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_given_back() {
        let slots = Slots::new(2);
        let (first, _second) = (slots.take().unwrap(), slots.clone().take().unwrap());
        assert!(slots.take().is_none());
        assert!(slots.take().is_none(), "a refusal takes none");
        drop(first);
        assert!(slots.take().is_some());
    }

    #[test]
    fn handshakes_are_counted_by_address_and_forgotten() {
        let handshakes = Handshakes::default();
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held: Vec<_> = (0..MAX_HANDSHAKES).map(|_| handshakes.begin(one).unwrap()).collect();
        assert!(handshakes.begin(one).is_none());
        assert!(handshakes.begin(other).is_some(), "others are not held up");
        drop(held);
        assert!(handshakes.begin(one).is_some());
        assert!(handshakes.0.borrow().is_empty());
    }
}
