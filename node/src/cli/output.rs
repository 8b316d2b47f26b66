//! Printing: aligned tables for people, JSON and YAML for programs.

use std::{
    ffi::OsStr,
    fmt,
    io::{self, Write},
    str::FromStr,
    sync::Arc,
};

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use serde::Serialize;

use super::jsonpath::Template;
pub(super) use crate::admin::api::yaml;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    Sarif,
    Dot,
    Mermaid,
    JsonPath(Arc<Template>),
}

impl Format {
    pub(super) fn is_for_people(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Those that are a word. Described at the option: a description of each would blow up the help of every command.
static FORMATS: [(&str, Format); 8] = [
    ("table", Format::Table),
    ("wide", Format::Wide),
    ("json", Format::Json),
    ("yaml", Format::Yaml),
    ("name", Format::Name),
    ("sarif", Format::Sarif),
    ("dot", Format::Dot),
    ("mermaid", Format::Mermaid),
];

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(template) = text.strip_prefix("jsonpath=") {
            return template.parse().map(|template| Self::JsonPath(Arc::new(template)));
        }
        let known = FORMATS.iter().find(|(name, _)| *name == text);
        known.map(|(_, format)| format.clone()).ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|(name, _)| *name).collect();
            format!("there are {} and jsonpath=TEMPLATE", names.join(", "))
        })
    }
}

/// Reads the value of `-o`, and tells shells what it may be.
#[derive(Clone)]
pub(super) struct FormatParser;

impl TypedValueParser for FormatParser {
    type Value = Format;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Format, clap::Error> {
        StringValueParser::new().try_map(|text| text.parse::<Format>()).parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = FORMATS.iter().map(|(name, _)| *name).chain(["jsonpath="]);
        Some(Box::new(names.map(PossibleValue::new)))
    }
}

/// What was to be printed could not be.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct StdoutError(#[source] io::Error);

/// Whether a command failed only because nobody reads on, as in `weft members | head -1`.
pub(super) fn is_unread(error: &anyhow::Error) -> bool {
    let stdout = error.chain().find_map(|cause| cause.downcast_ref::<StdoutError>());
    stdout.is_some_and(|StdoutError(error)| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints one line to stdout.
pub(super) fn line(text: fmt::Arguments<'_>) -> Result<(), StdoutError> {
    writeln!(io::stdout(), "{text}").map_err(StdoutError)
}

/// Prints data in a machine's format, or else the table that `rows` makes of it.
pub(super) fn data<T: Serialize>(
    format: &Format,
    value: &T,
    header: &[&str],
    rows: impl FnOnce(&T) -> Vec<Vec<String>>,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => yaml(value)?,
        Format::JsonPath(template) => template.render(&serde_json::to_value(value)?),
        Format::Table | Format::Wide => table(header, &rows(value)),
        Format::Name => anyhow::bail!("-o name prints names of documents: it is for `weft get`"),
        Format::Sarif => anyhow::bail!("-o sarif is for `weft analyze` alone: use json or yaml"),
        Format::Dot | Format::Mermaid => {
            anyhow::bail!("-o dot and -o mermaid are for `weft graph` alone: use json or yaml")
        }
    };
    Ok(print(&text)?)
}

/// Writes text to stdout as it is.
pub(super) fn print(text: &str) -> Result<(), StdoutError> {
    io::stdout().write_all(text.as_bytes()).map_err(StdoutError)
}

/// Text that others chose: what would steer a terminal is escaped.
pub(super) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { printed.extend(c.escape_default()) } else { printed.push(c) }
    }
    printed
}

/// Columns padded to their widest cell, two spaces apart, as `kubectl get` prints.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header = header.iter().map(|name| (*name).to_owned()).collect();
    aligned(std::iter::once(&header).chain(rows))
}

/// Rows of a table that has no header.
pub(super) fn aligned<'r>(rows: impl IntoIterator<Item = &'r Vec<String>> + Clone) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows.clone() {
        widths.resize(widths.len().max(row.len()), 0);
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A span of time as people say it: `5s`, `3m`, `2h`, `4d`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let rows = vec![vec!["a".into(), "alive".into()], vec!["host-22".into(), "".into()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME     STATE\na        alive\nhost-22\n");
    }

    #[test]
    fn rows_alone_line_up_too() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["cc".to_owned(), "d".to_owned()]];
        assert_eq!(aligned(&rows), "a   b\ncc  d\n");
    }

    #[test]
    fn only_a_reader_of_stdout_may_go_away() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_unread(&anyhow::Error::from(StdoutError(broken())).context("while printing")));
        assert!(!is_unread(&anyhow::Error::from(broken()).context("talking to the node")));
        assert!(!is_unread(&StdoutError(io::ErrorKind::StorageFull.into()).into()));
    }

    #[test]
    fn nothing_that_others_chose_steers_a_terminal() {
        assert_eq!(printable("/é x"), "/é x");
        assert_eq!(printable("a\x1b[2J\nb"), "a\\u{1b}[2J\\nb");
    }

    #[test]
    fn ages_use_the_largest_fitting_unit() {
        assert_eq!([age(5), age(119), age(120), age(7_200), age(200_000)], ["5s", "119s", "2m", "2h", "2d"]);
    }
}
