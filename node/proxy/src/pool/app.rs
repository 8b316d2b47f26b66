//! Connections in the clear: to the workloads of this node, and to places outside of the mesh.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;
use weft_policy::connection::ConnectionSettings;

use super::{
    Lease, Need,
    dial::{self, Http1Sender, connect_plain},
    life::{Life, is_same},
    link::{Link, Links},
};
use crate::error::ConnectError;

/// Idle connections kept per address and worker.
const MAX_IDLE: usize = 1_024;

#[derive(Default)]
pub(super) struct AppPool {
    /// HTTP/1.1: the most recently used is last, and used first, so that the others may grow old.
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    http2: RefCell<HashMap<SocketAddr, BySettings>>,
}

/// Few clusters lead to one workload, so a list will do.
type BySettings = Vec<(Option<Arc<ConnectionSettings>>, Rc<Links<()>>)>;

struct Idle {
    sender: Http1Sender,
    life: Life,
    since: Instant,
}

impl AppPool {
    pub(super) async fn checkout(
        this: &Rc<Self>,
        address: SocketAddr,
        http2: bool,
        settings: Option<&Arc<ConnectionSettings>>,
        need: Need,
        connect_timeout: Duration,
    ) -> Result<Lease, ConnectError> {
        if http2 && need != Need::Upgrade {
            let links = this.links(address, settings);
            let dial = || {
                let settings = settings.cloned();
                async move {
                    let stream = connect_plain(address, settings.as_deref(), connect_timeout).await?;
                    let sender = dial::http2(&address.to_string(), stream, settings.as_deref()).await?;
                    Ok(Link::new(sender, (), Life::begin(settings)))
                }
                .boxed_local()
            };
            return Ok(Lease::Shared(links.checkout(|()| true, dial).await?));
        }
        let pooled = if need == Need::Any { this.take_idle(address, settings) } else { None };
        let was_used = pooled.is_some();
        let (sender, life) = match pooled {
            Some(Idle { sender, life, .. }) => (sender, life),
            // Boxed, as all dialling is: most requests find a connection, and should not carry room for making one.
            None => Box::pin(dial_http1(address, settings, connect_timeout)).await?,
        };
        life.count_request();
        let pool = this.clone();
        Ok(Lease::Exclusive(Exclusive { connection: Some((sender, life)), was_used, address, pool, give_back: false }))
    }

    fn links(&self, address: SocketAddr, settings: Option<&Arc<ConnectionSettings>>) -> Rc<Links<()>> {
        let mut links = self.http2.borrow_mut();
        let of_address = links.entry(address).or_default();
        match of_address.iter().find(|(known, _)| is_same(known.as_ref(), settings)) {
            Some((_, links)) => links.clone(),
            None => {
                let new = Rc::<Links<()>>::default();
                of_address.push((settings.cloned(), new.clone()));
                new
            }
        }
    }

    fn take_idle(&self, address: SocketAddr, settings: Option<&Arc<ConnectionSettings>>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(&address)?;
        // One that is open but not ready still has to see its last exchange off: leave it for later. Those that are over
        // go with the next sweep: to look for them here would cost each request a look at all.
        let may_serve = |idle: &Idle| idle.sender.is_ready() && idle.life.is_of(settings) && idle.is_open();
        let ready = idle.iter().rposition(may_serve)?;
        Some(idle.remove(ready))
    }

    fn give_back(&self, address: SocketAddr, sender: Http1Sender, life: Life) {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(address).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, life, since: Instant::now() });
        }
    }

    pub(super) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(Idle::is_open);
            !idle.is_empty()
        });
        self.http2.borrow_mut().retain(|_, of_address| {
            of_address.retain(|(_, links)| !links.sweep());
            !of_address.is_empty()
        });
    }
}

impl Idle {
    fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.life.is_over(self.since)
    }
}

async fn dial_http1(
    address: SocketAddr,
    settings: Option<&Arc<ConnectionSettings>>,
    connect_timeout: Duration,
) -> Result<(Http1Sender, Life), ConnectError> {
    let stream = connect_plain(address, settings.map(|settings| &**settings), connect_timeout).await?;
    Ok((dial::http1(&address.to_string(), stream).await?, Life::begin(settings.cloned())))
}

/// An HTTP/1.1 connection in use. It goes back to its pool if its exchange came to its end, and is closed otherwise.
pub(crate) struct Exclusive {
    /// Taken on drop.
    connection: Option<(Http1Sender, Life)>,
    was_used: bool,
    address: SocketAddr,
    pool: Rc<AppPool>,
    give_back: bool,
}

impl Exclusive {
    pub(super) fn sender(&mut self) -> &mut Http1Sender {
        let connection = self.connection.as_mut().expect("only drop takes the connection");
        &mut connection.0
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
        let Some((sender, life)) = self.connection.take() else { return };
        if self.give_back && !sender.is_closed() && life.may_serve() {
            self.pool.give_back(self.address, sender, life);
        }
    }
}
