//! Groups of horizontal bars.

use super::axis::Axis;
use super::{LINE, WIDTH, chart, color, escape, shortened, text_width};

/// Height of a bar with the space below it.
const BAR: f64 = 18.0;
/// Space for the value after the longest bar.
const VALUE: f64 = 40.0;
/// Maximum number of characters of a name before its bar.
const NAME: usize = 30;

/// A group of bars: its title, and a value with its spread for each name.
pub(crate) type Bars = (String, Vec<Option<(f64, f64)>>);

/// Draws groups of bars, one bar per name and group; empty without a value. Each bar has its name on the left and its
/// value on the right. The spread is a line over the bar's end. `axis` names the unit of the values.
pub(crate) fn bars(names: &[String], groups: &[Bars], axis: &str) -> String {
    let drawn = |group: &&Bars| group.1.iter().any(Option::is_some);
    let groups = groups.iter().filter(drawn).collect::<Vec<_>>();
    let values = || groups.iter().flat_map(|(_, values)| values.iter().flatten());
    let Some(largest) = values().map(|(value, spread)| value + spread).reduce(f64::max) else {
        return String::new();
    };
    let shown = names.iter().map(|name| shortened(name, NAME)).collect::<Vec<_>>();
    let left = shown.iter().map(|name| text_width(name)).fold(0.0, f64::max) + 6.0;
    let scale = (WIDTH - left - VALUE) / largest.max(1e-9);
    let mut svg = String::new();
    let mut top = 0.0;
    for (title, values) in &groups {
        svg.push_str(&format!(
            "<text class=\"title\" x=\"0\" y=\"{:.0}\">{}</text>",
            top + 14.0,
            escape(title)
        ));
        top += LINE;
        let bottom = top + BAR * values.iter().flatten().count() as f64;
        svg.push_str(&grid(largest, left, scale, (top, bottom)));
        for (index, value) in values.iter().enumerate() {
            let Some((value, spread)) = *value else { continue };
            svg.push_str(&bar(index, &names[index], &shown[index], value, spread, (left, top, scale)));
            top += BAR;
        }
        top += 10.0;
    }
    for (tick, label) in ticks(largest) {
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
            left + tick * scale,
            top + 6.0
        ));
    }
    // A long name beside long names of bars ends at the edge.
    let center = (left + largest * scale / 2.0).min(WIDTH - text_width(axis) / 2.0);
    svg.push_str(&format!(
        "<text x=\"{center:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
        top + 6.0 + LINE,
        escape(axis)
    ));
    let titles = groups.iter().map(|group| group.0.as_str()).collect::<Vec<_>>().join(", ");
    chart(&format!("{titles}: {axis}"), top + 12.0 + LINE, &svg)
}

/// Returns the ticks of the axis from 0 to the largest value.
fn ticks(largest: f64) -> Vec<(f64, String)> {
    let mut ticks = Axis::over([0.0, largest].into_iter()).labels();
    ticks.retain(|(tick, _)| *tick <= largest);
    ticks
}

/// Returns the zero line of a group and a line at each other tick.
fn grid(largest: f64, left: f64, scale: f64, (top, bottom): (f64, f64)) -> String {
    let line = |(tick, _): (f64, String)| {
        let class = if tick == 0.0 { "axis" } else { "grid" };
        let x = left + tick * scale;
        format!("<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.0}\" y2=\"{bottom:.0}\"/>")
    };
    ticks(largest).into_iter().map(line).collect()
}

/// Returns a bar with its name and value.
fn bar(
    index: usize,
    name: &str,
    shown: &str,
    value: f64,
    spread: f64,
    (left, top, scale): (f64, f64, f64),
) -> String {
    let length = value.max(0.0) * scale;
    let end = left + length + spread * scale;
    let title = if name == shown { String::new() } else { format!("<title>{}</title>", escape(name)) };
    let (text_top, color) = (top + 13.0, color(index));
    let mut svg = format!(
        "<text x=\"{:.1}\" y=\"{text_top:.1}\" text-anchor=\"end\">{title}{}</text>",
        left - 6.0,
        escape(shown)
    );
    svg.push_str(&format!(
        "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"14\" fill=\"{color}\"/><text x=\"{:.1}\" y=\"{text_top:.1}\">{value:.1}</text>",
        top + 1.5,
        end + 6.0
    ));
    if spread > 0.0 {
        let start = (left + length - spread * scale).max(left);
        svg.push_str(&format!(
            "<line class=\"spread\" x1=\"{start:.1}\" x2=\"{end:.1}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke-width=\"2\"/>",
            top + 8.5
        ));
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the values of an attribute.
    fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
        let start = format!(" {attribute}=\"");
        let parts = svg.split(&start).skip(1);
        parts.map(|part| part.split('"').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn bars_have_names_values_and_an_axis_with_round_numbers() {
        let groups = [
            ("photos".into(), vec![Some((31.1, 0.0)), Some((17.0, 1.9))]),
            ("<toys>".into(), vec![None, Some((12.0, 0.5))]),
            ("none".into(), vec![None, None]),
        ];
        let svg = bars(&["teacher".into(), "student".into()], &groups, "percent");
        for text in [">teacher<", ">student<", ">31.1<", ">17.0<", ">photos<", ">&lt;toys&gt;<", ">percent<"]
        {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        for tick in [">0<", ">10<", ">20<", ">30<"] {
            assert_eq!(svg.matches(tick).count(), 1, "{tick}: {svg}");
        }
        // A group without values has no title, and a missing value no bar.
        assert!(!svg.contains(">none<"), "{svg}");
        assert_eq!((svg.matches("<rect").count(), svg.matches("\"spread\"").count()), (3, 2), "{svg}");
        // Lengths are in proportion to the values.
        let lengths = numbers(&svg, "width");
        let bars = &lengths[1..];
        assert!((bars[0] / bars[1] - 31.1 / 17.0).abs() < 0.01, "{bars:?}");
    }

    #[test]
    fn nothing_is_outside_of_the_chart() {
        let long = "undistilled, data.augment.scale = [0.4, 1.0], losses.fd = 2000.0".to_string();
        let axis = "percent (lines: ± standard deviation over seeds)";
        let svg = bars(
            &[long.clone(), "b".into()],
            &[("g".into(), vec![Some((99.9, 3.0)), Some((0.0, 0.0))])],
            axis,
        );
        assert!(svg.contains(&format!("<title>{long}</title>")) && svg.contains("fd = 2000.0<"), "{svg}");
        let right = numbers(&svg, "x").into_iter().fold(0.0, f64::max);
        assert!(right + text_width("99.9") <= WIDTH + 1.0, "{right}");
        let title = *numbers(&svg, "x").last().unwrap();
        assert!(title + text_width(axis) / 2.0 <= WIDTH + 1.0, "{title}");
        let height = svg.split("viewBox=\"0 0 480 ").nth(1).unwrap().split('"').next().unwrap();
        let lowest = numbers(&svg, "y").into_iter().fold(0.0, f64::max);
        assert!(lowest + 4.0 <= height.parse().unwrap(), "{lowest} {height}");
    }

    #[test]
    fn without_values_there_is_no_chart() {
        assert_eq!(bars(&[], &[], "percent"), "");
        assert_eq!(bars(&["a".into()], &[("g".into(), vec![None])], "percent"), "");
    }
}
