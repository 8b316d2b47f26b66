//! What the screen shows and how keys change it: no terminal, no clock.

use clap::ValueEnum;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::{
    admin::traffic::Traffic,
    cli::output::printable,
    traffic::{
        Rates,
        select::{Kind, Selection},
        table::{Width, edge_header, edge_row, stat_header, stat_row},
    },
};

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum View {
    Services,
    Workloads,
    Edges,
}

impl View {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Workloads => "workloads",
            Self::Edges => "edges",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Services => Self::Workloads,
            Self::Workloads => Self::Edges,
            Self::Edges => Self::Services,
        }
    }
}

/// By what lines are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Rps,
    Success,
    P95,
    P99,
    Bytes,
    Name,
}

impl Sort {
    const ALL: [Self; 6] = [Self::Rps, Self::Success, Self::P95, Self::P99, Self::Bytes, Self::Name];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rps => "rps",
            Self::Success => "success",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Bytes => "bytes",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or_default();
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What comes first is least: the busiest, the slowest, and what fails most.
    fn rank(self, rates: &Rates) -> f64 {
        match self {
            Self::Rps => -(rates.requests + rates.opened),
            Self::Success => rates.success().unwrap_or(2.0),
            Self::P95 => -rates.quantile(0.95).unwrap_or(-1.0),
            Self::P99 => -rates.quantile(0.99).unwrap_or(-1.0),
            Self::Bytes => -(rates.received_bytes + rates.sent_bytes),
            Self::Name => 0.0,
        }
    }
}

/// What comes after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Quit,
}

/// Cells of a table.
pub(super) struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Of each row, whether more than one in twenty fails.
    pub(super) ill: Vec<bool>,
}

pub(super) struct Top {
    pub(super) view: View,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    /// Only lines with this in them.
    pub(super) filter: String,
    /// The filter is being written.
    pub(super) is_filtering: bool,
    pub(super) shows_help: bool,
    /// The first line that is shown.
    pub(super) offset: usize,
    selection: Selection,
    with_namespace: bool,
}

impl Top {
    pub(super) fn new(view: View, selection: Selection, with_namespace: bool) -> Self {
        Self {
            view,
            sort: Sort::Rps,
            is_reversed: false,
            filter: String::new(),
            is_filtering: false,
            shows_help: false,
            offset: 0,
            selection,
            with_namespace,
        }
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::GoOn;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::Quit;
        }
        if self.is_filtering {
            self.write_filter(key.code);
            return Next::GoOn;
        }
        if std::mem::take(&mut self.shows_help) {
            return Next::GoOn;
        }
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Esc if self.filter.is_empty() => return Next::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.shows_help = true,
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Tab => (self.view, self.offset) = (self.view.next(), 0),
            KeyCode::Down | KeyCode::Char('j') => self.offset += 1,
            KeyCode::Up | KeyCode::Char('k') => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset += 10,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(10),
            KeyCode::Home => self.offset = 0,
            _ => {}
        }
        Next::GoOn
    }

    fn write_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => (self.is_filtering, self.filter) = (false, String::new()),
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(c) if self.filter.len() < 64 => self.filter.push(c),
            _ => {}
        }
        self.offset = 0;
    }

    /// What is to be shown, all of it, in order.
    pub(super) fn table(&self, traffic: &Traffic) -> Table {
        let mut lines: Vec<(Vec<String>, Rates)> = match self.view {
            View::Edges => {
                let edges = self.selection.edges_of(None, &traffic.rows).into_iter();
                edges.map(|edge| (edge_row(edge, Width::Usual), edge.rates.clone())).collect()
            }
            View::Services => self.stats(self.kind_of_services(), traffic),
            View::Workloads => self.stats(Kind::Workload, traffic),
        };
        lines.retain(|(cells, _)| cells.iter().any(|cell| cell.contains(&self.filter)));
        // By name where nothing else tells: lines must not jump about.
        lines.sort_by(|(a, one), (b, other)| {
            let order = self.sort.rank(one).total_cmp(&self.sort.rank(other)).then_with(|| a.cmp(b));
            if self.is_reversed { order.reverse() } else { order }
        });
        let header = match self.view {
            View::Edges => edge_header(Width::Usual),
            _ => stat_header(Width::Usual, self.with_namespace),
        };
        Table {
            header: header.into_iter().map(str::to_owned).collect(),
            ill: lines.iter().map(|(_, rates)| rates.success().is_some_and(|share| share < 0.95)).collect(),
            rows: lines.into_iter().map(|(cells, _)| cells.iter().map(|cell| printable(cell)).collect()).collect(),
        }
    }

    /// What is sent to something is sent by workloads.
    fn kind_of_services(&self) -> Kind {
        if self.selection.to.is_some() { Kind::Workload } else { Kind::Service }
    }

    fn stats(&self, kind: Kind, traffic: &Traffic) -> Vec<(Vec<String>, Rates)> {
        let stats = self.selection.stats(kind, &traffic.rows).unwrap_or_default().into_iter();
        stats.map(|stat| (stat_row(&stat, Width::Usual, self.with_namespace), stat.rates)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::traffic::{Side, tests::row};

    pub(in crate::cli::top) fn traffic() -> Traffic {
        let mut ill = row("page>ratings@ratings-v1", Side::Source, 2.0);
        ill.rates.failures = 1.0;
        Traffic {
            window_seconds: 10.0,
            bounds_ms: Vec::new(),
            rows: vec![
                row("page>details@details-v1", Side::Source, 5.0),
                row("page>reviews@reviews-v1", Side::Source, 9.0),
                ill,
            ],
            nodes: 4,
            silent: vec!["host-3".into()],
            left_out: 0,
        }
    }

    fn press(top: &mut Top, keys: &str) {
        for c in keys.chars() {
            let code = match c {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            assert_eq!(top.press(KeyEvent::new(code, KeyModifiers::NONE)), Next::GoOn, "{c:?}");
        }
    }

    fn names(top: &Top) -> Vec<String> {
        top.table(&traffic()).rows.into_iter().map(|row| row[0].clone()).collect()
    }

    #[test]
    fn keys_sort_filter_and_change_the_view() {
        let mut top = Top::new(View::Services, Selection::default(), false);
        assert_eq!(names(&top), ["reviews", "details", "ratings"], "the busiest first");
        press(&mut top, "s");
        assert_eq!((top.sort, names(&top)[0].as_str()), (Sort::Success, "ratings"));
        press(&mut top, "r");
        assert_eq!(names(&top)[2], "ratings");
        press(&mut top, "/rq\x08e");
        assert_eq!(names(&top), ["reviews"]);
        press(&mut top, "\n\x1b");
        assert_eq!(names(&top).len(), 3);
        press(&mut top, "\t\t");
        assert_eq!(top.view, View::Edges);
        assert_eq!(names(&top), ["default/page"; 3]);
        assert_eq!(top.table(&traffic()).ill.iter().filter(|ill| **ill).count(), 1);
    }

    #[test]
    fn q_escape_and_control_c_quit_and_help_takes_one_key() {
        let mut top = Top::new(View::Services, Selection::default(), false);
        press(&mut top, "?q");
        assert!(!top.shows_help);
        let mut last = |code, modifiers| top.press(KeyEvent::new(code, modifiers));
        assert_eq!(last(KeyCode::Char('q'), KeyModifiers::NONE), Next::Quit);
        assert_eq!(last(KeyCode::Esc, KeyModifiers::NONE), Next::Quit);
        assert_eq!(last(KeyCode::Char('c'), KeyModifiers::CONTROL), Next::Quit);
    }
}
