//! What two looks at a server say together: rates, quantiles, parts.

use serde::Serialize;

use super::scrape::Metrics;
use crate::base::units::{Bytes, Count};

#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct View {
    pub model: String,
    pub version: String,
    /// Between the two looks.
    pub seconds: f64,
    /// Tokens in a second.
    pub prompt_speed: f64,
    pub answer_speed: f64,
    pub running: f64,
    pub waiting: f64,
    /// Requests in a step, on average, and at most.
    pub batch: Option<f64>,
    pub batch_limit: f64,
    /// Requests in a second: ended, and refused.
    pub ended_speed: f64,
    pub refused_speed: f64,
    /// Since the server began, by reason.
    pub refused: Vec<Named>,
    pub first_token: Quantiles,
    pub token_gap: Quantiles,
    pub queue: Quantiles,
    /// Seconds.
    pub step: Option<f64>,
    pub steps_speed: f64,
    /// Of a step's time, the greatest first.
    pub parts: Vec<Named>,
    /// Of bytes of experts that steps needed, those that were in memory or on their way.
    pub hit_rate: Option<f64>,
    /// Bytes in a second.
    pub disk: f64,
    pub weights: f64,
    pub pages: f64,
    pub pages_free: f64,
    pub pages_cached: f64,
    pub resident: f64,
    pub memory_limit: f64,
    /// Part of the time that each shard computed.
    pub shards: Vec<f64>,
    pub connections: f64,
    pub log_dropped: f64,
}

#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Named {
    pub name: String,
    pub value: f64,
}

/// In seconds; none if there was nothing to measure.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
pub struct Quantiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

impl View {
    /// What happened from `before` to `now`, which is so many seconds.
    pub fn between(before: &Metrics, now: &Metrics, seconds: f64) -> View {
        let gained = |name: &str| now.sum(name) - before.sum(name);
        let gained_of = |name: &str, label: &str, value: &str| {
            now.of(name, label, value) - before.of(name, label, value)
        };
        let speed = |name: &str| gained(name) / seconds;
        let mean = |name: &str| {
            let count = gained(&format!("{name}_count"));
            (count > 0.0).then(|| gained(&format!("{name}_sum")) / count)
        };
        let first = |label: &str| {
            let values = now.values("build_info", label);
            // A model's name is a file's, and may hold anything.
            values.first().copied().unwrap_or_default().replace(char::is_control, " ")
        };
        let taken = gained("step_duration_seconds_sum");
        let part = |name: &str| Named {
            name: name.into(),
            value: gained_of("step_part_seconds_sum", "part", name) / taken,
        };
        let mut parts: Vec<Named> = match taken > 0.0 {
            true => now.values("step_part_seconds_sum", "part").into_iter().map(part).collect(),
            false => Vec::new(),
        };
        parts.sort_by(|a, b| b.value.total_cmp(&a.value));
        let reason = |name: &str| Named {
            name: name.into(),
            value: now.of("requests_refused_total", "reason", name),
        };
        let needed = gained("expert_bytes_total");
        let shard = |shard: &str| {
            let computing = |metrics: &Metrics| {
                let (name, mut sum) = ("shard_seconds_total", 0.0);
                metrics.each(name, |labels, value| {
                    let is =
                        |label: &str, of: &str| labels.iter().any(|(l, v)| l == label && v == of);
                    if is("shard", shard) && is("state", "computing") {
                        sum += value;
                    }
                });
                sum
            };
            ((computing(now) - computing(before)) / seconds).clamp(0.0, 1.0)
        };
        View {
            model: first("model"),
            version: first("version"),
            seconds,
            prompt_speed: speed("prompt_rows_total"),
            answer_speed: speed("answer_tokens_total"),
            running: now.sum("requests_running"),
            waiting: now.sum("requests_waiting"),
            batch: mean("step_sessions"),
            batch_limit: now.sum("batch_limit"),
            ended_speed: speed("requests_total"),
            refused_speed: speed("requests_refused_total"),
            refused: now
                .values("requests_refused_total", "reason")
                .into_iter()
                .map(reason)
                .filter(|reason| reason.value > 0.0)
                .collect(),
            first_token: Quantiles::between(before, now, "first_token_seconds"),
            token_gap: Quantiles::between(before, now, "token_gap_seconds"),
            queue: Quantiles::between(before, now, "queue_duration_seconds"),
            step: mean("step_duration_seconds"),
            steps_speed: speed("steps_total"),
            parts,
            hit_rate: (needed > 0.0)
                .then(|| 1.0 - gained_of("expert_bytes_total", "from", "disk") / needed),
            disk: speed("disk_read_bytes_total"),
            weights: speed("weights_moved_bytes_total"),
            pages: now.sum("pages"),
            pages_free: now.sum("pages_free"),
            pages_cached: now.sum("pages_cached"),
            resident: now.sum("memory_resident_bytes"),
            memory_limit: now.sum("memory_limit_bytes"),
            shards: now.values("shard_seconds_total", "shard").into_iter().map(shard).collect(),
            connections: now.sum("connections_open"),
            log_dropped: now.sum("log_dropped_total"),
        }
    }

