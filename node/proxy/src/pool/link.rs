//! HTTP/2 connections to one place: shared by many exchanges, dialled one at a time.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
};

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared, WeakShared},
};
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::life::Life;
use crate::{body::RequestBody, error::ConnectError, http2::MAX_STREAMS, ports::OriginationTable};

/// One connection. `T` is what its owner must know to tell whether it may still be used.
pub(super) struct Link<T> {
    sender: SendRequest<RequestBody>,
    pub(super) about: T,
    life: Life,
    use_count: Rc<Use>,
}

struct Use {
    streams: Cell<u32>,
    last: Cell<Instant>,
    /// This end of the connection.
    local: Option<SocketAddr>,
}

impl<T> Link<T> {
    pub(super) fn new(sender: SendRequest<RequestBody>, about: T, life: Life) -> Self {
        let unused = Use { streams: Cell::new(0), last: Cell::new(Instant::now()), local: life.local() };
        Self { sender, about, life, use_count: Rc::new(unused) }
    }

    fn has_room(&self) -> bool {
        let most = self.life.max_streams().map_or(MAX_STREAMS, |most| most.min(MAX_STREAMS));
        self.use_count.streams.get() < most && self.life.may_serve()
    }

    fn lease(&self) -> LinkLease {
        let in_use = self.use_count.clone();
        in_use.streams.set(in_use.streams.get() + 1);
        self.life.count_request();
        LinkLease { sender: self.sender.clone(), in_use }
    }
}

/// One exchange's share of a connection.
pub(crate) struct LinkLease {
    sender: SendRequest<RequestBody>,
    in_use: Rc<Use>,
}

impl LinkLease {
    pub(super) fn sender(&mut self) -> &mut SendRequest<RequestBody> {
        &mut self.sender
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.in_use.local
    }
}

impl Drop for LinkLease {
    fn drop(&mut self) {
        self.in_use.streams.set(self.in_use.streams.get() - 1);
        self.in_use.last.set(Instant::now());
    }
}

type Dialling<T> = LocalBoxFuture<'static, Result<Rc<Link<T>>, ConnectError>>;

/// All connections to one place. There is usually one; more only while all have their fill of streams.
pub(super) struct Links<T> {
    open: RefCell<Vec<Rc<Link<T>>>>,
    /// The dial that is under way, if somebody still waits for it.
    dialling: RefCell<Option<WeakShared<Dialling<T>>>>,
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
        dial: impl Fn() -> LocalBoxFuture<'static, Result<Link<T>, ConnectError>>,
    ) -> Result<LinkLease, ConnectError> {
        if let Some(lease) = self.lease(usable) {
            return Ok(lease);
        }
        loop {
            let under_way = self.dialling.borrow().as_ref().and_then(WeakShared::upgrade);
            // Who dials gets a share, even if the connection may not last until it is looked at.
            let Some(under_way) = under_way else { return Ok(self.start(dial()).await?.lease()) };
            let link = under_way.await?;
            // More may wait for one dial than it serves: the rest dial again.
            if link.has_room() {
                return Ok(link.lease());
            }
        }
    }

    fn lease(&self, usable: impl Fn(&T) -> bool) -> Option<LinkLease> {
        let mut open = self.open.borrow_mut();
        // One that may serve no more ends with its last stream.
        open.retain(|link| !link.sender.is_closed() && link.life.may_serve() && usable(&link.about));
        let with_room = open.iter().find(|link| link.has_room());
        with_room.map(|link| link.lease())
    }

    fn start(self: &Rc<Self>, dial: LocalBoxFuture<'static, Result<Link<T>, ConnectError>>) -> Shared<Dialling<T>> {
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

    /// Forgets what is closed, may serve no more, would be made in another way now, or has been idle for too long. True
    /// if nothing is left.
    pub(super) fn sweep(&self, originations: &OriginationTable) -> bool {
        let mut open = self.open.borrow_mut();
        open.retain(|link| {
            let in_use = &link.use_count;
            let may_stay = !link.sender.is_closed() && link.life.is_current(originations);
            may_stay && (in_use.streams.get() > 0 || !link.life.is_over(in_use.last.get()))
        });
        open.is_empty() && self.dialling.borrow().as_ref().and_then(WeakShared::upgrade).is_none()
    }
}

