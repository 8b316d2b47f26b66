//! Open connections to workloads of this node, judged anew when what the workload lets in changes. A request is judged
//! when it comes; but a connection may carry one answer for days, or bytes that are no requests, and must end once its
//! caller is let in no more. A request between workloads of this node comes by a connection that others go by too, which
//! is why [`Stay`] ends it alone. And open connections with other nodes, which end when the other side's certificate is
//! revoked ([`follow_revocations`]).

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
};

use rustls_pki_types::UnixTime;
use weft_policy::{
    access::Access,
    endpoint::{LocalWorkload, Workload},
    view::MeshView,
};

use crate::{
    access::{Call, LocalGate},
    connection::{End, Load},
    error::ProxyError,
    ports::Caller,
    record::Downstream,
    tls::Peer,
    worker::Worker,
};

/// A caller that has a connection to a workload of this node.
pub(crate) struct Guest {
    pub(crate) who: Who,
    /// The connection, or the tunnel that it has become.
    load: Rc<Load>,
    /// What the workload let in when it was last judged.
    access: RefCell<Option<Arc<Access>>>,
}

/// Who calls, and whom.
pub(crate) struct Who {
    /// The workload's server name, by which each view finds it.
    pub(crate) sni: Arc<str>,
    /// As policies write it: without `spiffe://`.
    pub(crate) principal: Option<Box<str>>,
    /// Whom its certificate proves it to be; `None` for a call within this node.
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) downstream: Downstream,
    /// Whether requests are judged, each by itself.
    pub(crate) is_http: bool,
}

/// The guests of one worker.
#[derive(Default)]
pub(crate) struct Guests(RefCell<Vec<Weak<Guest>>>);

impl Guests {
    fn add(&self, guest: &Rc<Guest>) {
        let mut all = self.0.borrow_mut();
        // Where the list would grow, those that are gone go first.
        if all.len() == all.capacity() {
            all.retain(|known| known.strong_count() > 0);
        }
        all.push(Rc::downgrade(guest));
    }

