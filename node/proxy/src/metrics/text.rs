//! How metrics are written: as OpenMetrics 1.0 or in Prometheus' older text format 0.0.4, whichever a scraper asks for.
//! By hand, because prometheus-client writes only the former, and takes exemplars only from histograms of its own.
//! See <https://prometheus.io/docs/specs/om/open_metrics_spec/> and
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{self, Display, Write};

/// One of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Prometheus,
}

impl Format {
    /// What a request's `Accept` asks for: OpenMetrics only if it is named, and plain text is not preferred to it.
    pub fn asked_for(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next().filter(|media| media.eq_ignore_ascii_case(wanted))?;
                let quality = parts.find_map(|part| part.strip_prefix("q="));
                Some(quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)))
            });
            ranges.fold(0.0, f64::max)
        };
        let openmetrics = quality("application/openmetrics-text");
        if openmetrics > 0.0 && openmetrics >= quality("text/plain") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a family of metrics is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its samples end in `_total`, which its name, as it is given here, does not.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A trace in which a value was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace_id: u128,
    pub value: f64,
    /// Seconds since 1970.
    pub at: f64,
}

/// A page of metrics that is being written.
pub struct Page {
    text: String,
    format: Format,
}

impl Page {
    pub fn new(format: Format) -> Self {
        Self { text: String::new(), format }
    }

    /// Begins a family: all of its samples follow.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let suffix = if kind == Kind::Counter && self.format == Format::Prometheus { "_total" } else { "" };
        let _ = writeln!(self.text, "# HELP {name}{suffix} {help}.\n# TYPE {name}{suffix} {}", kind.as_str());
    }

    /// A sample; `labels` as [`labels`] writes them.
    pub fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.extend(["{", labels, "}"]);
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A histogram's samples: `counts` are those of each bucket alone, by its upper bound.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        counts: &[(f64, u64)],
        sum: f64,
        exemplar: impl Fn(usize) -> Option<Exemplar>,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut so_far = 0;
        for (i, (bound, count)) in counts.iter().enumerate() {
            so_far += count;
            let _ = match bound.is_infinite() {
                true => write!(self.text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {so_far}"),
                // OpenMetrics wants floats that look like such; Prometheus takes both.
                false => write!(self.text, "{name}_bucket{{{labels}{comma}le=\"{bound:?}\"}} {so_far}"),
            };
            if self.format == Format::OpenMetrics
                && let Some(Exemplar { trace_id, value, at }) = exemplar(i)
            {
                let _ = write!(self.text, " # {{trace_id=\"{trace_id:032x}\"}} {value} {at:.3}");
            }
            self.text.push('\n');
        }
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {so_far}");
    }

    /// Adds what prometheus-client has written, in OpenMetrics and without its end.
    pub fn add(&mut self, openmetrics: &str) {
        if self.format == Format::OpenMetrics {
            self.text.push_str(openmetrics);
            return;
        }
        let mut help = None;
        for line in openmetrics.lines() {
            if let Some(text) = line.strip_prefix("# HELP ") {
                help = text.split_once(' ').map(|(_, help)| help);
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some(help) = help.take() {
                    let _ = writeln!(self.text, "# HELP {name}{suffix} {help}");
                }
                let _ = writeln!(self.text, "# TYPE {name}{suffix} {kind}");
            } else if !line.starts_with('#') {
                self.text.extend([line, "\n"]);
            }
        }
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// `name="value"` of each, joined by commas, with what must be escaped escaped.
pub(super) fn labels<'n, 'v>(labels: impl IntoIterator<Item = (&'n str, &'v str)>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{}\"", Escaped(value));
    }
    text
}

struct Escaped<'v>(&'v str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(mut rest) = *self;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\\' => "\\\\",
                b'"' => "\\\"",
                _ => "\\n",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_decides_and_plain_text_is_the_default() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::asked_for(prometheus), Format::OpenMetrics);
        for accept in ["", "*/*", "text/plain", "application/openmetrics-text;q=0.3,text/plain;q=0.5", "text/html"] {
            assert_eq!(Format::asked_for(accept), Format::Prometheus, "{accept}");
        }
        assert_eq!(Format::asked_for("application/openmetrics-text;q=0"), Format::Prometheus);
    }

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family("a", "An a", Kind::Counter);
        page.sample("a_total", &labels([("x", "q\"\\\n"), ("y", "é")]), 3);
        page.family("b", "A b", Kind::Histogram);
        let exemplar = |i| (i == 1).then_some(Exemplar { trace_id: 0xab, value: 7.5, at: 12.3456 });
        page.histogram("b", "x=\"1\"", &[(0.5, 1), (10.0, 2), (f64::INFINITY, 0)], 15.5, exemplar);
        page.add("# HELP c A c.\n# TYPE c counter\nc_total{z=\"# HELP\"} 1\n# HELP d A d.\n# TYPE d gauge\nd 2\n");
        page.finish()
    }

    #[test]
    fn openmetrics_has_exemplars_and_an_end() {
        let expected = "# HELP a An a.\n# TYPE a counter\na_total{x=\"q\\\"\\\\\\n\",y=\"é\"} 3\n\
            # HELP b A b.\n# TYPE b histogram\nb_bucket{x=\"1\",le=\"0.5\"} 1\n\
            b_bucket{x=\"1\",le=\"10.0\"} 3 # {trace_id=\"000000000000000000000000000000ab\"} 7.5 12.346\n\
            b_bucket{x=\"1\",le=\"+Inf\"} 3\nb_sum{x=\"1\"} 15.5\nb_count{x=\"1\"} 3\n\
            # HELP c A c.\n# TYPE c counter\nc_total{z=\"# HELP\"} 1\n# HELP d A d.\n# TYPE d gauge\nd 2\n# EOF\n";
        assert_eq!(page(Format::OpenMetrics), expected);
    }

    #[test]
    fn the_older_format_names_counters_as_their_samples_and_has_no_exemplars() {
        let expected = "# HELP a_total An a.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"é\"} 3\n\
            # HELP b A b.\n# TYPE b histogram\nb_bucket{x=\"1\",le=\"0.5\"} 1\nb_bucket{x=\"1\",le=\"10.0\"} 3\n\
            b_bucket{x=\"1\",le=\"+Inf\"} 3\nb_sum{x=\"1\"} 15.5\nb_count{x=\"1\"} 3\n\
            # HELP c_total A c.\n# TYPE c_total counter\nc_total{z=\"# HELP\"} 1\n# HELP d A d.\n# TYPE d gauge\nd 2\n";
        assert_eq!(page(Format::Prometheus), expected);
    }
}
