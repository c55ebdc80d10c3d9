//! The exposition format: families of samples, one a line.

use std::fmt::Write as _;
use std::time::Duration;

use crate::engine::telemetry::{Bucket, Histogram};

pub struct Text {
    out: String,
    prefix: &'static str,
    family: String,
}

impl Text {
    pub fn new(prefix: &'static str) -> Text {
        Text { out: String::with_capacity(64 << 10), prefix, family: String::new() }
    }

    pub fn finish(self) -> String {
        self.out
    }

    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.family = format!("{}{name}", self.prefix);
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {} {help}\n# TYPE {} {kind}", self.family, self.family);
    }

    /// A sample of the family begun last.
    pub fn value(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(&self.family);
        self.out.push_str(suffix);
        for (i, (name, value)) in labels.iter().enumerate() {
            self.out.push(if i == 0 { '{' } else { ',' });
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.out, "{name}=\"{value}\"");
        }
        self.out.push_str(if labels.is_empty() { "" } else { "}" });
        // The shortest decimal that is this number; whole ones have no fraction.
        let _ = writeln!(self.out, " {value}");
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help);
        self.value("", &[], value);
    }

    pub fn count(&mut self, name: &str, help: &str, count: u64) {
        self.family(name, "counter", help);
        self.value("", &[], count as f64);
    }

    pub fn seconds(&mut self, name: &str, help: &str, time: Duration) {
        self.family(name, "counter", help);
        self.value("", &[], time.as_secs_f64());
    }

    /// A family of counts, each with its own value of one label.
    pub fn named<'n>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl IntoIterator<Item = (&'n str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (value, count) in counts {
            self.value("", &[(label, value)], count as f64);
        }
    }

    /// A family of histograms, each with a label and its value, or without (`""`).
    pub fn histogram<'h>(
        &mut self,
        name: &str,
        help: &str,
        of: impl IntoIterator<Item = (&'h str, &'h str, &'h Histogram)>,
    ) {
        self.family(name, "histogram", help);
        for (label, value, histogram) in of {
            let labels = [(label, value)];
            let labels = if label.is_empty() { &labels[..0] } else { &labels[..] };
            let mut with_bound = |bound: &str, count: u64| {
                let all = [labels, &[("le", bound)]].concat();
                self.value("_bucket", &all, count as f64);
            };
            for Bucket { bound, count } in histogram.buckets() {
                with_bound(&bound.to_string(), count);
            }
            with_bound("+Inf", histogram.count());
            self.value("_sum", labels, histogram.sum());
            self.value("_count", labels, histogram.count() as f64);
        }
    }
}
