//! Faults on purpose, done to a request before it goes anywhere.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::time::sleep;
use weft_policy::{condition::Request, experiment::Experiment, fault::Fault};

use crate::{error::ProxyError, metrics::Flag, record::ExchangeRecord};

/// What experiments have in mind for a request.
#[derive(Default)]
pub(crate) struct Plan {
    fault: Option<Fault>,
    /// Those that want to know how it goes without a fault.
    watching: Vec<Arc<Experiment>>,
}

impl Plan {
    /// The oldest experiment that hits decides; none where there are no experiments.
    pub(crate) fn of<'e>(experiments: impl Iterator<Item = &'e Arc<Experiment>>, request: &Request<'_>) -> Self {
        let mut plan = Self::default();
        for experiment in experiments {
            let now = unix_ms();
            plan.fault = experiment.decide(request, rand::random(), now);
            if plan.fault.is_some() {
                plan.watching.clear();
                return plan;
            }
            if experiment.is_watching(now) {
                plan.watching.push(experiment.clone());
            }
        }
        plan
    }

    /// Does it.
    ///
    /// # Errors
    /// The fault ends the request.
    pub(crate) async fn carry_out(self, record: &mut ExchangeRecord) -> Result<(), ProxyError> {
        match self.fault {
            Some(fault) => inject(fault, record).await,
            None => {
                record.watch(self.watching);
                Ok(())
            }
        }
    }
}

/// The delay first, then the abort.
pub(crate) async fn inject(Fault { delay, end }: Fault, record: &mut ExchangeRecord) -> Result<(), ProxyError> {
    if let Some(delay) = delay {
        record.flag(Flag::DelayInjected);
        sleep(delay).await;
    }
    end.map_or(Ok(()), |end| Err(ProxyError::Aborted(end)))
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
