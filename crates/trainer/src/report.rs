//! The HTML report of a job: one file without outside parts, for light and dark.

use serde_json::Value;

use crate::run::Results;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 32.0;
/// Told apart by most colour-blind people, on light and dark (Okabe and Ito).
const COLORS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c"];
/// Points of a curve; more would not be seen.
const POINTS: usize = 300;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;background:light-dark(#fff,#16181c);color:light-dark(#1c1e21,#e6e6e6)}\
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;border-bottom:1px solid light-dark(#ddd,#3a3d42);text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
svg{max-width:100%;height:auto}svg text{fill:currentColor;font:12px system-ui,sans-serif}\
.axis{stroke:currentColor;opacity:.35}.grid{stroke:currentColor;opacity:.12}";

/// The page: the table (Markdown), the main figures as bars, and the training curves of each run.
pub fn html(
    name: &str,
    table: &str,
    results: &[(String, Results)],
    curves: &[(String, Vec<Value>)],
) -> String {
    let mut body =
        format!("<h1>{}</h1><p>Zero-shot results in percent.</p>{}", escape(name), html_table(table));
    body.push_str("<h2>Main figure of each data set</h2>");
    body.push_str(&bars(results));
    for (title, key) in [("Task loss", "task"), ("Total loss", "")] {
        let lines = curves.iter().map(|(run, steps)| (run.as_str(), points(steps, key))).collect::<Vec<_>>();
        if lines.iter().any(|(_, points)| points.len() > 1) {
            body.push_str(&format!("<h2>{title} by samples seen</h2>{}", curve_chart(&lines)));
        }
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{STYLE}</style><body>{body}</body></html>\n",
        escape(name)
    )
}

/// The main figures as a picture of its own, for a page that shows pictures only.
pub fn picture(results: &[(String, Results)]) -> String {
    const OWN: &str = "<style>text{fill:#1c1e21;font:12px system-ui,sans-serif}@media(prefers-color-scheme:dark){text{fill:#e6e6e6}}</style>";
    // Outside a page, an SVG needs its namespace.
    let start = "<svg xmlns=\"http://www.w3.org/2000/svg\" ";
    match bars(results).strip_prefix("<svg ").and_then(|rest| rest.split_once('>')) {
        Some((attributes, rest)) => format!("{start}{attributes}>{OWN}{rest}\n"),
        None => String::new(),
    }
}

/// Samples seen and loss: the raw value of a term, or the total for an empty key.
fn points(steps: &[Value], key: &str) -> Vec<(f64, f64)> {
    let value = |line: &Value| {
        let loss = if key.is_empty() { &line["loss"] } else { &line["terms"][key]["raw"] };
        Some((line["samples"].as_f64()?, loss.as_f64()?))
    };
    let all = steps.iter().filter_map(value).collect::<Vec<_>>();
    // Neighbours are averaged, so that noise does not hide the course.
    let group = all.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let count = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / count, part.iter().map(|p| p.1).sum::<f64>() / count)
    };
    all.chunks(group).map(mean).collect()
}

fn curve_chart(lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let all = lines.iter().flat_map(|(_, points)| points).filter(|p| p.1.is_finite());
    let (mut right, mut low, mut high) = (1.0f64, f64::INFINITY, f64::NEG_INFINITY);
    for (x, y) in all {
        (right, low, high) = (right.max(*x), low.min(*y), high.max(*y));
    }
    if high <= low {
        (low, high) = (low - 0.5, low + 0.5);
    }
    let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - 8.0);
    let y = |value: f64| 8.0 + (high - value) / (high - low) * (HEIGHT - BOTTOM - 8.0);
    let mut svg = open_svg(HEIGHT + 20.0 * lines.len() as f64);
    for part in 0..=4 {
        let (level, place) = (low + (high - low) * f64::from(part) / 4.0, right * f64::from(part) / 4.0);
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{level:.2}</text>",
            y(level), LEFT - 6.0, y(level) + 4.0
        ));
        let label =
            if place >= 10_000.0 { format!("{:.0} k", place / 1000.0) } else { format!("{place:.0}") };
        let anchor = if part == 4 { "end" } else { "middle" };
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
            x(place),
            HEIGHT - 12.0
        ));
    }
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let path =
            points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect::<Vec<_>>().join(" ");
        svg.push_str(&format!(
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{path}\"/>"
        ));
        svg.push_str(&legend(HEIGHT + 20.0 * index as f64, color, name));
    }
    svg + "</svg>"
}