    /// In so many columns.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = vec![
            format!("penstock {}  {}", self.version, self.model),
            String::new(),
            format!(
                "{:<10}{:>10.1} tok/s prompt {:>10.1} tok/s answer",
                "speed", self.prompt_speed, self.answer_speed
            ),
            format!(
                "{:<10}{:>10} running {:>15} waiting {:>8.1} ended/s",
                "requests", self.running, self.waiting, self.ended_speed
            ),
            format!(
                "{:<10}{:>10} a step, {} at most",
                "batch",
                self.batch.map_or("-".into(), |batch| format!("{batch:.1}")),
                self.batch_limit
            ),
            String::new(),
            format!("{:<20}{:>12}{:>12}{:>12}", "", "p50", "p95", "p99"),
        ];
        for (name, quantiles) in [
            ("queue", &self.queue),
            ("first token", &self.first_token),
            ("between tokens", &self.token_gap),
        ] {
            let Quantiles { p50, p95, p99 } = quantiles;
            let [p50, p95, p99] = [p50, p95, p99].map(|q| q.map_or("-".into(), time));
            lines.push(format!("{name:<20}{p50:>12}{p95:>12}{p99:>12}"));
        }
        lines.push(String::new());
        let step = self.step.map_or("-".into(), time);
        lines.push(format!("{:<10}{step:>10} each, {:.1} in a second", "step", self.steps_speed));
        for part in self.parts.iter().filter(|part| part.value >= 0.005) {
            let percent = 100.0 * part.value;
            let bar = bar(part.value, width.saturating_sub(24).min(50));
            lines.push(format!("  {:<12}{percent:>5.1}%  {bar}", part.name));
        }
        lines.push(String::new());
        if let Some(hit_rate) = self.hit_rate {
            lines.push(format!(
                "{:<10}{:>9.1}% in memory or on their way",
                "experts",
                100.0 * hit_rate
            ));
        }
        lines.push(format!(
            "{:<10}{:>10.2} GB/s {:>14.2} GB/s of weights",
            "disk",
            self.disk / 1e9,
            self.weights / 1e9
        ));
        lines.push(format!(
            "{:<10}{:>10} of {}, {} kept for prefixes",
            "pages",
            Count((self.pages - self.pages_free).max(0.0) as u64).to_string(),
            Count(self.pages as u64),
            Count(self.pages_cached as u64)
        ));
        let memory = Bytes(self.resident as u64).to_string();
        let limit = match self.memory_limit > 0.0 {
            true => format!(" of {}", Bytes(self.memory_limit as u64)),
            false => String::new(),
        };
        lines.push(format!("{:<10}{memory:>10}{limit}", "memory"));
        let busy: Vec<_> = self.shards.iter().map(|busy| format!("{:.0}%", 100.0 * busy)).collect();
        lines.push(format!("{:<10}{}", "computing", wrapped(&busy, width.saturating_sub(10))));
        let refused: Vec<_> =
            self.refused.iter().map(|reason| format!("{} {}", reason.value, reason.name)).collect();
        if !refused.is_empty() {
            let refused = refused.join(", ");
            lines.push(format!("{:<10}{:>10.1} /s; {refused}", "refused", self.refused_speed));
        }
        if self.log_dropped > 0.0 {
            lines.push(format!("{:<10}{:>10} records dropped", "log", self.log_dropped));
        }
        lines.iter().map(|line| line.chars().take(width).collect()).collect()
    }
}

