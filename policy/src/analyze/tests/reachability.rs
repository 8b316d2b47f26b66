use super::{networking, told};

const TO_A: &str = "route: [{destination: {host: a.com}}]";

fn http(rules: &[&str]) -> [String; 1] {
    let rules: Vec<String> = rules.iter().map(|rule| format!("{{{rule}{TO_A}}}")).collect();
    [networking("VirtualService", "a", &format!("{{hosts: [a.com], http: [{}]}}", rules.join(", ")))]
}

#[test]
fn a_rule_after_one_without_conditions_is_unreachable() {
    assert_eq!(told("IST0130", &http(&["", ""])), ["VirtualService default/a"]);
    assert_eq!(told("IST0130", &http(&["", "match: [{uri: {exact: /a}}], "])), ["VirtualService default/a"]);
    assert!(told("IST0130", &http(&["match: [{uri: {exact: /a}}], ", ""])).is_empty());
}

#[test]
fn a_rule_whose_conditions_all_stood_before_is_unreachable() {
    let same = "match: [{uri: {prefix: /a}}], ";
    let named = "match: [{name: n, uri: {prefix: /a}}], ";
    assert_eq!(told("IST0130", &http(&[same, named])), ["VirtualService default/a"]);
    let more = "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}], ";
    assert!(told("IST0130", &http(&[same, more])).is_empty());
    assert_eq!(told("IST0131", &http(&[same, more])), ["VirtualService default/a"]);
}

#[test]
fn conditions_of_tcp_and_tls_are_compared_too() {
    let tcp = |second: &str| {
        let rules = format!("{{match: [{{port: 1}}], {TO_A}}}, {{match: [{second}], {TO_A}}}");
        [networking("VirtualService", "a", &format!("{{hosts: ['*'], gateways: [g], tcp: [{rules}]}}"))]
    };
    assert_eq!(told("IST0130", &tcp("{port: 1}")), ["VirtualService default/a"]);
    assert!(told("IST0130", &tcp("{port: 2}")).is_empty());
    let tls = |port: u16| {
        let rule = |port| format!("{{match: [{{port: {port}, sniHosts: [a.com]}}], {TO_A}}}");
        let rules = format!("{}, {}", rule(1), rule(port));
        [networking("VirtualService", "a", &format!("{{hosts: [a.com], tls: [{rules}]}}"))]
    };
    assert_eq!(told("IST0130", &tls(1)), ["VirtualService default/a"]);
    assert!(told("IST0130", &tls(2)).is_empty());
}

#[test]
fn a_longer_prefix_after_a_shorter_one_is_ineffective() {
    let cases = [
        ("{uri: {prefix: /a}}", "{uri: {prefix: /ab}}", true),
        ("{uri: {prefix: /a}}", "{uri: {prefix: /ab}, method: {exact: GET}}", true),
        ("{uri: {prefix: /a}, method: {exact: GET}}", "{uri: {prefix: /ab}, method: {exact: GET}}", true),
        ("{uri: {prefix: /a}, method: {exact: GET}}", "{uri: {prefix: /ab}, method: {exact: POST}}", false),
        ("{uri: {prefix: /a}, headers: {x: {exact: y}}}", "{uri: {prefix: /ab}}", false),
        ("{uri: {prefix: /ab}}", "{uri: {prefix: /a}}", false),
        ("{uri: {prefix: /}}", "{uri: {exact: /}, method: {exact: GET}}", false),
    ];
    for (first, second, is_told) in cases {
        let rules = [format!("match: [{first}], "), format!("match: [{second}], ")];
        let found = told("IST0131", &http(&[&rules[0], &rules[1]]));
        assert_eq!(!found.is_empty(), is_told, "{first} {second}");
    }
}