impl<T> Links<T> {
    /// How many connections are open.
    pub(super) fn count(&self) -> u64 {
        self.open.borrow().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{sync::Notify, task::LocalSet};
    use weft_policy::connection::ConnectionSettings;

    use super::*;
    use crate::pool::dial;

    /// A link to nobody: it opens, and no request on it is ever answered.
    async fn link() -> Link<u8> {
        link_of(None).await
    }

    async fn link_of(settings: Option<ConnectionSettings>) -> Link<u8> {
        let (near, far) = tokio::io::duplex(1_024);
        std::mem::forget(far); // kept open
        Link::new(dial::http2("nobody", near, None).await.unwrap(), 0, Life::begin(settings.map(Arc::new)))
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_dial_even_if_the_first_goes_away() {
        LocalSet::new()
            .run_until(async {
                let links = Rc::<Links<u8>>::default();
                let (dials, reachable) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
                let ask = || {
                    let (links, dials, reachable) = (links.clone(), dials.clone(), reachable.clone());
                    async move {
                        let dial = || {
                            dials.set(dials.get() + 1);
                            let reachable = reachable.clone();
                            async move {
                                reachable.notified().await;
                                Ok(link().await)
                            }
                            .boxed_local()
                        };
                        links.checkout(|_| true, dial).await.unwrap()
                    }
                };
                let (mut first, mut second) = (Box::pin(ask()), Box::pin(ask()));
                assert!((&mut first).now_or_never().is_none());
                assert!((&mut second).now_or_never().is_none());
                drop(first);
                reachable.notify_one();
                let _leases = (second.await, ask().await);
                assert_eq!(dials.get(), 1);
            })
            .await;
    }

    #[tokio::test]
    async fn a_link_that_is_full_or_no_longer_usable_is_not_given_out() {
        LocalSet::new()
            .run_until(async {
                let (links, dials) = (Rc::<Links<u8>>::default(), Rc::new(Cell::new(0)));
                let dial = || {
                    let dials = dials.clone();
                    move || {
                        dials.set(dials.get() + 1);
                        async { Ok(link().await) }.boxed_local()
                    }
                };
                let mut leases = Vec::new();
                for _ in 0..=MAX_STREAMS {
                    leases.push(links.checkout(|_| true, dial()).await.unwrap());
                }
                assert_eq!(dials.get(), 2, "one more than a link carries");
                leases.clear();
                links.checkout(|_| true, dial()).await.unwrap();
                assert_eq!(dials.get(), 2, "room again");
                links.checkout(|_| false, dial()).await.unwrap();
                assert_eq!(dials.get(), 3, "none usable");
            })
            .await;
    }

    #[tokio::test]
    async fn a_link_that_documents_limit_carries_no_more_than_they_say() {
        LocalSet::new()
            .run_until(async {
                let dials = Rc::new(Cell::new(0));
                let dial_of = |settings: ConnectionSettings| {
                    let dials = dials.clone();
                    move || {
                        dials.set(dials.get() + 1);
                        let settings = settings.clone();
                        async { Ok(link_of(Some(settings)).await) }.boxed_local()
                    }
                };
                let links = Rc::<Links<u8>>::default();
                let streams = dial_of(ConnectionSettings { max_streams: Some(2), ..ConnectionSettings::default() });
                let (_one, two) = tokio::join!(links.checkout(|_| true, &streams), links.checkout(|_| true, &streams));
                let _three = links.checkout(|_| true, &streams).await.unwrap();
                assert_eq!(dials.take(), 2, "two at once on each");
                drop(two);
                let _four = links.checkout(|_| true, &streams).await.unwrap();
                assert_eq!(dials.take(), 0, "there is room again");

                let links = Rc::<Links<u8>>::default();
                let requests = dial_of(ConnectionSettings { max_requests: Some(2), ..ConnectionSettings::default() });
                for _ in 0..5 {
                    links.checkout(|_| true, &requests).await.unwrap();
                }
                assert_eq!(dials.take(), 3, "two on each, one after another");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_link_is_closed_and_one_in_use_is_kept() {
        LocalSet::new()
            .run_until(async {
                let links = Rc::<Links<u8>>::default();
                let lease = links.checkout(|_| true, || async { Ok(link().await) }.boxed_local()).await.unwrap();
                tokio::time::advance(Duration::from_secs(100)).await;
                assert!(!links.sweep(&OriginationTable::default()), "in use");
                drop(lease);
                assert!(!links.sweep(&OriginationTable::default()), "just used");
                tokio::time::advance(Duration::from_secs(60)).await;
                assert!(links.sweep(&OriginationTable::default()), "idle");
            })
            .await;
    }
}
