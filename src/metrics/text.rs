//! The text that Prometheus reads (exposition format 0.0.4).

use std::fmt::Write as _;

use super::snapshot::{Family, Point, Snapshot, Value};
use super::table::Kind;

/// What this text is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes all metrics; those that say nothing now are announced all the same.
#[must_use]
pub fn write(snapshot: &Snapshot) -> String {
    let mut text = String::with_capacity(16 * 1024);
    for family in snapshot.families() {
        // A String takes everything.
        let _ = write_family(&mut text, family);
    }
    text
}

fn write_family(text: &mut String, family: &Family) -> std::fmt::Result {
    let metric = family.metric;
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(text, "# HELP {} {}", metric.name, metric.help)?;
    writeln!(text, "# TYPE {} {kind}", metric.name)?;
    for Point { labels, value } in &family.points {
        let pairs: Vec<_> =
            metric.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
        match value {
            Value::Count(count) => {
                write_name(text, metric.name, "", &pairs)?;
                writeln!(text, " {count}")?;
            }
            Value::Amount(amount) => {
                write_name(text, metric.name, "", &pairs)?;
                writeln!(text, " {amount}")?;
            }
            Value::Histogram(tally) => {
                let mut below = 0;
                for (index, count) in tally.buckets.iter().enumerate() {
                    below += count;
                    let bound = tally.bounds.get(index).map_or("+Inf".to_owned(), f64::to_string);
                    let with_bound: Vec<_> =
                        pairs.iter().copied().chain([("le", &*bound)]).collect();
                    write_name(text, metric.name, "_bucket", &with_bound)?;
                    writeln!(text, " {below}")?;
                }
                write_name(text, metric.name, "_sum", &pairs)?;
                // To the nanosecond: sums of fractions have long tails.
                writeln!(text, " {}", (tally.sum_seconds * 1e9).round() / 1e9)?;
                write_name(text, metric.name, "_count", &pairs)?;
                writeln!(text, " {below}")?;
            }
        }
    }
    Ok(())
}

fn write_name(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &[(&str, &str)],
) -> std::fmt::Result {
    write!(text, "{name}{suffix}")?;
    for (index, (label, value)) in labels.iter().enumerate() {
        let before = if index == 0 { '{' } else { ',' };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(text, "{before}{}=\"{value}\"", label.replace('.', "_"))?;
    }
    if labels.is_empty() { Ok(()) } else { text.write_char('}') }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::table;

    #[test]
    fn a_value_cannot_end_its_label() {
        let mut snapshot = Snapshot::default();
        snapshot.add(&table::BUILD_INFO, ["1\"\n\\", "x"], Value::Count(1));
        let text = write(&snapshot);
        assert!(text.contains(r#"{version="1\"\n\\",revision="x"} 1"#), "{text}");
    }

    #[test]
    fn a_metric_that_says_nothing_is_announced() {
        let text = write(&Snapshot::default());
        for metric in table::TABLE {
            assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
    }
}
