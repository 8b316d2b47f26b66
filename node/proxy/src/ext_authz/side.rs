//! On which side of a call an authorizer is asked: at the gate of the workload, as that workload; or where the call
//! begins, as the caller.

use weft_policy::{
    authorize::{HttpAccess, RuleRef},
    route::Client,
};

use crate::{
    access::Call,
    decisions::{Asked, Rule},
    ports::Caller,
    record::Downstream,
};

/// What asking depends on.
pub(crate) trait Side {
    /// As whom services are seen.
    fn client(&self) -> Client<'_>;

    /// As whom the authorizer is called; `None` for one that has no account.
    fn caller(&self) -> Option<Caller>;

    /// The same as its policies see it.
    fn caller_principal(&self) -> Option<&str>;

    /// Who sends what is judged.
    fn source_principal(&self) -> Option<&str>;

    /// To whom, as far as that is known, and at which port.
    fn destination(&self) -> (Option<&str>, u16);

    fn downstream(&self) -> Downstream;

    /// What is kept of a refusal.
    fn asked(&self, http: Option<HttpAccess<'_>>) -> Asked;

    fn rule(&self) -> Rule;
}

/// A workload's policies ask.
#[derive(Clone, Copy)]
pub(crate) struct Gate<'a> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) rule: RuleRef<'a>,
}

impl Side for Gate<'_> {
    fn client(&self) -> Client<'_> {
        Client { namespace: &self.call.workload.namespace, workload: Some(self.call.workload) }
    }

    fn caller(&self) -> Option<Caller> {
        let workload = self.call.workload;
        Some(Caller::new(workload.account.clone(), Some(&workload.name)))
    }

    fn caller_principal(&self) -> Option<&str> {
        Some(&self.call.workload.principal)
    }

    fn source_principal(&self) -> Option<&str> {
        self.call.principal
    }

    fn destination(&self) -> (Option<&str>, u16) {
        (self.call.workload.principal.strip_prefix("spiffe://"), self.call.port)
    }

    fn downstream(&self) -> Downstream {
        self.call.downstream
    }

    fn asked(&self, http: Option<HttpAccess<'_>>) -> Asked {
        Asked::of(self.call, &self.call.request(http))
    }

    fn rule(&self) -> Rule {
        self.rule.into()
    }
}
