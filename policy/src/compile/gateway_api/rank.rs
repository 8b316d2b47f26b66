//! In which order the rules of routes are tried.

use std::cmp::Reverse;

use weft_wire::{document::Stamp, id::Namespace};

use crate::api::gateway::{
    GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, HttpRoute, HttpRouteMatch, HttpRouteRule, PathMatchType,
};

/// What decides between rules that match alike: the older route goes first, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    created: Stamp,
    /// `namespace/name`, which is compared as one text.
    name: String,
}

impl Seniority {
    pub fn new(created: Stamp, namespace: &Namespace, name: &str) -> Self {
        Self { created, name: format!("{namespace}/{name}") }
    }
}

/// One match of one rule, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked<'r, Rule, Match> {
    /// The route's place in the list that was ranked.
    pub route: usize,
    /// The rule's place in its route.
    pub rule_index: usize,
    pub rule: &'r Rule,
    /// The match, and its place in the rule; `None` for a rule without matches: it holds for all requests.
    pub condition: Option<(usize, &'r Match)>,
}

/// Ranks the matches of HTTPRoutes that attach to the same parent and hold for the same host: Exact before PathPrefix
/// before RegularExpression, the longer path, one with a method, more headers, more query parameters; then by seniority
/// of the routes, and by the written order in a route.
pub fn ranked_http<'r>(routes: &[(Seniority, &'r HttpRoute)]) -> Vec<Ranked<'r, HttpRouteRule, HttpRouteMatch>> {
    let rules = routes.iter().map(|(seniority, route)| (seniority, &route.rules[..]));
    ranked(rules, |rule| &rule.matches, http_precision)
}

/// Ranks the matches of GRPCRoutes likewise: the longer service, the longer method, more headers; then as
/// [`ranked_http`].
pub fn ranked_grpc<'r>(routes: &[(Seniority, &'r GrpcRoute)]) -> Vec<Ranked<'r, GrpcRouteRule, GrpcRouteMatch>> {
    let rules = routes.iter().map(|(seniority, route)| (seniority, &route.rules[..]));
    ranked(rules, |rule| &rule.matches, grpc_precision)
}

