//! Which calls are asked for, and whose they are.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Call, Rates, Row, UNKNOWN};

/// What traffic is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Service,
    Workload,
    Namespace,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::Namespace => "namespace",
        }
    }

    /// The namespace and the name under which a called side of this kind goes.
    fn called(self, call: &Call) -> (&str, &str) {
        match self {
            Self::Service => (&call.service_namespace, &call.service),
            Self::Workload => (&call.destination_namespace, &call.destination_workload),
            Self::Namespace => {
                // Of a call that found nobody, the service's.
                let known = call.destination_namespace != UNKNOWN;
                (if known { &call.destination_namespace } else { &call.service_namespace }, "")
            }
        }
    }

    /// The same of a calling side. Services do not call: their workloads do.
    fn calling(self, call: &Call) -> Option<(&str, &str)> {
        match self {
            Self::Service => None,
            Self::Workload => Some((&call.source_namespace, &call.source_workload)),
            Self::Namespace => Some((&call.source_namespace, "")),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "svc" | "service" | "services" => Ok(Self::Service),
            // What kubectl's users call what runs.
            "wl" | "workload" | "workloads" | "deploy" | "deployment" | "deployments" => Ok(Self::Workload),
            "ns" | "namespace" | "namespaces" => Ok(Self::Namespace),
            _ => Err(format!("there is no traffic of {text:?}: name svc, workload or ns")),
        }
    }
}

/// One side of a call: `[KIND/]NAME[.NAMESPACE]`. Without a kind, a workload or a service of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub kind: Option<Kind>,
    pub name: String,
    pub namespace: Option<String>,
}

impl FromStr for Resource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = match text.split_once('/') {
            Some((kind, rest)) => (Some(kind.parse()?), rest),
            None => (None, text),
        };
        // A host outside of the mesh has dots of its own, and no namespace behind them.
        let (name, namespace) = match rest.split_once('.') {
            Some((name, namespace)) if !namespace.contains('.') && kind != Some(Kind::Namespace) => {
                (name, Some(namespace.to_owned()))
            }
            _ => (rest, None),
        };
        if name.is_empty() || namespace.as_deref() == Some("") {
            return Err(format!(
                "{text:?} names nothing: write NAME, NAME.NAMESPACE, svc/NAME, workload/NAME or ns/NAME"
            ));
        }
        Ok(Self { kind, name: name.to_owned(), namespace })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.map_or(String::new(), |kind| format!("{}/", kind.as_str()));
        let namespace = self.namespace.as_ref().map_or(String::new(), |namespace| format!(".{namespace}"));
        write!(f, "{kind}{}{namespace}", self.name)
    }
}

impl Resource {
    fn is(&self, kind: Kind, (namespace, name): (&str, &str)) -> bool {
        match kind {
            Kind::Namespace => namespace == self.name,
            _ => {
                let is_it = name == self.name || format!("{name}.{namespace}") == self.name;
                is_it && self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            }
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        self.kind.map_or_else(|| vec![Kind::Workload, Kind::Service], |kind| vec![kind])
    }

    pub fn calls(&self, call: &Call) -> bool {
        self.kinds().into_iter().any(|kind| kind.calling(call).is_some_and(|side| self.is(kind, side)))
    }

    pub fn is_called(&self, call: &Call) -> bool {
        self.kinds().into_iter().any(|kind| self.is(kind, kind.called(call)))
    }
}

/// Which calls are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of the thing that is asked for; all if there is none.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub from: Option<Resource>,
    pub to: Option<Resource>,
}

/// A line of `weft stat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    pub kind: Kind,
    pub namespace: String,
    /// Empty for a namespace.
    pub name: String,
    #[serde(flatten)]
    pub rates: Rates,
    /// 0 to 1; `null` without requests and connections.
    pub success: Option<f64>,
    /// In milliseconds; `null` without requests.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    /// Of its destinations, those whose circuits are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<String>,
}