/// One group of bars per data set, one bar per run.
fn bars(results: &[(String, Results)]) -> String {
    let Some((_, first)) = results.first() else { return String::new() };
    let bar = 18.0;
    let group = bar * results.len() as f64 + 30.0;
    let height = group * first.student.sets.len() as f64;
    let mut svg = open_svg(height + 20.0 * results.len() as f64);
    let largest = results.iter().flat_map(|(_, r)| r.student.sets.iter().map(|s| s.score.main()));
    let scale = (WIDTH - 60.0) / largest.fold(1e-9, f64::max);
    for (place, set) in first.student.sets.iter().enumerate() {
        let top = group * place as f64;
        svg.push_str(&format!("<text x=\"0\" y=\"{:.1}\">{}</text>", top + 14.0, escape(&set.set)));
        for (index, (_, result)) in results.iter().enumerate() {
            let Some(own) = result.student.sets.iter().find(|own| own.set == set.set) else { continue };
            let (y, length) = (top + 20.0 + bar * index as f64, own.score.main() * scale);
            svg.push_str(&format!(
                "<rect x=\"0\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{:.1}</text>",
                bar - 3.0, COLORS[index % COLORS.len()], length + 6.0, y + 12.0, own.score.main() * 100.0
            ));
        }
    }
    for (index, (name, _)) in results.iter().enumerate() {
        svg.push_str(&legend(height + 20.0 * index as f64, COLORS[index % COLORS.len()], name));
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

/// A Markdown table as HTML; all columns but the first two are numbers.
fn html_table(markdown: &str) -> String {
    let mut html = String::from("<table>");
    for (index, line) in markdown.lines().enumerate().filter(|(index, _)| *index != 1) {
        let tag = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for (column, cell) in line.trim_matches('|').split('|').enumerate() {
            let class = if column < 2 { "" } else { " class=\"n\"" };
            html.push_str(&format!("<{tag}{class}>{}</{tag}>", escape(cell.trim())));
        }
        html.push_str("</tr>");
    }
    html + "</table>"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_holds_table_and_curves_and_nothing_from_outside() {
        let steps = (1..=10)
            .map(|i| json!({"samples": i * 8, "loss": 3.0 / f64::from(i), "terms": {"task": {"raw": 1.0}}}));
        let page = html(
            "a <job>",
            "| a | b | c |\n|---|---|--:|\n| x | y | 1.5 |\n",
            &[],
            &[("run".into(), steps.collect())],
        );
        assert!(page.contains("a &lt;job&gt;") && page.contains("<td class=\"n\">1.5</td>"));
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(!page.contains("http") && !page.contains("NaN"));
    }

    #[test]
    fn a_picture_stands_alone() {
        let score = zeroshot_eval::Score::Classification(zeroshot_eval::Classification {
            top1: 0.25,
            top5: None,
            mean_per_class_recall: 0.25,
            samples: 4,
            per_class: vec![],
        });
        let sets = vec![zeroshot_eval::SetScore { set: "<toys>".into(), score }];
        let student = zeroshot_eval::Report { model: "m".into(), sets };
        let results = Results {
            student,
            teacher: None,
            details: Vec::new(),
            seconds: 1.0,
            parameters: (1, 1),
            damaged: Default::default(),
        };
        let svg = picture(&[("run".into(), results)]);
        assert!(
            svg.starts_with("<svg xmlns=") && svg.contains("&lt;toys&gt;") && svg.contains(">25.0<"),
            "{svg}"
        );
        assert!(picture(&[]).is_empty());
    }

    #[test]
    fn many_steps_become_few_points() {
        let steps = (0..10_000).map(|i| json!({"samples": i, "loss": 1.0})).collect::<Vec<_>>();
        assert!(points(&steps, "").len() <= POINTS);
    }
}
