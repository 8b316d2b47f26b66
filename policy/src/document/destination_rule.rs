//! `networking.istio.io` DestinationRule: a service's subsets, and how its endpoints are balanced.

use std::collections::BTreeMap;

use weft_wire::id::is_label;

use super::{
    DocumentError,
    header::{Context, ROOT_FIELDS_WITH_SPEC},
    read::Field,
    validate,
};
use crate::{balance::Balancer, hosts::HostPattern};

#[derive(Debug, PartialEq)]
pub struct DestinationRule {
    pub(crate) host: HostPattern,
    /// `None` leaves it to others, and to the default in the end.
    pub(crate) balancer: Option<Balancer>,
    pub(crate) subsets: Vec<Subset>,
}

/// The endpoints of a service that have certain labels.
#[derive(Debug, PartialEq)]
pub(crate) struct Subset {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) balancer: Option<Balancer>,
}

impl DestinationRule {
    pub(super) fn read(root: &Field<'_>, context: &mut Context<'_>) -> Result<Self, DocumentError> {
        let spec = root.map(ROOT_FIELDS_WITH_SPEC)?.required("spec")?.map(&["host", "trafficPolicy", "subsets"])?;
        let host = context.host(&spec.required("host")?)?;

        let mut subsets: Vec<Subset> = Vec::new();
        for item in spec.list("subsets")? {
            let subset = Subset::read(&item)?;
            if subsets.iter().any(|other| other.name == subset.name) {
                return Err(item.error(format!("the name {} is given twice", subset.name)));
            }
            subsets.push(subset);
        }
        Ok(Self { host, balancer: read_policy(spec.get("trafficPolicy"))?, subsets })
    }
}

impl Subset {
    fn read(item: &Field<'_>) -> Result<Self, DocumentError> {
        let map = item.map(&["name", "labels", "trafficPolicy"])?;
        let name = map.required("name")?;
        if !is_label(name.text()?) {
            return Err(name.error("must be 1 to 63 of a-z, 0-9 and '-', and neither start nor end with '-'"));
        }
        let labels = map.text_map("labels")?;
        if let Some(field) = map.get("labels") {
            validate::labels(&field, &labels)?;
        }
        Ok(Self { name: name.text()?.to_owned(), labels, balancer: read_policy(map.get("trafficPolicy"))? })
    }
}

/// Reads a `trafficPolicy`.
fn read_policy(policy: Option<Field<'_>>) -> Result<Option<Balancer>, DocumentError> {
    let Some(policy) = policy else { return Ok(None) };
    let Some(load_balancer) = policy.map(&["loadBalancer"])?.get("loadBalancer") else { return Ok(None) };
    let Some(simple) = load_balancer.map(&["simple"])?.get("simple") else { return Ok(None) };
    match simple.text()? {
        // LEAST_CONN is the old name of LEAST_REQUEST.
        "UNSPECIFIED" | "LEAST_REQUEST" | "LEAST_CONN" => Ok(Some(Balancer::LeastRequest)),
        "ROUND_ROBIN" => Ok(Some(Balancer::RoundRobin)),
        "RANDOM" => Ok(Some(Balancer::Random)),
        other => Err(simple.error(format!(
            "{other} is not supported by this version of weft; supported here: UNSPECIFIED, LEAST_REQUEST, LEAST_CONN, ROUND_ROBIN, RANDOM"
        ))),
    }
}
