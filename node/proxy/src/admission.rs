//! How many connections are taken: of each listener, of each other host, and of each that has yet to prove who it is.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

/// Room for the connections of one listening address, on all workers together.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    open: Arc<AtomicUsize>,
    max: usize,
    /// Where other hosts connect: how many each of them has, which is half of all at most.
    by_host: Option<Arc<ByHost>>,
}

type ByHost = Mutex<HashMap<IpAddr, usize>>;

impl Slots {
    /// Of an address of which all callers are of this host.
    pub(crate) fn new(max: usize) -> Self {
        Self { open: Arc::default(), max, by_host: None }
    }

    /// Of an address to which other hosts connect, none of which may take the room of all others.
    pub(crate) fn of_hosts(max: usize) -> Self {
        Self { by_host: Some(Arc::default()), ..Self::new(max) }
    }

    /// How much of the room is taken, in percent.
    pub(crate) fn taken_percent(&self) -> u64 {
        (self.open.load(Ordering::Relaxed) as u64).saturating_mul(100) / (self.max as u64).max(1)
    }

    /// Room for one more connection from this address, until what is returned is dropped; `None` if all is taken, or all
    /// that the host may have.
    pub(crate) fn take(&self, from: IpAddr) -> Option<Slot> {
        let mut slot = Slot { open: self.open.clone(), host: None };
        if slot.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            return None;
        }
        if let Some(by_host) = &self.by_host {
            let mut by_host_now = by_host.lock();
            let of_host = by_host_now.entry(from).or_default();
            if *of_host >= (self.max / 2).max(1) {
                return None;
            }
            *of_host += 1;
            slot.host = Some((by_host.clone(), from));
        }
        Some(slot)
    }
}

/// One connection's room.
#[derive(Debug)]
pub(crate) struct Slot {
    open: Arc<AtomicUsize>,
    host: Option<(Arc<ByHost>, IpAddr)>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some((by_host, from)) = &self.host {
            let mut by_host = by_host.lock();
            if let Some(of_host) = by_host.get_mut(from) {
                *of_host -= 1;
                if *of_host == 0 {
                    by_host.remove(from);
                }
            }
        }
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
        let (slots, from) = (Slots::new(2), IpAddr::from([127, 0, 0, 1]));
        let (first, _second) = (slots.take(from).unwrap(), slots.clone().take(from).unwrap());
        assert!(slots.take(from).is_none());
        assert!(slots.take(from).is_none(), "a refusal takes none");
        assert_eq!(slots.taken_percent(), 100);
        drop(first);
        assert!(slots.take(from).is_some());
    }

    #[test]
    fn no_host_has_the_room_of_all() {
        let slots = Slots::of_hosts(5);
        let [one, other, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let (first, _second) = (slots.take(one).unwrap(), slots.take(one).unwrap());
        assert!(slots.take(one).is_none() && slots.take(one).is_none());
        let held: Vec<_> = [other, other, third].map(|from| slots.clone().take(from).unwrap()).into();
        assert!(slots.take(third).is_none(), "all is taken");
        drop((first, held));
        assert!(slots.take(one).is_some(), "it is given back");
        assert_eq!(slots.by_host.unwrap().lock().len(), 1, "and forgotten");
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