impl Quantiles {
    fn between(before: &Metrics, now: &Metrics, name: &str) -> Quantiles {
        let before = before.buckets(name);
        let earlier =
            |bound: f64| before.iter().find(|(b, _)| *b == bound).map_or(0.0, |(_, count)| *count);
        let gained: Vec<_> = now
            .buckets(name)
            .into_iter()
            .map(|(bound, count)| (bound, count - earlier(bound)))
            .collect();
        let at = |q| quantile(&gained, q);
        Quantiles { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// Where so large a part of what was counted lies below, as if each bucket were filled evenly. What
/// lies above the last bound is said to lie at it.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
    let (mut bound_before, mut count_before) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= q * total && count > count_before {
            if bound.is_infinite() {
                return Some(bound_before);
            }
            let within = (q * total - count_before) / (count - count_before);
            return Some(bound_before + within * (bound - bound_before));
        }
        (bound_before, count_before) = (bound, count);
    }
    None
}

fn time(seconds: f64) -> String {
    match seconds {
        ..0.01 => format!("{:.2} ms", 1e3 * seconds),
        ..1.0 => format!("{:.0} ms", 1e3 * seconds),
        _ => format!("{seconds:.1} s"),
    }
}

/// A part of the whole, in eighths of a column.
fn bar(part: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// As many as there is room for.
fn wrapped(items: &[String], width: usize) -> String {
    let mut line = String::new();
    for (i, item) in items.iter().enumerate() {
        let more = items.len() - i;
        if line.len() + 6 + 12 > width && more > 1 {
            return format!("{line} and {more} more");
        }
        line.push_str(&format!("{item:>6}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::scrape::parse;
    use super::*;

    /// The golden text, and the same before anything had happened.
    fn views() -> (Metrics, Metrics) {
        let golden = include_str!("../../serve/metrics/golden.txt");
        let zeroed = |line: &str| match line.starts_with('#') || line.contains("build_info") {
            true => line.to_owned(),
            false => format!("{} 0", line.rsplit_once(' ').unwrap().0),
        };
        let before: Vec<_> = golden.lines().map(zeroed).collect();
        (parse(&before.join("\n")).unwrap(), parse(golden).unwrap())
    }

    #[test]
    fn rates_are_what_was_gained() {
        let (before, now) = views();
        let view = View::between(&before, &now, 2.0);
        assert_eq!((view.prompt_speed, view.answer_speed), (45.0, 3.0));
        assert_eq!((view.running, view.waiting, view.batch), (2.0, 1.0, Some(2.0)));
        assert_eq!((view.hit_rate, view.batch_limit), (Some(0.75), 8.0));
        assert_eq!(view.shards, [0.1, 0.095]);
        assert_eq!(view.disk, 3.0 * (120 << 20) as f64 / 2.0);
        let whole: f64 = view.parts.iter().map(|part| part.value).sum();
        assert!((whole - 1.0).abs() < 1e-9, "{whole}");
        let gap = view.token_gap;
        // Two of 20 ms, one of 21 and one of 35, in the buckets (16, 24] and (32, 48].
        assert!((0.016..=0.024).contains(&gap.p50.unwrap()), "{gap:?}");
        assert!((0.032..=0.048).contains(&gap.p99.unwrap()), "{gap:?}");
        // 200 s is beyond the last bound.
        assert_eq!(view.first_token.p99, Some(131.072));
        assert_eq!(view.refused, [Named { name: "full".into(), value: 1.0 }]);
    }

    #[test]
    fn where_nothing_happens_there_is_nothing_to_say() {
        let (_, now) = views();
        let view = View::between(&now, &now, 1.0);
        assert_eq!((view.answer_speed, view.step, view.hit_rate), (0.0, None, None));
        assert_eq!(view.token_gap, Quantiles::default());
        assert!(view.parts.is_empty());
    }

    #[test]
    fn quantiles_lie_where_a_bucket_is_filled() {
        let buckets = [(1.0, 0.0), (2.0, 10.0), (4.0, 10.0), (8.0, 20.0), (f64::INFINITY, 20.0)];
        assert_eq!(quantile(&buckets, 0.25), Some(1.5));
        assert_eq!(quantile(&buckets, 0.5), Some(2.0));
        assert_eq!(quantile(&buckets, 0.75), Some(6.0));
        assert_eq!((quantile(&[], 0.5), quantile(&[(1.0, 0.0)], 0.5)), (None, None));
    }

    #[test]
    fn lines_keep_to_the_width() {
        let (before, now) = views();
        let mut view = View::between(&before, &now, 2.0);
        view.shards = vec![0.5; 200];
        assert_eq!(view.model, "a \"quoted\\name\" of two lines");
        for width in [1, 20, 40, 80, 200] {
            assert!(view.lines(width).iter().all(|line| line.chars().count() <= width));
        }
        assert!(view.lines(80).iter().any(|line| line.contains("more")));
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(1.0 / 16.0, 4), "▎");
    }
}
