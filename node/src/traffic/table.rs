//! Traffic as tables for people.

use super::{Rates, Row, Side, UNKNOWN, select::Stat};

/// How much a table tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Usual,
    Wide,
}

const STAT: [&str; 8] = ["NAME", "SUCCESS", "RPS", "P50", "P95", "P99", "TCP", "CIRCUIT"];
const WIDE: [&str; 4] = ["RETRIES", "OPENED", "IN", "OUT"];

/// Columns of a table of [`Stat`]s.
pub fn stat_header(width: Width, with_namespace: bool) -> Vec<&'static str> {
    let namespace = with_namespace.then_some("NAMESPACE");
    let wide: &[&str] = if width == Width::Wide { &WIDE } else { &[] };
    namespace.into_iter().chain(STAT).chain(wide.iter().copied()).collect()
}

pub fn stat_row(stat: &Stat, width: Width, with_namespace: bool) -> Vec<String> {
    let mut cells = Vec::new();
    if with_namespace {
        cells.push(stat.namespace.clone());
    }
    cells.push(if stat.name.is_empty() { stat.namespace.clone() } else { stat.name.clone() });
    cells.extend(numbers(&stat.rates));
    cells.push(stat.circuit.clone().unwrap_or_else(|| "-".into()));
    if width == Width::Wide {
        cells.extend(wide(&stat.rates));
    }
    cells
}

/// Columns of a table of edges.
pub fn edge_header(width: Width) -> Vec<&'static str> {
    let wide: &[&str] = if width == Width::Wide { &["RETRIES", "OPENED", "IN", "OUT", "TOLD BY"] } else { &[] };
    let usual = ["SRC", "DST", "SERVICE", "PROTOCOL", "SUCCESS", "RPS", "P50", "P95", "P99", "TCP", "CIRCUIT"];
    usual.into_iter().chain(wide.iter().copied()).collect()
}

pub fn edge_row(row: &Row, width: Width) -> Vec<String> {
    let call = &row.call;
    let mut cells = vec![
        named(&call.source_namespace, &call.source_workload),
        named(&call.destination_namespace, &call.destination_workload),
        named(&call.service_namespace, &call.service),
        call.protocol.clone(),
    ];
    cells.extend(numbers(&row.rates));
    cells.push(row.circuit.clone().unwrap_or_else(|| "-".into()));
    if width == Width::Wide {
        cells.extend(wide(&row.rates));
        cells.push(if row.reporter == Side::Source { "source" } else { "destination" }.to_owned());
    }
    cells
}

/// `NAMESPACE/NAME`, or one of them where the other is not known.
pub fn named(namespace: &str, name: &str) -> String {
    match (namespace, name) {
        (UNKNOWN, UNKNOWN) => "-".to_owned(),
        (UNKNOWN | "", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

/// `SUCCESS`, `RPS`, `P50`, `P95`, `P99`, `TCP`.
fn numbers(rates: &Rates) -> [String; 6] {
    let ms = |share| rates.quantile(share).map_or_else(|| "-".into(), milliseconds);
    // Requests and connections apart: a port of bytes has no requests.
    let is_http = rates.requests > 0.0;
    let is_tcp = rates.open > 0 || rates.opened > 0.0;
    [
        rates.success().map_or_else(|| "-".into(), percent),
        if is_http { rate(rates.requests) } else { "-".into() },
        ms(0.5),
        ms(0.95),
        ms(0.99),
        match is_tcp {
            true => format!("{} open, {}/s", rates.open, bytes(rates.received_bytes + rates.sent_bytes)),
            false => "-".into(),
        },
    ]
}

fn wide(rates: &Rates) -> [String; 4] {
    [
        rate(rates.retries),
        rate(rates.opened),
        format!("{}/s", bytes(rates.received_bytes)),
        format!("{}/s", bytes(rates.sent_bytes)),
    ]
}

/// As `linkerd viz stat` writes it.
pub fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

pub fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}

pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 10_000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1_000.0),
    }
}

pub fn bytes(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1_024.0 {
            return if unit == "B" { format!("{value:.0}B") } else { format!("{value:.1}{unit}") };
        }
        value /= 1_024.0;
    }
    format!("{value:.1}GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{select::Selection, tests::row};

    #[test]
    fn numbers_are_short_and_have_units() {
        assert_eq!([rate(0.25), rate(99.94), rate(12_345.6)], ["0.2", "99.9", "12346"]);
        assert_eq!([milliseconds(3.13), milliseconds(125.4), milliseconds(12_000.0)], ["3.1ms", "125ms", "12.0s"]);
        assert_eq!([bytes(12.0), bytes(2_048.0), bytes(3.5 * 1024.0 * 1024.0)], ["12B", "2.0KiB", "3.5MiB"]);
        assert_eq!(percent(0.998_765), "99.88%");
    }

    #[test]
    fn each_cell_has_its_column() {
        let mut one = row("web>db@db-v1", Side::Source, 2.0);
        one.rates.durations = vec![0.0, 0.0, 2.0];
        for width in [Width::Usual, Width::Wide] {
            assert_eq!(edge_row(&one, width).len(), edge_header(width).len());
            let stats = Selection::default().stats(crate::traffic::select::Kind::Service, &[one.clone()]).unwrap();
            for with_namespace in [true, false] {
                let cells = stat_row(&stats[0], width, with_namespace);
                assert_eq!(cells.len(), stat_header(width, with_namespace).len());
            }
        }
        let expected =
            ["default/web", "default/db-v1", "default/db", "http", "100.00%", "2.0", "3.0ms", "4.8ms", "5.0ms"];
        assert_eq!(edge_row(&one, Width::Usual)[..9], expected);
    }
}
