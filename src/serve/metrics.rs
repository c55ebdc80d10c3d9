//! What is measured, as text for Prometheus (exposition format 0.0.4).
//!
//! Names and units follow its customs: seconds and bytes, `_total` for what only grows, real
//! histograms. `penstock top` reads this text too.
//!
//! | name, after `penstock_` | labels | what |
//! |---|---|---|
//! | `build_info` | version, model | 1 |
//! | `requests_received_total` | | requests handed in |
//! | `requests_refused_total` | reason | full, late, draining, invalid |
//! | `requests_total` | end | ended: text, stop, length, ... |
//! | `requests_running`, `requests_waiting` | | now |
//! | `request_duration_seconds` | | histogram, from arrival to end |
//! | `queue_duration_seconds` | priority | histogram, from arrival to the first step |
//! | `first_token_seconds` | priority | histogram, from arrival to the first token |
//! | `token_gap_seconds` | | histogram, between two tokens of one answer |
//! | `expected_first_token_seconds` | | for a request that came now |
//! | `prompt_tokens_total`, `shared_tokens_total` | | of requests that ended |
//! | `answer_tokens_total` | | |
//! | `drafted_tokens_total`, `accepted_tokens_total` | | guessed, and guessed right |
//! | `preemptions_total` | | |
//! | `steps_total`, `rows_total`, `prompt_rows_total` | | |
//! | `step_duration_seconds` | | histogram |
//! | `step_part_seconds` | part | histogram: attention, routing, experts, ..., disk, between |
//! | `step_sessions`, `step_rows` | | histograms |
//! | `batch_limit` | | sessions that may share a step now |
//! | `weights_moved_bytes_total` | | of weights, through the cores |
//! | `expert_bytes_total` | from | needed by steps: memory, forecast, disk |
//! | `slab_demands_total` | result | hit, coming, miss |
//! | `disk_read_bytes_total`, `disk_reads_total` | | |
//! | `disk_rereads_total`, `disk_lost_slabs_total`, `disk_stalls_total` | | |
//! | `disk_vain_bytes_total` | | forecast, and not needed then |
//! | `disk_wait_seconds_total` | | steps with nothing to compute |
//! | `pages`, `pages_free`, `pages_cached`, `pages_held` | | of keys and values |
//! | `spilled_pages_total`, `unspilled_pages_total` | | written to disk, and brought back |
//! | `spill_lost_pages_total` | | that did not come back as they were |
//! | `memory_resident_bytes`, `memory_limit_bytes` | | of this process |
//! | `shard_seconds_total` | shard, state | computing, spinning, parked |
//! | `shard_chunks_total`, `shard_stolen_chunks_total` | shard | |
//! | `shard_reads_total`, `shard_read_bytes_total` | shard | |
//! | `connections_open` | | now |
//! | `connections_total` | result | accepted, refused |
//! | `log_dropped_total` | | records |

mod text;

use text::Text;

use crate::engine::telemetry::{PRIORITIES, Part, Telemetry};

/// What the answer's `Content-Type` is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What only the server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    pub open: u64,
    pub accepted: u64,
    pub refused: u64,
    pub log_dropped: u64,
}

/// All there is to tell at one moment.
#[derive(Clone, Copy)]
pub struct Snapshot<'a> {
    pub model: &'a str,
    pub telemetry: &'a Telemetry,
    pub serving: Serving,
}

pub fn render(snapshot: &Snapshot) -> String {
    let mut text = Text::new("penstock_");
    let version = env!("CARGO_PKG_VERSION");
    text.family("build_info", "gauge", "What is running.");
    text.value("", &[("version", version), ("model", snapshot.model)], 1.0);
    requests(&mut text, snapshot.telemetry);
    steps(&mut text, snapshot.telemetry);
    experts(&mut text, snapshot.telemetry);
    standing(&mut text, snapshot.telemetry);
    shards(&mut text, snapshot.telemetry);
    serving(&mut text, &snapshot.serving);
    text.finish()
}

fn requests(text: &mut Text, telemetry: &Telemetry) {
    let sums = &telemetry.sums;
    text.count("requests_received_total", "Requests handed in.", sums.arrived);
    text.named("requests_refused_total", "Requests not taken.", "reason", sums.refused.iter());
    text.named("requests_total", "Requests that ended.", "end", sums.ended.iter());
    let load = &telemetry.standing.load;
    text.gauge("requests_running", "Requests that steps compute.", load.running as f64);
    text.gauge("requests_waiting", "Requests in the queue.", load.waiting as f64);
    let help = "From a request's arrival to its end.";
    text.histogram("request_duration_seconds", help, [("", "", &telemetry.request)]);
    let by_priority =
        |of| PRIORITIES.iter().zip(of).map(|((_, name), histogram)| ("priority", *name, histogram));
    let help = "From a request's arrival to its first step.";
    text.histogram("queue_duration_seconds", help, by_priority(&telemetry.queued));
    let help = "From a request's arrival to its first token.";
    text.histogram("first_token_seconds", help, by_priority(&telemetry.first_token));
    let help = "Between two tokens of one answer.";
    text.histogram("token_gap_seconds", help, [("", "", &telemetry.gap)]);
    let help = "When a request that came now would see its first token.";
    text.gauge("expected_first_token_seconds", help, load.first_token.as_secs_f64());
    let help = "Tokens of prompts of requests that ended.";
    text.count("prompt_tokens_total", help, sums.prompt_tokens);
    let help = "Prompt tokens whose keys and values an earlier request had left.";
    text.count("shared_tokens_total", help, sums.shared_tokens);
    let help = "Tokens of answers.";
    text.count("answer_tokens_total", help, sums.answer_tokens);
    text.count("drafted_tokens_total", "Tokens that were guessed.", sums.drafted);
    text.count("accepted_tokens_total", "Guessed tokens that were right.", sums.accepted);
    let help = "Times a running request gave way to another.";
    text.count("preemptions_total", help, sums.preempted);
}

