//! Copies of requests, whose answers are for nobody.

use std::{future::poll_fn, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use http_body::Body as _;
use tokio::time::timeout;
use weft_policy::{
    balance::{Attempt, Cluster, Held},
    retry::RetryPolicy,
};

use super::request::{OwnedWay, Way};
use crate::{
    exchange::{Answer, Outgoing},
    original::Asked,
    pool::Need,
    tries::Tries,
    worker::Worker,
};

/// The longest that a mirrored request may take whose rule has no timeout.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(60);

/// Where copies of a request go, and whether their host says so.
pub(super) struct Mirrors {
    pub(super) clusters: Vec<Arc<Cluster>>,
    pub(super) appends_shadow: bool,
}

impl Mirrors {
    /// Sends a copy of the request to each, by a task of its own; to none where too many are under way.
    pub(super) fn send(self, worker: &Rc<Worker>, way: Way<'_>, outgoing: &mut Outgoing, timeout: Option<Duration>) {
        for cluster in self.clusters {
            let Ok(place) = cluster.hold_copy() else {
                worker.metrics.shared().count_mirror_overflow();
                continue;
            };
            if let Some(mut copy) = outgoing.copy() {
                copy.unsample();
                if self.appends_shadow {
                    copy.append_shadow();
                }
                worker.tasks.spawn(mirror(worker.clone(), cluster, place, way.to_owned(), copy, timeout));
            }
        }
    }
}

/// Sends a copy of a request, and reads its answer for nobody.
async fn mirror(
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    _place: Held,
    way: OwnedWay,
    mut copy: Outgoing,
    limit: Option<Duration>,
) {
    let cluster = match cluster.original_destination() {
        None => cluster,
        Some(_) => {
            let (host, local) = (copy.authority.host().to_owned(), Some(way.downstream.local));
            let asked = Asked { host, port: cluster.port, local };
            let Ok(original) = worker.originals.find(&cluster, &asked).await else { return };
            original
        }
    };
    let attempt = Attempt { random: rand::random(), now_ms: worker.now_ms(), ..Attempt::default() };
    let Some(endpoint) = cluster.pick(&attempt) else { return };
    let gate = way.way().gate(&worker);
    let policy = RetryPolicy::default();
    let tries = Tries::new(&worker, &cluster, gate, &policy);
    let sent = async {
        let Ok(Answer { response, mut lease, active, .. }) = tries.once(endpoint, Need::Any, 0, &mut copy).await else {
            return;
        };
        let _active = active;
        let mut body = response.into_body();
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
        lease.finished();
    };
    let _ = timeout(limit.unwrap_or(MIRROR_TIMEOUT), sent).await;
}
