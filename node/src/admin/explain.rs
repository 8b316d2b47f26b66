//! What would come of a request that nobody sends, by what this node sees.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, Method};
use rustls::pki_types::UnixTime;
use weft_policy::{
    document::Lines,
    explain::{
        RouteExplanation, RouteQuestion, Step,
        access::{AccessQuestion, explain_access},
        explain_route,
        gateway::{GatewayQuestion, explain_gateway},
    },
};
use weft_wire::document::DocumentKey;

use super::api;
use crate::actors::Handles;

/// The parts of a question that HTTP has names for.
struct Asked {
    method: Method,
    headers: HeaderMap,
}

impl Asked {
    fn read(method: &str, path: &str, headers: &[(String, String)]) -> anyhow::Result<Self> {
        let mut read = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().with_context(|| format!("{name:?} is not a header's name"))?;
            read.append(name, value.parse().with_context(|| format!("{value:?} is not a header's value"))?);
        }
        if !path.starts_with('/') {
            bail!("{path:?} is not a path: it must begin with /");
        }
        let method = method.parse().with_context(|| format!("{method:?} is not a method"))?;
        Ok(Self { method, headers: read })
    }
}

impl Handles {
    fn answer(&self, told: Result<RouteExplanation, String>) -> anyhow::Result<api::Explanation> {
        let mut told = told.map_err(anyhow::Error::msg)?;
        self.find_lines(told.steps.iter_mut().collect());
        Ok(api::Explanation { text: told.to_string(), explanation: serde_json::to_value(&told)?, allowed: None })
    }

    /// Says where what decided stands in the document as it is printed: that is what a reader can look at, as documents
    /// are stored without the text that they were written in.
    fn find_lines(&self, steps: Vec<&mut Step>) {
        let wanted: HashSet<DocumentKey> = steps.iter().filter_map(|step| step.key.clone()).collect();
        let documents = self.documents_of(|key| wanted.contains(key)).into_iter();
        let printed: HashMap<DocumentKey, Lines> = documents
            .filter_map(|document| {
                let text = api::yaml(&document.printed()).ok()?;
                Some((document.key, Lines::read(&text)?))
            })
            .collect();
        for step in steps {
            step.line = step.key.as_ref().and_then(|key| printed.get(key)?.of(&step.field));
        }
    }

    /// How a request would be routed.
    pub fn explain_route(&self, question: &api::RouteQuestion) -> anyhow::Result<api::Explanation> {
        let Asked { method, headers } = Asked::read(&question.method, &question.path, &question.headers)?;
        if let Some(gateway) = &question.gateway {
            let question = GatewayQuestion {
                gateway,
                namespace: &question.namespace,
                to: &question.to,
                method: &method,
                path_and_query: &question.path,
                scheme: &question.scheme,
                headers: &headers,
                now_ms: self.views.now_ms(),
            };
            return self.answer(explain_gateway(&self.views.load(), &question));
        }
        let Some(from) = &question.from else { bail!("who calls? give a workload, a service or a gateway") };
        let question = RouteQuestion {
            from,
            to: &question.to,
            namespace: &question.namespace,
            method: &method,
            path_and_query: &question.path,
            scheme: &question.scheme,
            headers: &headers,
            now_ms: self.views.now_ms(),
        };
        self.answer(explain_route(&self.views.load(), &question))
    }

    /// Whether a caller would be let in.
    pub fn explain_access(&self, question: &api::AccessQuestion) -> anyhow::Result<api::Explanation> {
        let Asked { method, headers } = Asked::read(&question.method, &question.path, &question.headers)?;
        let question = AccessQuestion {
            from: &question.from,
            to: &question.to,
            namespace: &question.namespace,
            method: &method,
            path_and_query: &question.path,
            headers: &headers,
            claims: question.claims.as_ref(),
            source_ip: question.source_ip,
            keys: &|at| self.keys.get(at),
            now: UnixTime::now().as_secs(),
        };
        let mut told = explain_access(&self.views.load(), &question).map_err(anyhow::Error::msg)?;
        let of_workloads = told.workloads.iter_mut().flat_map(|workload| &mut workload.steps);
        self.find_lines(told.steps.iter_mut().chain(of_workloads).collect());
        let allowed = Some(told.is_allowed());
        Ok(api::Explanation { text: told.to_string(), explanation: serde_json::to_value(&told)?, allowed })
    }
}
