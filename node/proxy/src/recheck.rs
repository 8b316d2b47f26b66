//! Open connections to workloads of this node, judged anew when what the workload lets in changes. A request is judged
//! when it comes; but a connection may carry one answer for days, or bytes that are no requests, and must end once its
//! caller is let in no more.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
};

use weft_policy::{access::Access, endpoint::LocalWorkload, view::MeshView};
use weft_wire::id::TrustDomain;

use crate::{
    access::Call,
    connection::{End, Load},
    record::Downstream,
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
    pub(crate) sni: Box<str>,
    /// As policies write it: without `spiffe://`.
    pub(crate) principal: Option<Box<str>>,
    /// Of the caller's certificate; `None` for a call within this node.
    pub(crate) trust_domain: Option<TrustDomain>,
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
            sni: self.trust_domain.as_ref().map(|_| &*self.sni),
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
        if !self.may_go_on(view) {
            worker.metrics.shared().count_cut_connection();
            self.load.end(End::NotLetIn);
        }
    }

    fn may_go_on(&self, view: &MeshView) -> bool {
        let is_of_mesh = |domain: &TrustDomain| view.settings.trust_domains.contains(domain);
        if !self.who.trust_domain.as_ref().is_none_or(is_of_mesh) {
            return false;
        }
        let access = self.who.access(view);
        let address = |access: &Option<Arc<Access>>| access.as_ref().map(Arc::as_ptr);
        if address(&access) == address(&self.access.borrow()) {
            return true;
        }
        let may_go_on = match (&access, view.local_workload(&self.who.sni)) {
            (Some(access), Some(local)) => {
                access.authorizer.may_go_on(&self.who.call(local).request(None), self.who.is_http)
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

/// Follows the views, for ever: judges all guests by each that lets others in than the one before, and lets go of what
/// is kept of old ones.
pub(crate) async fn follow_views(worker: Rc<Worker>) {
    let mut changes = worker.views.changes();
    let mut known = worker.views.load();
    while changes.changed().await.is_ok() {
        let view = worker.views.load();
        worker.metrics.forget_parties();
        if !view.lets_in_as(&known) {
            for guest in worker.guests.all() {
                guest.judge(&worker, &view);
            }
        }
        known = view;
    }
}
