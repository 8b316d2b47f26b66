//! Connections in the clear: to the workloads of this node, and to places outside of the mesh.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    IDLE_TIMEOUT, Lease, Need,
    dial::{self, Http1Sender, connect_plain},
    link::{Link, Links},
};
use crate::error::ConnectError;

/// Idle connections kept per address and worker.
const MAX_IDLE: usize = 1_024;

#[derive(Default)]
pub(super) struct AppPool {
    /// HTTP/1.1: the most recently used is last, and used first, so that the others may grow old.
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    http2: RefCell<HashMap<SocketAddr, Rc<Links<()>>>>,
}

struct Idle {
    sender: Http1Sender,
    since: Instant,
}

impl AppPool {
    pub(super) async fn checkout(
        this: &Rc<Self>,
        address: SocketAddr,
        http2: bool,
        need: Need,
        connect_timeout: Duration,
    ) -> Result<Lease, ConnectError> {
        if http2 && need != Need::Upgrade {
            let links = this.http2.borrow_mut().entry(address).or_default().clone();
            let dial = move || {
                async move {
                    let sender =
                        dial::http2(&address.to_string(), connect_plain(address, connect_timeout).await?).await?;
                    Ok(Link::new(sender, ()))
                }
                .boxed_local()
            };
            return Ok(Lease::Shared(links.checkout(|()| true, dial).await?));
        }
        let pooled = if need == Need::Any { this.take_idle(address) } else { None };
        let was_used = pooled.is_some();
        let sender = match pooled {
            Some(sender) => sender,
            // Boxed, as all dialling is: most requests find a connection, and should not carry room for making one.
            None => Box::pin(dial_http1(address, connect_timeout)).await?,
        };
        let pool = this.clone();
        Ok(Lease::Exclusive(Exclusive { sender: Some(sender), was_used, address, pool, give_back: false }))
    }

    fn take_idle(&self, address: SocketAddr) -> Option<Http1Sender> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(&address)?;
        // One that is open but not ready still has to see its last exchange off: leave it for later.
        idle.retain(|idle| !idle.sender.is_closed());
        let ready = idle.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(idle.remove(ready).sender)
    }

    fn give_back(&self, address: SocketAddr, sender: Http1Sender) {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(address).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    pub(super) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_TIMEOUT);
            !idle.is_empty()
        });
        self.http2.borrow_mut().retain(|_, links| !links.sweep(IDLE_TIMEOUT));
    }
}

async fn dial_http1(address: SocketAddr, connect_timeout: Duration) -> Result<Http1Sender, ConnectError> {
    dial::http1(&address.to_string(), connect_plain(address, connect_timeout).await?).await
}

/// An HTTP/1.1 connection in use. It goes back to its pool if its exchange came to its end, and is closed otherwise.
pub(crate) struct Exclusive {
    /// Taken on drop.
    sender: Option<Http1Sender>,
    was_used: bool,
    address: SocketAddr,
    pool: Rc<AppPool>,
    give_back: bool,
}

impl Exclusive {
    pub(super) fn sender(&mut self) -> &mut Http1Sender {
        self.sender.as_mut().expect("only drop takes the sender")
    }

    pub(super) fn was_used(&self) -> bool {
        self.was_used
    }

    pub(super) fn finished(&mut self) {
        self.give_back = true;
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| self.give_back && !sender.is_closed()) {
            self.pool.give_back(self.address, sender);
        }
    }
}
