//! What a server says of itself, read.

use std::collections::BTreeMap;
use std::path::Path;

use crate::serve::fetch::{FetchError, fetch};

/// Samples by name and labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, Vec<Sample>>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

/// Asks for `/metrics`.
pub fn scrape(socket: &Path) -> Result<Metrics, FetchError> {
    parse(&fetch(socket, "/metrics")?)
}

/// Reads the text of `serve::metrics`.
pub fn parse(text: &str) -> Result<Metrics, FetchError> {
    let mut metrics = Metrics::default();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, sample) =
            sample(line).ok_or_else(|| FetchError::Strange(format!("it says {line:?}")))?;
        metrics.0.entry(name).or_default().push(sample);
    }
    match metrics.0.contains_key("build_info") {
        true => Ok(metrics),
        false => Err(FetchError::Strange("it does not say what it is".into())),
    }
}

/// `penstock_name{label="value",...} number`; other programs' names keep their prefix.
fn sample(line: &str) -> Option<(String, Sample)> {
    let end = line.find(['{', ' '])?;
    let name = line[..end].strip_prefix("penstock_").unwrap_or(&line[..end]);
    let mut labels = Vec::new();
    let mut rest = &line[end..];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        number => number.parse().ok()?,
    };
    Some((name.into(), Sample { labels, value }))
}

/// A value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

impl Metrics {
    fn samples(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sum of a name's samples; 0 if there are none.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples(name).iter().map(|sample| sample.value).sum()
    }

    /// The sum of those whose label has this value.
    pub fn of(&self, name: &str, label: &str, value: &str) -> f64 {
        let has = |s: &&Sample| s.labels.iter().any(|(l, v)| l == label && v == value);
        self.samples(name).iter().filter(has).map(|sample| sample.value).sum()
    }

    /// Every sample of a name, with its labels.
    pub fn each(&self, name: &str, mut look: impl FnMut(&[(String, String)], f64)) {
        self.samples(name).iter().for_each(|sample| look(&sample.labels, sample.value));
    }

    /// The values of a label, in order of their first appearance.
    pub fn values(&self, name: &str, label: &str) -> Vec<&str> {
        let mut values: Vec<&str> = Vec::new();
        for sample in self.samples(name) {
            let of_label = sample.labels.iter().filter(|(l, _)| l == label);
            for (_, value) in of_label {
                if !values.contains(&value.as_str()) {
                    values.push(value);
                }
            }
        }
        values
    }

    /// A histogram's bounds and what lies below each, all its labels together.
    pub fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.samples(&format!("{name}_bucket")) {
            let Some((_, bound)) = sample.labels.iter().find(|(label, _)| label == "le") else {
                continue;
            };
            let Ok(bound) = bound.trim_start_matches('+').parse::<f64>() else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP penstock_build_info What.\n# TYPE penstock_build_info gauge\n\
        penstock_build_info{version=\"1\",model=\"a \\\"b\\\"\\n\\\\c\"} 1\n\
        penstock_gap_seconds_bucket{p=\"low\",le=\"0.5\"} 1\n\
        penstock_gap_seconds_bucket{p=\"low\",le=\"+Inf\"} 3\n\
        penstock_gap_seconds_bucket{p=\"high\",le=\"0.5\"} 10\n\
        penstock_gap_seconds_bucket{p=\"high\",le=\"+Inf\"} 10\n\
        penstock_requests_total{end=\"stop\"} 4\npenstock_requests_total{end=\"text\"} 2.5\n";

    #[test]
    fn our_own_text_is_read() {
        let metrics = parse(TEXT).unwrap();
        assert_eq!(metrics.values("build_info", "model"), ["a \"b\"\n\\c"]);
        assert_eq!(metrics.buckets("gap_seconds"), [(0.5, 11.0), (f64::INFINITY, 13.0)]);
        assert_eq!(metrics.sum("requests_total"), 6.5);
        assert_eq!(metrics.of("requests_total", "end", "stop"), 4.0);
        assert_eq!((metrics.sum("nothing"), metrics.values("nothing", "a").len()), (0.0, 0));
    }

    #[test]
    fn the_golden_text_of_the_server_is_read() {
        let golden = include_str!("../../serve/metrics/golden.txt");
        let metrics = parse(golden).unwrap();
        assert_eq!(metrics.sum("steps_total"), 3.0);
        assert_eq!(metrics.values("shard_chunks_total", "shard"), ["0", "1"]);
        let gaps = metrics.buckets("token_gap_seconds");
        assert_eq!(gaps.last(), Some(&(f64::INFINITY, 4.0)));
        assert!(gaps.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }

    #[test]
    fn strangers_are_known() {
        for text in ["", "up 1\n", "penstock_build_info{a=\"b} 1\n", "penstock_build_info x\n"] {
            assert!(matches!(parse(text), Err(FetchError::Strange(_))), "{text}");
        }
    }
}