fn steps(text: &mut Text, telemetry: &Telemetry) {
    let meter = &telemetry.sums.meter;
    text.count("steps_total", "Passes of a batch through all layers.", meter.steps);
    text.count("rows_total", "Rows of all steps: tokens, of prompts and answers.", meter.rows);
    let help = "Rows of steps that were of prompts.";
    text.count("prompt_rows_total", help, telemetry.sums.prompt_rows);
    text.histogram("step_duration_seconds", "Time of a step.", [("", "", &telemetry.step)]);
    let parts = Part::ALL.iter().zip(&telemetry.parts);
    let parts = parts.map(|(part, histogram)| ("part", part.name(), histogram));
    let help = "Time of a step that went to one of its parts; steps without the part do not count.";
    text.histogram("step_part_seconds", help, parts);
    text.histogram("step_sessions", "Requests in a step.", [("", "", &telemetry.sessions)]);
    text.histogram("step_rows", "Rows in a step.", [("", "", &telemetry.rows)]);
    let limit = telemetry.standing.load.batch as f64;
    text.gauge("batch_limit", "Requests that may share a step at present.", limit);
    let help = "Bytes of weights that went through the cores.";
    text.count("weights_moved_bytes_total", help, meter.tally.moved);
}

fn experts(text: &mut Text, telemetry: &Telemetry) {
    let reading = &telemetry.sums.meter.reading;
    let help = "Bytes of experts that steps needed, by where they were then.";
    let from =
        [("memory", reading.held), ("forecast", reading.forecast_used), ("disk", reading.demanded)];
    text.named("expert_bytes_total", help, "from", from);
    if let Some(slabs) = telemetry.standing.slabs {
        let results = [("hit", slabs.hits), ("coming", slabs.coming), ("miss", slabs.misses)];
        let help = "Experts that steps asked for, by whether they had a slot.";
        text.named("slab_demands_total", help, "result", results);
    }
    text.count("disk_read_bytes_total", "Bytes of experts that came from disk.", reading.read);
    text.count("disk_reads_total", "Reads of experts that were over.", reading.reads);
    text.count("disk_rereads_total", "Blocks read twice, for their sum was wrong.", reading.again);
    text.count("disk_lost_slabs_total", "Experts that steps went on without.", reading.lost);
    let help = "Times the disk did not answer for seconds.";
    text.count("disk_stalls_total", help, telemetry.sums.stalls);
    let help = "Bytes read for a forecast and not needed then.";
    text.count("disk_vain_bytes_total", help, reading.forecast_vain);
    let help = "Time in which steps had nothing to compute.";
    text.seconds("disk_wait_seconds_total", help, reading.waited);
}

fn standing(text: &mut Text, telemetry: &Telemetry) {
    let standing = &telemetry.standing;
    text.gauge("pages", "Pages of keys and values.", standing.load.pages as f64);
    text.gauge("pages_free", "Pages that nobody holds.", standing.load.free_pages as f64);
    let help = "Pages that only a prefix to come may use.";
    text.gauge("pages_cached", help, standing.cached_pages as f64);
    text.gauge("pages_held", "Pages that requests hold.", standing.held_pages as f64);
    let spilled = &telemetry.sums.spilled;
    text.count("spilled_pages_total", "Pages that were written to disk.", spilled.out);
    text.count("unspilled_pages_total", "Pages that were brought back from disk.", spilled.back);
    let help = "Pages on disk that did not come back as they were.";
    text.count("spill_lost_pages_total", help, spilled.lost);
    let help = "Memory that this process has taken.";
    text.gauge("memory_resident_bytes", help, standing.resident as f64);
    let help = "Memory that this process may take.";
    text.gauge("memory_limit_bytes", help, standing.memory_limit as f64);
}

fn shards(text: &mut Text, telemetry: &Telemetry) {
    let shards: Vec<_> = telemetry.standing.shards.iter().enumerate().collect();
    let help = "Time of a shard, by what it did; the lead's is that of stages alone.";
    text.family("shard_seconds_total", "counter", help);
    for (shard, counters) in &shards {
        let shard = shard.to_string();
        for (state, time) in [
            ("computing", counters.computing),
            ("spinning", counters.spinning),
            ("parked", counters.parked),
        ] {
            text.value("", &[("shard", &shard), ("state", state)], time.as_secs_f64());
        }
    }
    type Of = fn(&crate::shard::Counters) -> u64;
    let families: [(&str, &str, Of); 4] = [
        ("shard_chunks_total", "Chunks of stages.", |c| c.chunks),
        ("shard_stolen_chunks_total", "Chunks of another shard's share.", |c| c.stolen),
        ("shard_reads_total", "Reads that the shard sent to the disk.", |c| c.reads),
        ("shard_read_bytes_total", "Bytes that these brought.", |c| c.bytes),
    ];
    for (name, help, of) in families {
        text.family(name, "counter", help);
        for (shard, counters) in &shards {
            text.value("", &[("shard", &shard.to_string())], of(counters) as f64);
        }
    }
}

fn serving(text: &mut Text, serving: &Serving) {
    text.gauge("connections_open", "Connections that are open.", serving.open as f64);
    let results = [("accepted", serving.accepted), ("refused", serving.refused)];
    text.named("connections_total", "Connections that came.", "result", results);
    let help = "Records of the log that could not be written as fast as they came.";
    text.count("log_dropped_total", help, serving.log_dropped);
}

#[cfg(test)]
mod tests;