impl Selection {
    /// The calls that are wanted, whoever is asked for.
    pub fn edges<'r>(&self, rows: &'r [Row]) -> Vec<&'r Row> {
        let is_wanted = |row: &&Row| {
            let call = &row.call;
            self.from.as_ref().is_none_or(|from| from.calls(call))
                && self.to.as_ref().is_none_or(|to| to.is_called(call))
        };
        rows.iter().filter(is_wanted).collect()
    }

    /// Edges of which one side is in the namespace that is asked for, and has the name.
    pub fn edges_of<'r>(&self, kind: Option<Kind>, rows: &'r [Row]) -> Vec<&'r Row> {
        let in_namespace = |namespace: &str| self.namespace.as_deref().is_none_or(|wanted| wanted == namespace);
        let is_named = |kind: Kind, name: &str| {
            kind == Kind::Namespace || self.name.as_deref().is_none_or(|wanted| wanted == name)
        };
        let kinds = kind.map_or_else(|| vec![Kind::Workload, Kind::Service], |kind| vec![kind]);
        let concerns = |call: &Call| {
            kinds.iter().any(|kind| {
                let sides = [Some(kind.called(call)), kind.calling(call)];
                sides.into_iter().flatten().any(|(namespace, name)| in_namespace(namespace) && is_named(*kind, name))
            })
        };
        self.edges(rows).into_iter().filter(|row| concerns(&row.call)).collect()
    }

    /// Sums by what is asked for: of what comes to it, or with `to` of what it sends there. By namespace and name.
    ///
    /// # Errors
    /// Services are asked for what they send.
    pub fn stats(&self, kind: Kind, rows: &[Row]) -> Result<Vec<Stat>, String> {
        if kind == Kind::Service && self.to.is_some() {
            return Err("a service does not call anybody: ask for `workload` with --to".to_owned());
        }
        let mut sums: BTreeMap<(&str, &str), (Rates, Vec<&str>)> = BTreeMap::new();
        for row in self.edges(rows) {
            let side = match self.to {
                Some(_) => kind.calling(&row.call),
                None => Some(kind.called(&row.call)),
            };
            let Some((namespace, name)) = side else { continue };
            let is_wanted = self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
                && self.name.as_deref().is_none_or(|wanted| {
                    let own = if kind == Kind::Namespace { namespace } else { name };
                    wanted == own
                });
            if is_wanted {
                let (rates, circuits) = sums.entry((namespace, name)).or_default();
                rates.add(&row.rates);
                circuits.extend(row.circuit.as_deref());
            }
        }
        let stat = |((namespace, name), (rates, mut circuits)): ((&str, &str), (Rates, Vec<&str>))| {
            circuits.sort_unstable();
            circuits.dedup();
            Stat {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                success: rates.success(),
                p50: rates.quantile(0.5),
                p95: rates.quantile(0.95),
                p99: rates.quantile(0.99),
                circuit: (!circuits.is_empty()).then(|| circuits.join(", ")),
                rates,
            }
        };
        Ok(sums.into_iter().map(stat).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Side, tests::row};

    fn rows() -> Vec<Row> {
        let mut rows = vec![
            row("page>reviews@reviews-v1", Side::Source, 2.0),
            row("page>reviews@reviews-v2", Side::Source, 3.0),
            row("page>reviews", Side::Source, 0.5),
            row("reviews-v2>ratings@ratings-v1", Side::Source, 3.0),
            row("unknown>page@page", Side::Destination, 1.0),
        ];
        rows[3].call.destination_namespace = "prod".into();
        rows[3].call.service_namespace = "prod".into();
        rows
    }

    fn stats(kind: Kind, selection: &Selection) -> Vec<(String, f64)> {
        let stats = selection.stats(kind, &rows()).unwrap().into_iter();
        stats.map(|stat| (format!("{}/{}", stat.namespace, stat.name), stat.rates.requests)).collect()
    }

    fn told(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
        expected.iter().map(|(name, rate)| ((*name).to_owned(), *rate)).collect()
    }

    #[test]
    fn a_service_has_what_found_nobody_too() {
        let all = Selection::default();
        let services = told(&[("default/page", 1.0), ("default/reviews", 5.5), ("prod/ratings", 3.0)]);
        assert_eq!(stats(Kind::Service, &all), services);
        assert_eq!(stats(Kind::Namespace, &all), told(&[("default/", 6.5), ("prod/", 3.0)]));
        let one = Selection { namespace: Some("default".into()), name: Some("reviews".into()), ..all };
        assert_eq!(stats(Kind::Service, &one), told(&[("default/reviews", 5.5)]));
    }

    #[test]
    fn from_and_to_choose_a_side() {
        let to = Selection { to: Some("reviews".parse().unwrap()), ..Selection::default() };
        assert_eq!(stats(Kind::Workload, &to), told(&[("default/page", 5.5)]));
        assert!(to.stats(Kind::Service, &rows()).is_err());
        let from = Selection { from: Some("workload/reviews-v2".parse().unwrap()), ..Selection::default() };
        assert_eq!(stats(Kind::Service, &from), told(&[("prod/ratings", 3.0)]));
        let nobody = Selection { from: Some("reviews-v2.prod".parse().unwrap()), ..Selection::default() };
        assert_eq!(stats(Kind::Service, &nobody), told(&[]));
        let namespace = Selection { to: Some("ns/prod".parse().unwrap()), ..Selection::default() };
        assert_eq!(stats(Kind::Namespace, &namespace), told(&[("default/", 3.0)]));
    }

    #[test]
    fn edges_are_those_that_touch_what_is_asked_for() {
        let count = |selection: &Selection, kind| selection.edges_of(kind, &rows()).len();
        let of = |name: &str| Selection { name: Some(name.into()), ..Selection::default() };
        assert_eq!(count(&of("reviews-v2"), None), 2);
        assert_eq!(count(&of("reviews"), Some(Kind::Service)), 3);
        assert_eq!(count(&Selection { namespace: Some("prod".into()), ..Selection::default() }, None), 1);
    }

    #[test]
    fn names_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Resource>().map(|resource| resource.to_string());
        assert_eq!(read("svc/web.prod"), Ok("service/web.prod".to_owned()));
        assert_eq!(read("deploy/web"), Ok("workload/web".to_owned()));
        assert_eq!(read("www.example.com").unwrap(), "www.example.com");
        for wrong in ["", "svc/", "pod/x", "web.", ".prod"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
