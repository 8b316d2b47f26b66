//! The `traces` actor: takes spans from the data path, keeps the latest, and has those that were sampled sent to the
//! collectors that documents name.

use std::sync::Arc;

use weft_policy::telemetry::Collector;
use weft_proxy::ports::{LogRecord, SignalSink, Span};

use crate::{
    admin::traces::OwnTraces,
    otlp::Exporters,
    supervisor::{Actor, Inbox, Mailbox},
    traces::TraceSpan,
};

/// Whom the data path gives what it tells: spans go to the actor, records of logs to the exporters.
pub struct Signals {
    pub spans: Mailbox<Span>,
    pub exporters: Exporters,
}

impl SignalSink for Signals {
    fn log(&self, to: &Arc<Collector>, record: LogRecord) -> bool {
        self.exporters.log(to, record)
    }

    fn span(&self, span: Span) -> bool {
        self.spans.try_send(span).is_ok()
    }
}

pub struct TracesActor {
    pub own: OwnTraces,
    pub exporters: Exporters,
}

impl Actor for TracesActor {
    type Msg = Span;

    async fn run(self, inbox: &mut Inbox<Span>) -> anyhow::Result<()> {
        while let Some(span) = inbox.recv().await {
            self.own.store.lock().add(&TraceSpan::of(&span, &self.own.node));
            if let Some(collector) = span.signals.tracing.collector.clone().filter(|_| span.is_sampled) {
                // Lost ones are counted there.
                let _ = self.exporters.span(&collector, span);
            }
        }
        Ok(())
    }
}
