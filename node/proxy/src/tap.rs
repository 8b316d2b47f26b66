//! Who watches requests as they go by. While nobody does, a request pays one load of a flag for it.

use std::{
    cell::RefCell,
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use weft_policy::{
    access_log::{Entry, RequestLine},
    service_id::ServiceId,
};

/// Somebody who watches. It is asked on a worker's thread and must not wait.
pub trait Tap: Send + Sync {
    /// Whether a request that begins like this may be wanted; what becomes of it decides.
    fn may_want(&self, request: &RequestLine) -> bool;

    /// How much of each body is wanted, in bytes.
    fn body_limit(&self) -> usize;

    /// Takes what became of it.
    fn take(&self, tapped: &Arc<Tapped>);
}

/// What became of a request that somebody may want.
#[derive(Debug)]
pub struct Tapped {
    /// With all headers.
    pub entry: Arc<Entry>,
    /// The service that was called, as far as it is known.
    pub service: Option<ServiceId>,
    /// The beginnings of the bodies, as far as they are wanted.
    pub request_body: Box<[u8]>,
    pub response_body: Box<[u8]>,
}

/// All who watch. There is one writer; workers read.
#[derive(Default)]
pub struct Taps {
    is_on: AtomicBool,
    all: ArcSwap<Vec<Arc<dyn Tap>>>,
}

impl Taps {
    /// From here on these watch.
    pub fn set(&self, all: Vec<Arc<dyn Tap>>) {
        let is_on = !all.is_empty();
        self.all.store(Arc::new(all));
        self.is_on.store(is_on, Ordering::Release);
    }

    /// Whether anybody watches.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Those who may want a request that begins like this.
    pub(crate) fn watch(&self, request: &RequestLine) -> Option<Watch> {
        let all = self.all.load();
        let taps: Vec<_> = all.iter().filter(|tap| tap.may_want(request)).cloned().collect();
        if taps.is_empty() {
            return None;
        }
        let limit = taps.iter().map(|tap| tap.body_limit()).max().unwrap_or(0);
        let bodies = (limit > 0).then(|| Rc::new(Bodies { limit, ..Bodies::default() }));
        Some(Watch { taps, bodies })
    }
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Taps")
    }
}

/// What is kept of one request for those who watch.
pub(crate) struct Watch {
    taps: Vec<Arc<dyn Tap>>,
    pub(crate) bodies: Option<Rc<Bodies>>,
}

impl Watch {
    pub(crate) fn end(self, entry: &Arc<Entry>, service: Option<ServiceId>) {
        let (request_body, response_body) = match &self.bodies {
            Some(bodies) => (bodies.request.take().into(), bodies.response.take().into()),
            None => Default::default(),
        };
        let tapped = Arc::new(Tapped { entry: entry.clone(), service, request_body, response_body });
        self.taps.iter().for_each(|tap| tap.take(&tapped));
    }
}

/// The beginnings of a request's and its response's body.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    limit: usize,
    request: RefCell<Vec<u8>>,
    response: RefCell<Vec<u8>>,
}

impl Bodies {
    pub(crate) fn of_request(&self, data: &[u8]) {
        self.add(&self.request, data);
    }

    pub(crate) fn of_response(&self, data: &[u8]) {
        self.add(&self.response, data);
    }

    fn add(&self, body: &RefCell<Vec<u8>>, data: &[u8]) {
        let mut body = body.borrow_mut();
        let room = self.limit.saturating_sub(body.len());
        body.extend_from_slice(&data[..data.len().min(room)]);
    }
}
