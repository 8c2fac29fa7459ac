//! SVG charts and their HTML page: a self-contained file with light and dark styles.

use zeroshot_eval::Table;
pub(crate) use zeroshot_eval::table::escape_html as escape;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 32.0;
/// Colours of lines and bars. The first six (Okabe and Ito) can be distinguished by most colour-blind people, on light
/// and dark backgrounds.
const COLORS: [&str; 12] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#7f5fd0", "#a6761d",
    "#66c23a", "#e7298a", "#00b3b3",
];
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;background:light-dark(#fff,#16181c);color:light-dark(#1c1e21,#e6e6e6)}\
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;border-bottom:1px solid light-dark(#ddd,#3a3d42);text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
svg{max-width:100%;height:auto}svg text{fill:currentColor;font:12px system-ui,sans-serif}\
.axis{stroke:currentColor;opacity:.35}.grid{stroke:currentColor;opacity:.12}";

/// Returns a complete HTML page.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{STYLE}</style><body>{body}</body></html>\n",
        escape(title)
    )
}

fn color(index: usize) -> &'static str {
    COLORS[index % COLORS.len()]
}

/// Returns the ends of an axis over the values, never an empty range.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values.filter(|value| value.is_finite()) {
        (low, high) = (low.min(value), high.max(value));
    }
    match (low.is_finite(), high > low) {
        (false, _) => (0.0, 1.0),
        (true, true) => (low, high),
        (true, false) => (low - 0.5, low + 0.5),
    }
}

/// Formats a number briefly for an axis.
fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{:.1} G", value / 1e9),
        size if size >= 1e6 => format!("{:.1} M", value / 1e6),
        size if size >= 1e4 => format!("{:.0} k", value / 1e3),
        size if size >= 100.0 || value == value.round() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A frame with both axes, and the mapping from values to coordinates.
struct Plot {
    svg: String,
    x: (f64, f64),
    y: (f64, f64),
}

impl Plot {
    fn new(x: (f64, f64), y: (f64, f64), height: f64) -> Self {
        let mut plot = Plot { svg: open_svg(height), x, y };
        for part in 0..=4 {
            let share = f64::from(part) / 4.0;
            let (value, level) = (x.0 + (x.1 - x.0) * share, y.0 + (y.1 - y.0) * share);
            let anchor = if part == 4 { "end" } else { "middle" };
            let line = format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text><text x=\"{4:.1}\" y=\"{5}\" text-anchor=\"{anchor}\">{6}</text>",
                plot.top(level),
                LEFT - 6.0,
                plot.top(level) + 4.0,
                label(level),
                plot.left(value),
                HEIGHT - 12.0,
                label(value)
            );
            plot.svg.push_str(&line);
        }
        plot
    }

    fn left(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - 8.0)
    }

    fn top(&self, value: f64) -> f64 {
        8.0 + (self.y.1 - value) / (self.y.1 - self.y.0) * (HEIGHT - BOTTOM - 8.0)
    }

    fn line(&mut self, points: &[(f64, f64)], style: &str) {
        let coordinates = points.iter().map(|p| format!("{:.1},{:.1}", self.left(p.0), self.top(p.1)));
        let coordinates = coordinates.collect::<Vec<_>>().join(" ");
        self.svg.push_str(&format!("<polyline fill=\"none\" {style} points=\"{coordinates}\"/>"));
    }
}

/// Draws one line per name.
pub(crate) fn curves(lines: &[(String, Vec<(f64, f64)>)]) -> String {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let right = all().map(|p| p.0).fold(1.0, f64::max);
    let mut plot = Plot::new((0.0, right), range(all().map(|p| p.1)), HEIGHT + 20.0 * lines.len() as f64);
    for (index, (name, points)) in lines.iter().enumerate() {
        plot.line(points, &format!("stroke=\"{}\" stroke-width=\"2\"", color(index)));
        plot.svg.push_str(&legend(HEIGHT + 20.0 * index as f64, color(index), name));
    }
    plot.svg + "</svg>"
}

/// Draws named groups of points. With `front`, also draws a line through the Pareto front: the points whose y no point
/// with a smaller x exceeds.
pub(crate) fn scatter(groups: &[(String, Vec<(f64, f64)>)], front: bool, axis: &str) -> String {
    let all = groups.iter().flat_map(|(_, points)| points.iter().copied()).collect::<Vec<_>>();
    let pad = |(low, high): (f64, f64)| (low - (high - low) * 0.05, high + (high - low) * 0.05);
    let (x, y) = (range(all.iter().map(|p| p.0)), range(all.iter().map(|p| p.1)));
    let mut plot = Plot::new(pad(x), pad(y), HEIGHT + 20.0 * groups.len() as f64 + 20.0);
    if front {
        plot.line(&pareto(&all), "stroke=\"currentColor\" stroke-dasharray=\"4 4\" opacity=\"0.5\"");
    }
    for (index, (name, points)) in groups.iter().enumerate() {
        for (x, y) in points {
            let dot = format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{}\" fill-opacity=\"0.75\"><title>{}</title></circle>",
                plot.left(*x),
                plot.top(*y),
                color(index),
                escape(name)
            );
            plot.svg.push_str(&dot);
        }
        plot.svg.push_str(&legend(HEIGHT + 20.0 + 20.0 * index as f64, color(index), name));
    }
    let title =
        format!("<text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", HEIGHT + 6.0, escape(axis));
    plot.svg + &title + "</svg>"
}