fn ranked<'s, 'r: 's, Rule: 'r, Match: 'r, Precision: Ord>(
    routes: impl Iterator<Item = (&'s Seniority, &'r [Rule])>,
    matches_of: impl Fn(&'r Rule) -> &'r [Match],
    precision_of: impl Fn(Option<&Match>) -> Precision,
) -> Vec<Ranked<'r, Rule, Match>> {
    let mut all = Vec::new();
    for (route, (seniority, rules)) in routes.enumerate() {
        for (rule_index, rule) in rules.iter().enumerate() {
            let conditions: Vec<Option<(usize, &Match)>> = match matches_of(rule) {
                [] => vec![None],
                matches => matches.iter().enumerate().map(Some).collect(),
            };
            for condition in conditions {
                let place = condition.map(|(place, _)| place);
                let precision = precision_of(condition.map(|(_, condition)| condition));
                let key = (Reverse(precision), seniority, rule_index, place);
                all.push((key, Ranked { route, rule_index, rule, condition }));
            }
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into_iter().map(|(_, one)| one).collect()
}

/// How closely a match says what it means; what is compared first stands first.
fn http_precision(condition: Option<&HttpRouteMatch>) -> (u8, usize, bool, usize, usize) {
    let everything = HttpRouteMatch::default();
    let condition = condition.unwrap_or(&everything);
    let path = match condition.path.kind {
        PathMatchType::Exact => 2,
        PathMatchType::PathPrefix => 1,
        PathMatchType::RegularExpression => 0,
    };
    (
        path,
        condition.path.value.len(),
        condition.method.is_some(),
        condition.headers.len(),
        condition.query_params.len(),
    )
}

fn grpc_precision(condition: Option<&GrpcRouteMatch>) -> (usize, usize, usize) {
    let Some(condition) = condition else { return (0, 0, 0) };
    let len_of =
        |part: fn(&GrpcMethodMatch) -> Option<&String>| condition.method.as_ref().and_then(part).map_or(0, String::len);
    (len_of(|method| method.service.as_ref()), len_of(|method| method.method.as_ref()), condition.headers.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::testing::{namespace, spec},
        *,
    };
    use crate::document::Spec;

    fn http_route(matches: &[&str]) -> HttpRoute {
        let rules: Vec<String> = matches.iter().map(|one| format!("{{matches: [{one}]}}")).collect();
        let Spec::HttpRoute(route) = spec("HTTPRoute", &format!("{{rules: [{}]}}", rules.join(", "))) else { panic!() };
        *route
    }

    fn seniority(millis: u64, name: &str) -> Seniority {
        Seniority::new(Stamp { millis, counter: 0 }, &namespace("default"), name)
    }

    /// From the most to the least precise.
    const BY_PRECISION: [&str; 11] = [
        "{path: {type: Exact, value: /aa}}",
        "{path: {type: Exact, value: /a}, method: GET}",
        "{path: {type: Exact, value: /a}}",
        "{path: {value: /aaa}}",
        "{path: {value: /a}, method: GET, headers: [{name: a, value: b}]}",
        "{path: {value: /a}, method: GET}",
        "{path: {value: /a}, headers: [{name: a, value: b}, {name: b, value: b}]}",
        "{path: {value: /a}, headers: [{name: a, value: b}], queryParams: [{name: a, value: b}]}",
        "{path: {value: /a}, headers: [{name: a, value: b}]}",
        "{}",
        "{path: {type: RegularExpression, value: '/aaaaaaaa'}, method: GET}",
    ];

    #[test]
    fn http_rules_are_tried_from_the_most_to_the_least_precise() {
        let mut backwards = BY_PRECISION;
        backwards.reverse();
        let route = http_route(&backwards);
        let ranked = ranked_http(&[(seniority(1, "a"), &route)]);
        let order: Vec<usize> = ranked.iter().map(|one| one.rule_index).collect();
        assert_eq!(order, (0..BY_PRECISION.len()).rev().collect::<Vec<_>>());
    }

    #[test]
    fn of_equal_rules_the_older_routes_goes_first_then_the_first_by_name_then_the_first_written() {
        let (one, two) = (http_route(&["{}", "{}"]), http_route(&["{}"]));
        let places = |routes: &[(Seniority, &HttpRoute)]| -> Vec<(usize, usize)> {
            ranked_http(routes).iter().map(|one| (one.route, one.rule_index)).collect()
        };
        assert_eq!(places(&[(seniority(2, "a"), &one), (seniority(1, "b"), &two)]), [(1, 0), (0, 0), (0, 1)]);
        assert_eq!(places(&[(seniority(1, "b"), &one), (seniority(1, "a"), &two)]), [(1, 0), (0, 0), (0, 1)]);
    }

    #[test]
    fn a_rule_without_matches_ranks_as_the_prefix_of_all_paths() {
        let route = http_route(&["", "{path: {value: /a}}", "{path: {type: RegularExpression, value: '.*'}}"]);
        let order: Vec<usize> = ranked_http(&[(seniority(1, "a"), &route)]).iter().map(|one| one.rule_index).collect();
        assert_eq!(order, [1, 0, 2]);
    }

    #[test]
    fn grpc_rules_are_tried_by_service_method_and_headers() {
        let matches = [
            "{method: {service: aaa}}",
            "{method: {service: aa, method: bb}}",
            "{method: {service: aa, method: b}, headers: [{name: a, value: b}]}",
            "{method: {service: aa, method: b}}",
            "{method: {method: bbbbbbb}}",
            "{headers: [{name: a, value: b}]}",
            "",
        ];
        let rules: Vec<String> = matches.iter().rev().map(|one| format!("{{matches: [{one}]}}")).collect();
        let Spec::GrpcRoute(route) = spec("GRPCRoute", &format!("{{rules: [{}]}}", rules.join(", "))) else { panic!() };
        let order: Vec<usize> = ranked_grpc(&[(seniority(1, "a"), &route)]).iter().map(|one| one.rule_index).collect();
        assert_eq!(order, (0..matches.len()).rev().collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn the_order_of_rules_does_not_depend_on_the_order_of_documents(
            choices in prop::collection::vec((0..BY_PRECISION.len(), 0_u64..3), 1..12), rotation in 0_usize..12,
        ) {
            let named: Vec<(Seniority, HttpRoute)> = choices
                .iter()
                .enumerate()
                .map(|(i, (choice, created))| (seniority(*created, &format!("r{i}")), http_route(&[BY_PRECISION[*choice]])))
                .collect();
            let mut routes: Vec<(Seniority, &HttpRoute)> =
                named.iter().map(|(seniority, route)| (seniority.clone(), route)).collect();
            let names = |routes: &[(Seniority, &HttpRoute)]| -> Vec<String> {
                ranked_http(routes).iter().map(|one| routes[one.route].0.name.clone()).collect()
            };
            let before = names(&routes);
            let len = routes.len();
            routes.rotate_left(rotation % len);
            prop_assert_eq!(before, names(&routes));
        }
    }
}
