//! How the screen looks.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::Line,
    widgets::{Block, Cell, Clear, Paragraph, Row, Table},
};

use super::state::Top;
use crate::{
    admin::traffic::Traffic,
    traffic::{Rates, table},
};

const HELP: [&str; 11] = [
    "Tab        services, workloads, edges",
    "s          sort by the next column: rps, success, p95, p99, bytes, name",
    "r          reverse",
    "/          filter: only lines with these letters; Enter keeps it, Esc drops it",
    "j k, ↓ ↑   scroll; PgDn PgUp, Home",
    "?          this help; any key closes it",
    "q          quit",
    "",
    "Each call counts once, as its caller's node has seen it.",
    "CIRCUIT    endpoints that callers of this node keep from, of all",
    "TCP        connections that are open, and their bytes per second",
];

pub(super) fn draw(frame: &mut Frame<'_>, top: &Top, traffic: &Traffic, window: &str, trouble: Option<&str>) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(summary(traffic, window)).bold(), head);
    draw_table(frame, body, top, traffic);
    frame.render_widget(Paragraph::new(status(top, traffic, trouble)), foot);
    if top.shows_help {
        let area = frame.area();
        let (width, height) = ((area.width).min(80), (area.height).min(HELP.len() as u16 + 2));
        let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
        frame.render_widget(Clear, place);
        let lines: Vec<Line<'_>> = HELP.into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" help ")), place);
    }
}

fn summary(traffic: &Traffic, window: &str) -> String {
    let mut all = Rates::default();
    traffic.rows.iter().for_each(|row| all.add(&row.rates));
    let success = all.success().map_or_else(|| "-".to_owned(), table::percent);
    let p95 = all.quantile(0.95).map_or_else(|| "-".to_owned(), table::milliseconds);
    let rps = table::rate(all.requests);
    format!("weft top: {} nodes, {rps} requests/s, {success} success, p95 {p95}, last {window}", traffic.nodes)
}

fn status<'t>(top: &'t Top, traffic: &Traffic, trouble: Option<&str>) -> Line<'t> {
    if let Some(trouble) = trouble {
        return Line::styled(trouble.to_owned(), Color::Red);
    }
    if top.is_filtering {
        return Line::from(format!("/{}▏", top.filter));
    }
    let order = if top.is_reversed { " reversed" } else { "" };
    let filter = if top.filter.is_empty() { String::new() } else { format!("  filter {:?}", top.filter) };
    let silent = match traffic.silent.as_slice() {
        [] => String::new(),
        silent => format!("  NO ANSWER: {}", silent.join(", ")),
    };
    let view = top.view.name();
    Line::from(format!("{view}, by {}{order}{filter}{silent}  (? help, q quit)", top.sort.name()))
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, top: &Top, traffic: &Traffic) {
    let table = top.table(traffic);
    let mut widths: Vec<u16> = table.header.iter().map(|cell| cell.chars().count() as u16).collect();
    for row in &table.rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count() as u16));
    }
    // The header is one line. Scrolling ends with the last line.
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let offset = top.offset.min(table.rows.len().saturating_sub(room));
    let rows = table.rows.iter().zip(&table.ill).skip(offset).take(room).map(|(cells, ill)| {
        let style = if *ill { Style::new().fg(Color::Red) } else { Style::new() };
        Row::new(cells.iter().map(|cell| Cell::from(cell.as_str()))).style(style)
    });
    let header = Row::new(table.header.iter().map(|cell| Cell::from(cell.as_str()))).style(Style::new().reversed());
    let shown = Table::new(rows, widths.into_iter().map(Constraint::Length)).header(header).column_spacing(2);
    frame.render_widget(shown, area);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        cli::top::state::{View, tests::traffic},
        traffic::select::Selection,
    };

    fn screen(width: u16, height: u16, top: &Top) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, top, &traffic(), "10s", None)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn the_screen_has_a_summary_a_table_and_what_is_missing() {
        let top = Top::new(View::Services, Selection::default(), false);
        let shown = screen(100, 8, &top);
        assert_eq!(shown[0], "weft top: 4 nodes, 16.0 requests/s, 93.75% success, p95 -, last 10s");
        assert!(shown[1].starts_with("NAME     SUCCESS  RPS"), "{shown:#?}");
        assert!(shown[2].starts_with("reviews  100.00%  9.0"), "{shown:#?}");
        assert!(shown[4].starts_with("ratings  50.00%   2.0"), "{shown:#?}");
        assert_eq!(shown[7], "services, by rps  NO ANSWER: host-3  (? help, q quit)");
    }

    #[test]
    fn any_size_will_do() {
        let mut top = Top::new(View::Edges, Selection::default(), true);
        top.offset = 1_000;
        top.shows_help = true;
        for (width, height) in [(1, 1), (20, 3), (300, 80)] {
            screen(width, height, &top);
        }
        top.shows_help = false;
        let shown = screen(120, 4, &top);
        assert!(shown[2].starts_with("default/page"), "the last lines are shown: {shown:#?}");
    }
}
