//! Charts with two axes: curves and points.

use super::axis::Axis;
use super::{COLORS, LINE, WIDTH, chart, color, escape, legend, text_width};

/// Distance of the plot from the top, where the name of the y axis is.
const TOP: f64 = 26.0;
/// Height of the plot.
const HEIGHT: f64 = 220.0;
/// The style of a line that is no series.
const DASHED: &str = "stroke=\"currentColor\" stroke-dasharray=\"4 4\" opacity=\"0.6\"";

/// The style of a level.
const DOTTED: &str = "stroke=\"currentColor\" stroke-width=\"2\" stroke-dasharray=\"2 3\"";

/// Names of the axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axes<'a> {
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
}

/// A named list of points.
pub(crate) type Series = (String, Vec<(f64, f64)>);

/// A frame with both axes, and the mapping from values to coordinates.
struct Plot {
    svg: String,
    x: Axis,
    y: Axis,
    left: f64,
    right: f64,
}

impl Plot {
    fn new(x: Axis, y: Axis, axes: Axes<'_>) -> Self {
        let widest =
            |axis: &Axis| axis.labels().iter().map(|(_, label)| text_width(label)).fold(0.0, f64::max);
        let (left, right) = (widest(&y) + 8.0, WIDTH - widest(&x) / 2.0);
        let mut plot = Plot { svg: String::new(), x, y, left, right };
        let text = |x: f64, y: f64, anchor: &str, text: &str| {
            format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text))
        };
        let mut svg = text(0.0, 13.0, "start", axes.y);
        for (index, (tick, label)) in plot.y.labels().into_iter().enumerate() {
            let (y, class) = (plot.top(tick), if index == 0 { "axis" } else { "grid" });
            svg.push_str(&format!(
                "<line class=\"{class}\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            ));
            svg.push_str(&text(left - 6.0, y + 4.5, "end", &label));
        }
        for (tick, label) in plot.x.labels() {
            let x = plot.across(tick);
            let (top, bottom) = (TOP + HEIGHT, TOP + HEIGHT + 4.0);
            svg.push_str(&format!(
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>"
            ));
            svg.push_str(&text(x, bottom + 14.0, "middle", &label));
        }
        svg.push_str(&text((left + right) / 2.0, TOP + HEIGHT + 38.0, "middle", axes.x));
        plot.svg = svg;
        plot
    }

    fn across(&self, value: f64) -> f64 {
        self.left + self.x.share(value) * (self.right - self.left)
    }

    fn top(&self, value: f64) -> f64 {
        TOP + (1.0 - self.y.share(value)) * HEIGHT
    }

    /// Draws a line through the finite points; a single point is a dot.
    fn line(&mut self, points: &[(f64, f64)], style: &str) {
        let points = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let coordinates =
            points.map(|p| format!("{:.1},{:.1}", self.across(p.0), self.top(p.1))).collect::<Vec<_>>();
        let ends = if coordinates.len() == 1 { " stroke-linecap=\"round\"" } else { "" };
        let mut coordinates = coordinates.join(" ");
        if !ends.is_empty() {
            coordinates = format!("{coordinates} {coordinates}");
        }
        self.svg.push_str(&format!("<polyline fill=\"none\" {style}{ends} points=\"{coordinates}\"/>"));
    }

    /// Adds the legend, and returns the chart.
    fn finish(self, axes: Axes<'_>, entries: &[(String, &str)]) -> String {
        let below = TOP + HEIGHT + 38.0 + LINE / 2.0;
        let (legend, height) = legend(below, entries);
        let names = entries.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        chart(&format!("{} against {}: {names}", axes.y, axes.x), below + height, &(self.svg + &legend))
    }
}

/// Returns the style of a series; more series than colours are dashed.
fn stroke(index: usize) -> String {
    let dashes = if index < COLORS.len() { "" } else { " stroke-dasharray=\"6 3\"" };
    format!("stroke=\"{}\" stroke-width=\"2\"{dashes}", color(index))
}

/// Draws one line per series that has points; empty without one. The x axis begins at 0.
pub(crate) fn curves(lines: &[Series], axes: Axes<'_>) -> String {
    let all = || lines.iter().flat_map(|(_, points)| points);
    if all().next().is_none() {
        return String::new();
    }
    let x = Axis::over(all().map(|p| p.0).chain([0.0]));
    let mut plot = Plot::new(x, Axis::over(all().map(|p| p.1)), axes);
    // A series keeps its colour in all charts of a page, also in those without other series.
    let drawn = lines.iter().enumerate().filter(|(_, (_, points))| !points.is_empty());
    let drawn =
        drawn.map(|(index, (name, points))| (stroke(index), name.as_str(), points)).collect::<Vec<_>>();
    for (style, _, points) in &drawn {
        plot.line(points, style);
    }
    let entries = drawn.into_iter().map(|(style, name, _)| (style, name)).collect::<Vec<_>>();
    plot.finish(axes, &entries)
}

