//! Pictures: how long something took, for each span of time how many took no longer; and what a node needs, as time goes.

use std::fmt::Write as _;
use std::time::Duration;

use super::soak::Sample;
use super::verdict::quantile;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 24.0;
const INNER_WIDTH: f64 = WIDTH - LEFT - 20.0;
const INNER_HEIGHT: f64 = HEIGHT - TOP - 52.0;
/// From a millisecond to ten seconds.
const DECADES: f64 = 4.0;

/// Writes how long something took; they are in order.
pub(super) fn write_if_asked(sorted: &[Duration]) {
    write(|| picture(sorted));
}

/// Writes what a node needed.
pub(super) fn write_growth_if_asked(samples: &[Sample]) {
    write(|| growth(samples));
}

/// To where the environment says, if it does.
#[expect(clippy::disallowed_methods, reason = "where to is chosen from outside")]
fn write(picture: impl FnOnce() -> String) {
    if let Ok(path) = std::env::var("LATCHKEY_NODES_PLOT") {
        std::fs::write(path, picture()).unwrap();
    }
}

fn canvas() -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    )
}

/// Memory above and descriptors below, as time goes.
fn growth(samples: &[Sample]) -> String {
    let mut svg = canvas();
    let last = samples.last().map_or(1.0, |sample| sample.after.as_secs_f64().max(1.0));
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let x = LEFT + INNER_WIDTH * share;
        line(&mut svg, [x, TOP, x, TOP + INNER_HEIGHT], "#ddd");
        let minutes = format!("{:.0} min", last * share / 60.0);
        text(&mut svg, x, TOP + INNER_HEIGHT + 18.0, "middle", &minutes);
    }
    let series = [
        ("MiB resident", "#06c", samples.iter().map(|it| it.bytes / 1_048_576.0).collect(), 0.45),
        ("open descriptors", "#c60", samples.iter().map(|it| it.descriptors).collect(), 0.95),
    ];
    for (name, colour, values, below) in series {
        let values: Vec<f64> = values;
        let most = values.iter().copied().fold(1.0, f64::max);
        let points = samples.iter().zip(&values).map(|(sample, value)| {
            let x = LEFT + INNER_WIDTH * sample.after.as_secs_f64() / last;
            let y = TOP + INNER_HEIGHT * (below - 0.4 * value / most);
            format!("{x:.1},{y:.1}")
        });
        let points: Vec<_> = points.collect();
        polyline(&mut svg, &points.join(" "), colour);
        let (top, bottom) = (TOP + INNER_HEIGHT * (below - 0.4), TOP + INNER_HEIGHT * below);
        line(&mut svg, [LEFT, bottom, LEFT + INNER_WIDTH, bottom], "#999");
        text(&mut svg, LEFT - 6.0, top + 4.0, "end", &format!("{most:.0}"));
        text(&mut svg, LEFT - 6.0, bottom + 4.0, "end", "0");
        text(&mut svg, LEFT + 6.0, top - 6.0, "start", name);
    }
    svg + "</svg>\n"
}

fn picture(sorted: &[Duration]) -> String {
    let mut svg = canvas();
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
    polyline(&mut svg, points.trim(), "#06c");
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

fn polyline(svg: &mut String, points: &str, colour: &str) {
    let _ = writeln!(
        svg,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
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
