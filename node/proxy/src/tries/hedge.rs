//! Hedging: while a try waits for its response, others are sent beside it, and the first good answer is taken. Envoy's
//! `hedge_on_per_try_timeout`, at a time of its own as in gRPC's `hedgingPolicy`.

use std::{pin::pin, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use weft_policy::{endpoint::Endpoint, retry::Hedging};

use super::{Failed, Progress, Tries, is_not_hosted, knows};
use crate::{
    exchange::{Answer, Outgoing},
    pool::Need,
    record::ExchangeRecord,
};

type Done<'a> = (&'a Arc<Endpoint>, Result<Answer, Failed>);

impl<'a> Tries<'a> {
    /// How this request is hedged, if it is. One of a session belongs to its endpoint.
    pub(super) fn hedging(&self, outgoing: &Outgoing) -> Option<&'a Hedging> {
        let hedging = self.cluster.hedging()?;
        let is_free = self.session.is_none() && outgoing.need() == Need::Any;
        (is_free && self.policy.attempts > 0 && hedging.is_for(&outgoing.method)).then_some(hedging)
    }

    /// One try, and each time that nothing has come for a while another one beside it, which counts as a retry. What
    /// comes of the one that is taken: the first with a good answer, else the last. All others are cancelled.
    pub(super) async fn hedged(
        &self,
        hedging: &Hedging,
        (first, copy): (&'a Arc<Endpoint>, Outgoing),
        need: Need,
        progress: &mut Progress,
        outgoing: &Outgoing,
        record: &mut ExchangeRecord,
    ) -> Done<'a> {
        let mut running = FuturesUnordered::new();
        running.push(self.one(first, need, progress.retries, copy));
        let mut patience = pin!(sleep(hedging.delay));
        loop {
            let (endpoint, done) = tokio::select! {
                biased;
                Some(done) = running.next() => done,
                () = patience.as_mut(), if !patience.is_elapsed() => {
                    if outgoing.is_coming() {
                        patience.as_mut().reset(Instant::now() + hedging.delay);
                        continue;
                    }
                    if let Some((endpoint, copy)) = self.beside(first, progress, outgoing, record) {
                        self.worker.metrics.shared().count_hedge();
                        record.endpoint(self.cluster, endpoint);
                        self.awaited.begin_beside(self.cluster, endpoint);
                        running.push(self.one(endpoint, Need::Any, progress.retries, copy));
                        patience.as_mut().reset(Instant::now() + hedging.delay);
                    }
                    continue;
                }
            };
            if running.is_empty() || self.is_good(endpoint, &done) {
                record.endpoint(self.cluster, endpoint);
                return (endpoint, done);
            }
            // The others go on, which is the retry.
            self.awaited.end_of(endpoint);
            match &done {
                Ok(answer) if is_not_hosted(endpoint, answer) => {}
                Ok(answer) => self.judge(endpoint, answer, record),
                Err(failed) => self.blame(endpoint, failed),
            }
        }
    }

    async fn one(&self, endpoint: &'a Arc<Endpoint>, need: Need, retries: u32, mut copy: Outgoing) -> Done<'a> {
        (endpoint, self.once_within_limit(endpoint, need, retries, &mut copy).await)
    }

    /// Where one more try goes, and its copy of the request: to an endpoint that this request has not been to, while
    /// there are retries left and room for them.
    fn beside(
        &self,
        first: &Arc<Endpoint>,
        progress: &mut Progress,
        outgoing: &Outgoing,
        record: &mut ExchangeRecord,
    ) -> Option<(&'a Arc<Endpoint>, Outgoing)> {
        if progress.retries >= self.policy.attempts {
            return None;
        }
        let copy = outgoing.again(true)?;
        if !knows(&progress.tried, first) {
            progress.tried.push(first.clone());
        }
        let endpoint = self.pick(&progress.tried).filter(|endpoint| !knows(&progress.tried, endpoint))?;
        if !self.may_retry(&mut progress.retrying, record) {
            return None;
        }
        progress.tried.push(endpoint.clone());
        progress.retries += 1;
        Some((endpoint, copy))
    }

    /// Whether it is worth no other try.
    fn is_good(&self, endpoint: &Endpoint, done: &Result<Answer, Failed>) -> bool {
        done.as_ref().is_ok_and(|answer| {
            let response = &answer.response;
            !is_not_hosted(endpoint, answer) && !self.policy.is_on_response(response.status(), response.headers())
        })
    }
}
