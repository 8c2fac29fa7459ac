//! SVG charts and their HTML page: a self-contained file with light and dark styles.

mod axis;
mod bars;
mod lines;

use zeroshot_eval::Table;
pub(crate) use zeroshot_eval::table::escape_html as escape;

pub(crate) use bars::{Bars, bars};
pub(crate) use lines::{Axes, Series, curves, scatter};

/// Width of a chart. At this width, its text is readable on a screen of 400 px, too.
const WIDTH: f64 = 480.0;
/// Height of a line of text.
const LINE: f64 = 20.0;
/// Colours of lines and bars. The first six (Okabe and Ito) can be distinguished by most colour-blind people, on light
/// and dark backgrounds.
const COLORS: [&str; 12] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#7f5fd0", "#a6761d",
    "#66c23a", "#e7298a", "#00b3b3",
];
/// Styles of a chart, in a page and as a file.
const CHART_STYLE: &str = "\
svg text{fill:currentColor;font:13px system-ui,sans-serif}svg .title{font-weight:600}\
.axis{stroke:currentColor;opacity:.5}.grid{stroke:currentColor;opacity:.15}.spread{stroke:currentColor;opacity:.75}";
const PAGE_STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;overflow-wrap:break-word;background:light-dark(#fff,#16181c);color:light-dark(#1c1e21,#e6e6e6)}\
h1,h2{line-height:1.25;overflow-wrap:anywhere}\
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;border-bottom:1px solid light-dark(#ddd,#3a3d42);text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}\
th:first-child,td:first-child{position:sticky;left:0;background:light-dark(#fff,#16181c)}\
svg{display:block;width:100%;max-width:540px;height:auto;margin:1rem 0}\
@media(max-width:40rem){body{margin:1rem auto;font-size:14px}h1{font-size:1.5rem}h2{font-size:1.2rem}table{font-size:13px}th,td{padding:.25rem .4rem}}";

/// Returns a complete HTML page.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{PAGE_STYLE}{CHART_STYLE}</style><body>{body}</body></html>\n",
        escape(title)
    )
}

fn color(index: usize) -> &'static str {
    COLORS[index % COLORS.len()]
}

/// Estimates the width of a text in pixels. Fonts differ, so this is the width in a wide one.
fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * 7.6
}

/// Shortens a text to `most` characters. Names of a grid differ at their ends, so the middle is left out.
fn shortened(text: &str, most: usize) -> String {
    let letters = text.chars().collect::<Vec<_>>();
    if letters.len() <= most {
        return text.into();
    }
    let kept = most.saturating_sub(1);
    let (start, end) = (kept.div_ceil(2), letters.len() - kept / 2);
    letters[..start].iter().chain(&['…']).chain(&letters[end..]).collect()
}

/// Returns a legend below `top`, and its height: each entry has the SVG style of its line and a name.
fn legend(top: f64, entries: &[(String, &str)]) -> (String, f64) {
    let (mut svg, mut x, mut y) = (String::new(), 0.0, top);
    for (style, name) in entries {
        let shown = shortened(name, 56);
        let width = text_width(&shown) + 44.0;
        if x > 0.0 && x + width > WIDTH {
            (x, y) = (0.0, y + LINE);
        }
        svg.push_str(&format!(
            "<line x1=\"{x:.0}\" x2=\"{:.0}\" y1=\"{:.1}\" y2=\"{1:.1}\" {style}/><text x=\"{:.0}\" y=\"{:.1}\">{}</text>",
            x + 20.0,
            y + 9.0,
            x + 26.0,
            y + 14.0,
            escape(&shown)
        ));
        x += width;
    }
    let height = if entries.is_empty() { 0.0 } else { y + LINE - top };
    (svg, height)
}

/// Returns a chart. Screen readers read `label`.
fn chart(label: &str, height: f64, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" role=\"img\" aria-label=\"{}\">{content}</svg>",
        escape(label)
    )
}

/// Returns a chart as a standalone SVG file, for pages that show only images; empty without a chart.
pub(crate) fn standalone(chart: &str) -> String {
    const COLOR: &str = "svg{color:#1c1e21}@media(prefers-color-scheme:dark){svg{color:#e6e6e6}}";
    // Outside a page, an SVG needs its namespace.
    let start = "<svg xmlns=\"http://www.w3.org/2000/svg\" ";
    match chart.strip_prefix("<svg ").and_then(|rest| rest.split_once('>')) {
        Some((attributes, rest)) => {
            format!("{start}{attributes}><style>{COLOR}{CHART_STYLE}</style>{rest}\n")
        }
        None => String::new(),
    }
}

/// Returns a table as HTML that scrolls if it is wider than the page.
pub(crate) fn html_table(table: &Table) -> String {
    format!("<div class=\"wide\" tabindex=\"0\">{}</div>", table.to_html())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_ends() {
        assert_eq!(shortened("fd, losses.fd = 2000", 20), "fd, losses.fd = 2000");
        assert_eq!(shortened("fd, losses.fd = 2000", 11), "fd, l… 2000");
        assert_eq!(shortened("größer", 5), "gr…er");
    }

    #[test]
    fn a_legend_continues_on_a_new_line_where_it_would_be_cut_off() {
        let style = || "stroke=\"red\"".to_string();
        let (svg, height) = legend(10.0, &[(style(), "a"), (style(), "b")]);
        assert_eq!((svg.matches("y=\"24.0\"").count(), height), (2, LINE));
        let long = "x".repeat(200);
        let (svg, height) = legend(10.0, &[(style(), &long), (style(), &long)]);
        assert!(svg.contains("y=\"24.0\"") && svg.contains("y=\"44.0\"") && !svg.contains(&long), "{svg}");
        assert_eq!(height, 2.0 * LINE);
        assert!(text_width(&shortened(&long, 56)) + 26.0 <= WIDTH);
    }

    #[test]
    fn a_standalone_file_has_its_namespace_and_both_styles() {
        let svg = standalone(&chart("a \"label\"", 20.0, "<text>1</text>"));
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 480 20\""), "{svg}");
        assert!(svg.contains("a &quot;label&quot;") && svg.contains("prefers-color-scheme:dark"), "{svg}");
        assert!(svg.ends_with("<text>1</text></svg>\n"), "{svg}");
        assert_eq!(standalone(""), "");
    }
}