/// Draws named groups of points, and horizontal lines at the named `levels`; empty with fewer than two points. With
/// `front`, also draws a line through the Pareto front: the points whose y no point with a smaller x exceeds.
pub(crate) fn scatter(groups: &[Series], levels: &[(String, f64)], front: bool, axes: Axes<'_>) -> String {
    let all = groups.iter().flat_map(|(_, points)| points.iter().copied()).collect::<Vec<_>>();
    if all.len() < 2 {
        return String::new();
    }
    let y = Axis::over(all.iter().map(|p| p.1).chain(levels.iter().map(|level| level.1)));
    let mut plot = Plot::new(Axis::over(all.iter().map(|p| p.0)), y, axes);
    let mut entries = Vec::new();
    for (index, (name, points)) in groups.iter().enumerate().filter(|(_, (_, points))| !points.is_empty()) {
        for (x, y) in points {
            let dot = format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{}\" fill-opacity=\"0.75\"><title>{}</title></circle>",
                plot.across(*x),
                plot.top(*y),
                color(index),
                escape(name)
            );
            plot.svg.push_str(&dot);
        }
        entries.push((format!("stroke=\"{}\" stroke-width=\"10\"", color(index)), name.as_str()));
    }
    for (name, level) in levels {
        let ends = [(plot.x.low, *level), (plot.x.high, *level)];
        plot.line(&ends, DOTTED);
        entries.push((DOTTED.into(), name.as_str()));
    }
    if front {
        plot.line(&pareto(&all), DASHED);
        entries.push((DASHED.into(), "Pareto front"));
    }
    plot.finish(axes, &entries)
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

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes<'_> = Axes { x: "samples seen", y: "loss" };

    #[test]
    fn the_pareto_front_has_the_points_that_no_cheaper_one_beats() {
        let points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.6), (2.0, 0.1), (4.0, 0.7)];
        assert_eq!(pareto(&points), [(1.0, 0.2), (2.0, 0.6), (4.0, 0.7)]);
    }

    #[test]
    fn curves_have_named_axes_round_ticks_and_a_legend() {
        let lines = [
            ("teacher".to_string(), vec![(0.0, 5.18), (57_600.0, 1.01)]),
            ("not begun".into(), vec![]),
            ("a <b>".into(), vec![(0.0, 4.0), (19_200.0, f64::NAN), (20_000.0, 3.0)]),
        ];
        let svg = curves(&lines, AXES);
        for text in
            [">samples seen<", ">loss<", ">teacher<", ">a &lt;b&gt;<", ">0<", ">10 k<", ">60 k<", ">6<"]
        {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert_eq!(svg.matches("<polyline").count(), 2);
        // A run without steps has no entry, and the others keep their colours.
        assert!(!svg.contains("not begun") && svg.contains(COLORS[2]) && !svg.contains(COLORS[1]), "{svg}");
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn a_scatter_names_its_groups_and_its_front() {
        let groups =
            [("a".to_string(), vec![(7.38e6, 20.0)]), ("b".into(), vec![(7.56e6, 30.0), (7.5e6, 10.0)])];
        let svg = scatter(&groups, &[], true, AXES);
        assert_eq!(svg.matches("<circle").count(), 3);
        for text in [">7.40 M<", ">7.55 M<", ">10<", ">30<", ">a<", ">b<", ">Pareto front<"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!scatter(&groups, &[], false, AXES).contains("Pareto"));
        // The axis includes a level above all points.
        let svg = scatter(&groups, &[("teacher".into(), 48.0)], true, AXES);
        assert!(svg.contains(">teacher<") && svg.contains(">50<"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
    }

    #[test]
    fn charts_without_data_are_empty_and_those_with_little_data_complete() {
        assert_eq!(curves(&[("a".into(), vec![])], AXES), "");
        assert_eq!(scatter(&[("a".into(), vec![(1.0, 1.0)])], &[], true, AXES), "");
        for svg in [
            curves(&[("a".into(), vec![(8.0, 2.0)])], AXES),
            scatter(&[("a".into(), vec![(5.0, 5.0), (5.0, 5.0)])], &[], true, AXES),
        ] {
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn series_with_the_same_colour_differ() {
        assert_ne!(stroke(0), stroke(COLORS.len()));
    }
}
