//! HTTP/2 connections to one place: shared by many exchanges, dialled one at a time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared, WeakShared},
};
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::IDLE_TIMEOUT;
use crate::{body::RequestBody, error::ConnectError, http2::MAX_STREAMS};

/// One connection. `T` is what its owner must know to tell whether it may still be used.
pub(super) struct Link<T> {
    sender: SendRequest<RequestBody>,
    pub(super) about: T,
    use_count: Rc<Use>,
}

struct Use {
    streams: Cell<u32>,
    served: Cell<bool>,
    last: Cell<Instant>,
}

impl<T> Link<T> {
    pub(super) fn new(sender: SendRequest<RequestBody>, about: T) -> Self {
        let unused = Use { streams: Cell::new(0), served: Cell::new(false), last: Cell::new(Instant::now()) };
        Self { sender, about, use_count: Rc::new(unused) }
    }

    fn lease(&self) -> LinkLease {
        let in_use = self.use_count.clone();
        in_use.streams.set(in_use.streams.get() + 1);
        LinkLease { sender: self.sender.clone(), was_used: in_use.served.replace(true), in_use }
    }
}

/// One exchange's share of a connection.
pub(crate) struct LinkLease {
    sender: SendRequest<RequestBody>,
    was_used: bool,
    in_use: Rc<Use>,
}

impl LinkLease {
    pub(super) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    pub(super) fn was_used(&self) -> bool {
        self.was_used
    }
}

impl Drop for LinkLease {
    fn drop(&mut self) {
        self.in_use.streams.set(self.in_use.streams.get() - 1);
        self.in_use.last.set(Instant::now());
    }
}

type Dial<T> = Shared<LocalBoxFuture<'static, Result<Rc<Link<T>>, ConnectError>>>;

/// All connections to one place. There is usually one; more only while all have their fill of streams.
pub(super) struct Links<T> {
    open: RefCell<Vec<Rc<Link<T>>>>,
    /// The dial that is under way, if somebody still waits for it.
    dialling: RefCell<Option<WeakShared<LocalBoxFuture<'static, Result<Rc<Link<T>>, ConnectError>>>>>,
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self { open: RefCell::default(), dialling: RefCell::new(None) }
    }
}

impl<T: 'static> Links<T> {
    /// A share of a connection that is `usable`; if there is none with room, of the one that is being dialled; if
    /// none is, of the one that `dial` makes. However many ask at once, one dials.
    pub(super) async fn checkout(
        self: &Rc<Self>,
        usable: impl Fn(&T) -> bool,
        dial: impl FnOnce() -> LocalBoxFuture<'static, Result<Link<T>, ConnectError>>,
    ) -> Result<LinkLease, ConnectError> {
        if let Some(lease) = self.lease(usable) {
            return Ok(lease);
        }
        let under_way = self.dialling.borrow().as_ref().and_then(WeakShared::upgrade);
        let dialled = match under_way {
            Some(dial) => dial,
            None => self.start(dial()),
        };
        // More may wait for one dial than it has streams: HTTP/2 queues the rest, and the next ones dial again.
        Ok(dialled.await?.lease())
    }

    fn lease(&self, usable: impl Fn(&T) -> bool) -> Option<LinkLease> {
        let mut open = self.open.borrow_mut();
        open.retain(|link| !link.sender.is_closed() && usable(&link.about));
        let with_room = open.iter().find(|link| link.use_count.streams.get() < MAX_STREAMS);
        with_room.map(|link| link.lease())
    }

    fn start(self: &Rc<Self>, dial: LocalBoxFuture<'static, Result<Link<T>, ConnectError>>) -> Dial<T> {
        let links = self.clone();
        let shared = async move {
            let dialled = dial.await;
            links.dialling.take();
            let link = Rc::new(dialled?);
            links.open.borrow_mut().push(link.clone());
            Ok(link)
        }
        .boxed_local()
        .shared();
        *self.dialling.borrow_mut() = shared.downgrade();
        shared
    }

    /// Forgets what is closed or has been idle for too long. True if nothing is left.
    pub(super) fn sweep(&self) -> bool {
        let mut open = self.open.borrow_mut();
        open.retain(|link| {
            let in_use = &link.use_count;
            !link.sender.is_closed() && (in_use.streams.get() > 0 || in_use.last.get().elapsed() < IDLE_TIMEOUT)
        });
        open.is_empty() && self.dialling.borrow().as_ref().and_then(WeakShared::upgrade).is_none()
    }
}
