//! What a rule of a route asks, where the call begins and before a workload is chosen.

use weft_policy::{
    authorize::{HttpAccess, RuleRef, forwarded_for},
    route::{Authorizers, Client, Origin},
    view::Host,
};
use weft_wire::id::ServiceName;

use super::{Change, Question, side::Side};
use crate::{
    access::LocalGate,
    decisions::{Asked, Rule},
    error::ProxyError,
    exchange::Outgoing,
    ports::{Caller, WorkloadIdentity},
    record::Downstream,
};

/// A request for which a rule was found.
pub(crate) struct RuledRequest<'a> {
    pub(crate) client: Client<'a>,
    pub(crate) origin: Option<Origin<'a>>,
    pub(crate) host: Host<'a>,
    /// That the caller dialled.
    pub(crate) port: u16,
    pub(crate) gate: LocalGate<'a>,
}

impl RuledRequest<'_> {
    /// Asks one after the other. Returns what is to be changed of the response, if the request may pass.
    pub(crate) async fn ask(
        &self,
        authorizers: &Authorizers<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<Vec<Change>, ProxyError> {
        let &Self { client, origin, host, port, gate } = self;
        let service = match host {
            Host::Service(service) => service.id.mesh(),
            Host::Virtual(_) | Host::Passthrough(_) => None,
        };
        // Only routes of services have authorizers; nothing passes unasked all the same.
        let Some((origin, service)) = origin.zip(service) else {
            return Err(ProxyError::InvalidBackend(outgoing.authority.host().to_owned()));
        };
        let identity = gate.identity();
        let side = RouteRule { client, gate, identity: identity.as_deref(), origin, service, port };
        let question = Question { worker: gate.worker, view: gate.view, side };
        let mut changes = Vec::new();
        for provider in authorizers.iter().copied().flatten() {
            changes.extend(question.of_request(provider, &provider.host, outgoing).await?);
        }
        Ok(changes)
    }
}

#[derive(Clone, Copy)]
struct RouteRule<'a> {
    client: Client<'a>,
    gate: LocalGate<'a>,
    /// As whom the call is made, with a certificate that proves it.
    identity: Option<&'a WorkloadIdentity>,
    origin: Origin<'a>,
    /// The service that is called, and the port that the caller dialled.
    service: &'a ServiceName,
    port: u16,
}

impl Side for RouteRule<'_> {
    fn client(&self) -> Client<'_> {
        self.client
    }

    fn caller(&self) -> Option<Caller> {
        self.gate.caller.cloned()
    }

    fn caller_principal(&self) -> Option<&str> {
        self.identity.map(|identity| &*identity.principal)
    }

    fn source_principal(&self) -> Option<&str> {
        self.caller_principal()
    }

    fn destination(&self) -> (Option<&str>, u16) {
        (None, self.port)
    }

    fn downstream(&self) -> Downstream {
        self.gate.downstream
    }

    fn asked(&self, http: Option<HttpAccess<'_>>) -> Asked {
        let source_ip = self.gate.downstream.remote.ip();
        let remote_ip = http.and_then(|http| forwarded_for(http.headers)).unwrap_or(source_ip);
        let principal = self.source_principal().map(str::to_owned);
        Asked::of_service(self.service.clone(), self.port, principal, [source_ip, remote_ip], http)
    }

    fn rule(&self) -> Rule {
        RuleRef { policy: &self.origin.document.key, rule: self.origin.rule }.into()
    }
}
