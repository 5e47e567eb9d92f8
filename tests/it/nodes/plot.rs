//! A picture of how long something took: for each span of time, how many took no longer.

use std::fmt::Write as _;
use std::time::Duration;

use super::verdict::quantile;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 24.0;
const INNER_WIDTH: f64 = WIDTH - LEFT - 20.0;
const INNER_HEIGHT: f64 = HEIGHT - TOP - 52.0;
/// From a millisecond to ten seconds.
const DECADES: f64 = 4.0;

/// Writes it to where the environment says, if it does; they are in order.
#[expect(clippy::disallowed_methods, reason = "where to is chosen from outside")]
pub(super) fn write_if_asked(sorted: &[Duration]) {
    if let Ok(path) = std::env::var("LATCHKEY_NODES_PLOT") {
        std::fs::write(path, picture(sorted)).unwrap();
    }
}

fn picture(sorted: &[Duration]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    for percent in [0, 25, 50, 75, 100] {
        let y = y_of(f64::from(percent) / 100.0);
        line(&mut svg, [LEFT, y, LEFT + INNER_WIDTH, y], "#ddd");
        text(&mut svg, LEFT - 6.0, y + 4.0, "end", &format!("{percent} %"));
    }
    for (millis, name) in
        [(1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (1_000, "1 s"), (10_000, "10 s")]
    {
        let x = x_of(Duration::from_millis(millis));
        line(&mut svg, [x, TOP, x, TOP + INNER_HEIGHT], "#ddd");
        text(&mut svg, x, TOP + INNER_HEIGHT + 18.0, "middle", name);
    }
    let mut points = String::new();
    for thousandths in 1..=1_000_u16 {
        let x = x_of(quantile(sorted, thousandths.into()));
        let _ = write!(points, "{x:.1},{:.1} ", y_of(f64::from(thousandths) / 1_000.0));
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>",
        points.trim()
    );
    for (thousandths, name) in [(500, "p50"), (990, "p99"), (1_000, "max")] {
        let took = quantile(sorted, thousandths);
        let x = x_of(took);
        line(&mut svg, [x, TOP, x, TOP + INNER_HEIGHT], "#c60");
        let millis = took.as_secs_f64() * 1e3;
        let y = TOP
            + INNER_HEIGHT / 2.0
            + (f64::from(u16::try_from(thousandths).unwrap_or(0)) - 500.0) / 12.0;
        text(&mut svg, x + 4.0, y, "start", &format!("{name} {millis:.0} ms"));
    }
    let title = "from the answer to the last check that another node allowed";
    text(&mut svg, LEFT + INNER_WIDTH / 2.0, HEIGHT - 10.0, "middle", title);
    svg + "</svg>\n"
}

fn x_of(took: Duration) -> f64 {
    let decades = (took.as_secs_f64() * 1e3).max(1.0).log10();
    LEFT + INNER_WIDTH * decades.min(DECADES) / DECADES
}

fn y_of(share: f64) -> f64 {
    TOP + INNER_HEIGHT * (1.0 - share)
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