/// Returns the Pareto front: the points that are better than every cheaper one, from left to right.
fn pareto(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut best = f64::NEG_INFINITY;
    sorted.retain(|point| {
        let better = point.1 > best;
        best = best.max(point.1);
        better
    });
    sorted
}

/// A group of bars: its title, and a value with its spread for each name.
pub(crate) type Bars = (String, Vec<Option<(f64, f64)>>);

/// Draws groups of bars, one bar per name and group. The spread is a line over the bar's end.
pub(crate) fn bars(names: &[String], groups: &[Bars]) -> String {
    let bar = 18.0;
    let group = bar * names.len() as f64 + 30.0;
    let height = group * groups.len() as f64;
    let mut svg = open_svg(height + 20.0 * names.len() as f64);
    let largest = groups.iter().flat_map(|(_, values)| values.iter().flatten().map(|(v, spread)| v + spread));
    let scale = (WIDTH - 60.0) / largest.fold(1e-9, f64::max);
    for (index, (title, values)) in groups.iter().enumerate() {
        let top = group * index as f64;
        svg.push_str(&format!("<text x=\"0\" y=\"{:.1}\">{}</text>", top + 14.0, escape(title)));
        for (index, value) in values.iter().enumerate() {
            let Some((value, spread)) = value else { continue };
            let (y, length) = (top + 20.0 + bar * index as f64, value.max(0.0) * scale);
            let end = length + spread * scale;
            svg.push_str(&format!(
                "<rect x=\"0\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{value:.1}</text>",
                bar - 3.0, color(index), end + 6.0, y + 12.0
            ));
            if *spread > 0.0 {
                svg.push_str(&format!(
                    "<line class=\"axis\" x1=\"{:.1}\" x2=\"{end:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke-width=\"2\"/>",
                    (length - spread * scale).max(0.0), y + 7.5
                ));
            }
        }
    }
    for (index, name) in names.iter().enumerate() {
        svg.push_str(&legend(height + 20.0 * index as f64, color(index), name));
    }
    svg + "</svg>"
}

fn legend(top: f64, color: &str, name: &str) -> String {
    format!(
        "<rect x=\"0\" y=\"{top:.1}\" width=\"12\" height=\"12\" fill=\"{color}\"/><text x=\"18\" y=\"{:.1}\">{}</text>",
        top + 11.0,
        escape(name)
    )
}

fn open_svg(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" role=\"img\">")
}

/// Returns a chart as a standalone SVG file, for pages that show only images; empty without a chart.
pub(crate) fn standalone(chart: &str) -> String {
    const SVG_STYLE: &str = "<style>text{fill:#1c1e21;font:12px system-ui,sans-serif}.axis{stroke:#7a7d82}\
        @media(prefers-color-scheme:dark){text{fill:#e6e6e6}}</style>";
    // Outside a page, an SVG needs its namespace.
    let start = "<svg xmlns=\"http://www.w3.org/2000/svg\" ";
    match chart.strip_prefix("<svg ").and_then(|rest| rest.split_once('>')) {
        Some((attributes, rest)) => format!("{start}{attributes}>{SVG_STYLE}{rest}\n"),
        None => String::new(),
    }
}

/// Returns a table as HTML that scrolls if it is wider than the page.
pub(crate) fn html_table(table: &Table) -> String {
    format!("<div class=\"wide\">{}</div>", table.to_html())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pareto_front_has_the_points_that_no_cheaper_one_beats() {
        let points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.6), (2.0, 0.1), (4.0, 0.7)];
        assert_eq!(pareto(&points), [(1.0, 0.2), (2.0, 0.6), (4.0, 0.7)]);
    }

    #[test]
    fn charts_with_little_data_are_complete() {
        for svg in [
            scatter(&[("a <b>".into(), vec![(1.0, 2.0)])], true, "x"),
            scatter(&[], true, "x"),
            curves(&[("a".into(), vec![])]),
            bars(&["a".into()], &[("g".into(), vec![Some((50.0, 5.0))]), ("h".into(), vec![None])]),
        ] {
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<b>"), "{svg}");
        }
    }
}
