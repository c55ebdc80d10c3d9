//! Lines in a picture that is read on a dark and on a light screen.

use std::fmt::Write;

/// One line: x and y between 0 and 1.
pub struct Line {
    pub name: &'static str,
    /// Drawn as a limit, not as one of those compared.
    pub bound: bool,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 600.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 384.0;

/// Told apart by those who do not see all colours, too (Okabe and Ito's).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

const STYLE: &str = "\
svg{background:#fff;color:#222;font:13px system-ui,sans-serif}\
text{fill:currentColor}\
.grid{stroke:currentColor;stroke-opacity:.15}\
.axis{stroke:currentColor}\
.line{fill:none;stroke-width:2}\
.bound{stroke:currentColor;stroke-dasharray:5 4}\
@media(prefers-color-scheme:dark){svg{background:#16181c;color:#ddd}}";

/// Hit rate against the part of slabs that is cached.
pub fn svg(title: &str, lines: &[Line]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n<title>{0}</title>\n\
         <style>{STYLE}</style>\n<text x=\"{LEFT}\" y=\"26\" font-size=\"15\">{0}</text>\n",
        escaped(title)
    );
    for percent in (0..=100).step_by(20) {
        let (x, y) = place(f64::from(percent) / 100.0, f64::from(percent) / 100.0);
        let (under, beside) = (BOTTOM + 18.0, LEFT - 8.0);
        let lower = y + 4.0;
        svg += &format!(
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}M{x:.1} {TOP}V{BOTTOM}\"/>\n\
             <text x=\"{x:.1}\" y=\"{under}\" text-anchor=\"middle\">{percent}%</text>\n\
             <text x=\"{beside}\" y=\"{lower:.1}\" text-anchor=\"end\">{percent}%</text>\n"
        );
    }
    let (middle, under) = ((LEFT + RIGHT) / 2.0, BOTTOM + 42.0);
    svg += &format!(
        "<path class=\"axis\" fill=\"none\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>\n\
         <text x=\"{middle}\" y=\"{under}\" text-anchor=\"middle\">slabs cached</text>\n\
         <text x=\"14\" y=\"{0}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {0})\">\
         hit rate</text>\n",
        (TOP + BOTTOM) / 2.0
    );
    // The legend is read from the top, as the lines are: the bound first.
    let mut legend = TOP + 12.0;
    for (at, line) in lines.iter().enumerate().rev() {
        let stroke = match line.bound {
            true => "class=\"line bound\"".to_string(),
            false => format!("class=\"line\" stroke=\"{}\"", COLOURS[at % COLOURS.len()]),
        };
        let (start, end, name, lower) = (RIGHT + 20.0, RIGHT + 46.0, RIGHT + 54.0, legend + 4.0);
        svg += &format!("<path {stroke} d=\"{}\"/>\n", path(&line.points));
        svg += &format!(
            "<path {stroke} d=\"M{start} {legend}H{end}\"/>\
             <text x=\"{name}\" y=\"{lower}\">{}</text>\n",
            escaped(line.name)
        );
        legend += 22.0;
    }
    svg + "</svg>\n"
}

fn place(x: f64, y: f64) -> (f64, f64) {
    (LEFT + x * (RIGHT - LEFT), BOTTOM - y * (BOTTOM - TOP))
}

fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (at, &(x, y)) in points.iter().enumerate() {
        let (x, y) = place(x, y);
        // A single point is a dot.
        let step = if at == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{step}{x:.1} {y:.1}");
        if points.len() == 1 {
            let _ = write!(path, "h1");
        }
    }
    path
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_text_and_no_element() {
        let line = Line { name: "lru", bound: false, points: vec![(0.5, 0.25)] };
        let svg = svg("'<script>&'", &[line]);
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;&amp;"));
        assert!(svg.contains("M328.0 300.0h1"), "{svg}");
    }
}