    fn all(&self) -> Vec<Rc<Guest>> {
        let mut all = self.0.borrow_mut();
        all.retain(|known| known.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Who {
    /// What policies are told of the caller.
    pub(crate) fn call<'c>(&'c self, local: &'c LocalWorkload) -> Call<'c> {
        Call {
            workload: &local.workload,
            port: local.address.port(),
            principal: self.principal.as_deref(),
            downstream: self.downstream,
            // Within the node nobody names a server.
            sni: self.peer.as_ref().map(|_| &*self.sni),
        }
    }
}

impl Guest {
    /// Keeps a connection among those that are judged anew. It was let in by this view, or is not judged yet.
    pub(crate) fn new(worker: &Worker, who: Who, load: Rc<Load>, view: &MeshView) -> Rc<Self> {
        let guest = Rc::new(Self { access: RefCell::new(who.access(view)), who, load });
        worker.guests.add(&guest);
        // A view that came meanwhile is not missed.
        guest.judge(worker, &worker.views.load());
        guest
    }

    /// Returns when the caller is let in no more.
    pub(crate) async fn refused(&self) {
        poll_fn(|cx| self.load.poll_end(cx)).await;
    }

    fn judge(&self, worker: &Worker, view: &MeshView) {
        if self.is_revoked(worker) || !self.may_go_on(view) {
            worker.metrics.shared().count_cut_connection();
            self.load.end(End::NotLetIn);
        }
    }

    fn is_revoked(&self, worker: &Worker) -> bool {
        let Some(peer) = &self.who.peer else { return false };
        peer.is_revoked(&worker.identities.load().revocations, UnixTime::now())
    }

    fn may_go_on(&self, view: &MeshView) -> bool {
        let is_of_mesh = |peer: &Arc<Peer>| view.settings.trust_domains.contains(&peer.id.trust_domain);
        if !self.who.peer.as_ref().is_none_or(is_of_mesh) {
            return false;
        }
        let access = self.who.access(view);
        let address = |access: &Option<Arc<Access>>| access.as_ref().map(Arc::as_ptr);
        if address(&access) == address(&self.access.borrow()) {
            return true;
        }
        let may_go_on = match (&access, view.local_workload(&self.who.sni)) {
            (Some(access), Some(local)) => {
                access.authorizer.may_go_on(&self.who.call(local).request(None), self.who.is_http).is_ok()
            }
            // A workload that is gone ends its connections itself.
            _ => true,
        };
        *self.access.borrow_mut() = access;
        may_go_on
    }
}

impl Who {
    fn access(&self, view: &MeshView) -> Option<Arc<Access>> {
        view.access(&view.local_workload(&self.sni)?.workload).cloned()
    }
}

/// The requests of one worker that wait for workloads of this node.
pub(crate) struct Stays {
    /// The last view that was followed.
    known: RefCell<Arc<MeshView>>,
    /// How often what is let in has changed.
    changes: Cell<u64>,
    waiting: RefCell<Seats>,
}

/// Whom the next change wakes. Places are used again, so that waiting allocates nothing.
#[derive(Default)]
struct Seats {
    taken: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Stays {
    pub(crate) fn new(known: Arc<MeshView>) -> Self {
        Self { known: RefCell::new(known), changes: Cell::default(), waiting: RefCell::default() }
    }

    /// Wakes all who wait, for each to judge itself.
    fn change(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
        for waker in self.waiting.borrow().taken.iter().flatten() {
            waker.wake_by_ref();
        }
    }
}

/// A request between workloads of this node, from when it was let in to its answer's end.
pub(crate) struct Stay {
    worker: Rc<Worker>,
    /// The workload's own port.
    port: u16,
    /// The number of the change by which it was judged last.
    judged: Cell<u64>,
    seat: Cell<Option<usize>>,
}

impl Stay {
    /// Of a request that this view has let in.
    pub(crate) fn new(worker: &Rc<Worker>, view: &MeshView, port: u16) -> Self {
        let Stays { known, changes, .. } = &worker.stays;
        let is_judged = known.borrow().lets_in_as(view);
        let judged = Cell::new(changes.get().wrapping_sub((!is_judged).into()));
        Self { worker: worker.clone(), port, judged, seat: Cell::default() }
    }

    /// Judges it anew if what is let in has changed since it was judged last.
    ///
    /// # Errors
    /// The workload lets the caller in no more.
    pub(crate) fn judge(
        &self,
        workload: &Workload,
        caller: Option<&Caller>,
        downstream: Downstream,
    ) -> Result<(), ProxyError> {
        let worker = &self.worker;
        let changes = worker.stays.changes.get();
        if self.judged.replace(changes) == changes {
            return Ok(());
        }
        let view = worker.views.load();
        let gate = LocalGate { worker, view: &view, caller, downstream };
        let judged = gate.judge_anew(workload, self.port);
        judged.inspect_err(|_| worker.metrics.shared().count_cut_connection())
    }

    /// Has the task woken when it is to be judged anew.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        let Seats { taken, free } = &mut *self.worker.stays.waiting.borrow_mut();
        let seat = self.seat.get().unwrap_or_else(|| {
            free.pop().unwrap_or_else(|| {
                taken.push(None);
                taken.len() - 1
            })
        });
        self.seat.set(Some(seat));
        if let Some(waker) = taken.get_mut(seat)
            && waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let Some(seat) = self.seat.get() else { return };
        let Seats { taken, free } = &mut *self.worker.stays.waiting.borrow_mut();
        if let Some(waker) = taken.get_mut(seat) {
            *waker = None;
            free.push(seat);
        }
    }
}

/// Follows what is revoked, for ever: ends the connections of callers and with servers whose certificates hold no more.
pub(crate) async fn follow_revocations(worker: Rc<Worker>) {
    let mut revoked = worker.identities.revoked();
    loop {
        let (revocations, now) = (worker.identities.load().revocations.clone(), UnixTime::now());
        let cut = worker.pools.cut_revoked(&revocations, now);
        for _ in 0..cut {
            worker.metrics.shared().count_cut_connection();
        }
        let view = worker.views.load();
        for guest in worker.guests.all() {
            guest.judge(&worker, &view);
        }
        if revoked.changed().await.is_err() {
            return;
        }
    }
}

/// Follows the views, for ever: judges all guests by each that lets others in than the one before, has all stays judge
/// themselves, and lets go of what is kept of old ones.
pub(crate) async fn follow_views(worker: Rc<Worker>) {
    let mut changes = worker.views.changes();
    worker.stays.known.replace(worker.views.load());
    while changes.changed().await.is_ok() {
        let view = worker.views.load();
        worker.metrics.forget_parties();
        let before = worker.stays.known.replace(view.clone());
        if !view.lets_in_as(&before) {
            for guest in worker.guests.all() {
                guest.judge(&worker, &view);
            }
            worker.stays.change();
        }
    }
}
