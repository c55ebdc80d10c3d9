//! The timeline of all shards, as a file that Perfetto and `chrome://tracing` open.
//!
//! It is an array of events, one a line, in the order in which they came from the rings. A viewer
//! does without the closing bracket, so that the file of a program that was killed can be looked at
//! too. Written by a task of its own through the kernel ([`Sink`]): if the disk is slow, rings fill
//! up, and spans are lost and counted, but no step waits.
//!
//! ```text
//! track "shard 0"          the lead: steps, stages in them, waits for the disk, breaths
//! track "shard 1"          a mate: its part of each stage
//! track "shard 1 reads 0"  blocks that its mover had before the kernel, as many tracks as at once
//! "request", by id         queued, prefill, decode
//! ```

use std::cell::Cell;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::sleep;

use crate::base::trace::{NO_LAYER, Span, Tracer, Track, What, track};
use crate::host::sink::Sink;

/// How often the rings are emptied.
const OFTEN: Duration = Duration::from_millis(20);
/// Text that is written at once.
const PIECE: usize = 256 << 10;
/// Spans of lives of requests that may wait to be written.
const LIVES: usize = 1 << 12;
/// Tracks of reads are numbered from so many times the shard's number on.
const READS: usize = 1000;

/// Spans on their way from the shards into a file.
pub struct Timeline {
    sink: Sink,
    tracks: Vec<[Track; 2]>,
    requests: Track,
    script: Script,
}

impl Timeline {
    /// Spans that a shard may have waiting to be written: some 50 ms of the smallest model's.
    pub const ROOM: usize = 1 << 15;

    /// Writes to a new file of this name. `tracks` are what [`Lead::trace`](crate::shard::Lead)
    /// gave. What comes back beside it notes the lives of requests.
    pub fn create(path: &Path, tracks: Vec<[Track; 2]>) -> io::Result<(Timeline, Tracer)> {
        let (tracer, requests) = track(LIVES);
        let script = Script::new(tracks.len());
        Ok((Timeline { sink: Sink::create(path)?, tracks, requests, script }, tracer))
    }

    /// Writes until it is told to stop, and then what is left.
    pub async fn run(mut self, stop: Rc<Cell<bool>>) -> io::Result<()> {
        loop {
            // Asked first, so that what was noted before it was set is written.
            let last = stop.get();
            while self.gather() {
                let text = std::mem::take(&mut self.script.text);
                self.sink.write(text.into_bytes()).await?;
            }
            if last {
                return self.sink.write(self.script.end().into_bytes()).await;
            }
            sleep(OFTEN).await;
        }
    }

    /// Turns what waits into text, to a bound. `false`: there was nothing.
    fn gather(&mut self) -> bool {
        let Timeline { tracks, requests, script, .. } = self;
        for (shard, [stages, reads]) in tracks.iter_mut().enumerate() {
            while script.text.len() < PIECE
                && let Some(span) = stages.pop()
            {
                script.span(shard, &span);
            }
            while script.text.len() < PIECE
                && let Some(span) = reads.pop()
            {
                script.span(shard, &span);
            }
        }
        while script.text.len() < PIECE
            && let Some(span) = requests.pop()
        {
            script.span(0, &span);
        }
        !script.text.is_empty()
    }
}

/// Spans as text.
struct Script {
    text: String,
    origin: Instant,
    /// By shard: until when each of its tracks of reads is taken.
    lanes: Vec<Vec<Instant>>,
}

impl Script {
    fn new(shards: usize) -> Script {
        let mut script = Script {
            text: "[\n".into(),
            origin: Instant::now(),
            lanes: (0..shards).map(|_| Vec::new()).collect(),
        };
        let name = r#"{"ph":"M","pid":1,"name":"process_name","args":{"name":"penstock"}},"#;
        script.text.push_str(name);
        script.text.push('\n');
        (0..shards).for_each(|shard| script.track(shard, &format!("shard {shard}")));
        script
    }

    /// The closing bracket, behind an event that has no comma after it.
    fn end(&self) -> String {
        let at = self.micros(Instant::now());
        format!(r#"{{"ph":"i","pid":1,"tid":0,"ts":{at},"s":"g","name":"end"}}"#) + "\n]\n"
    }

    fn track(&mut self, number: usize, name: &str) {
        for (what, argument) in [
            ("thread_name", format!(r#""name":"{name}""#)),
            ("thread_sort_index", format!(r#""sort_index":{number}"#)),
        ] {
            self.line(format_args!(
                r#"{{"ph":"M","pid":1,"tid":{number},"name":"{what}","args":{{{argument}}}}}"#
            ));
        }
    }

    fn line(&mut self, event: std::fmt::Arguments) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(event);
        self.text.push_str(",\n");
    }

    /// Microseconds since the beginning.
    fn micros(&self, time: Instant) -> Micros {
        Micros(time.saturating_duration_since(self.origin).as_nanos() as u64)
    }

    fn span(&mut self, shard: usize, span: &Span) {
        let Span { what, begin, end } = *span;
        let (at, taken) = (self.micros(begin), Micros((end - begin).as_nanos() as u64));
        let mut slice = |name: &str, args: std::fmt::Arguments| {
            let when = format_args!(r#""tid":{shard},"ts":{at},"dur":{taken}"#);
            self.line(format_args!(
                r#"{{"ph":"X","pid":1,{when},"name":"{name}","args":{{{args}}}}}"#
            ));
        };
        match what {
            What::Step { number, rows } => {
                slice("step", format_args!(r#""number":{number},"rows":{rows}"#));
            }
            What::Stage { name, layer: NO_LAYER, waited } => {
                slice(name, format_args!(r#""waited_us":{}"#, Micros(waited.into())));
            }
            What::Stage { name, layer, waited } => {
                let waited = Micros(waited.into());
                slice(name, format_args!(r#""layer":{layer},"waited_us":{waited}"#));
            }
            What::Wait { layer } => slice("wait for disk", format_args!(r#""layer":{layer}"#)),
            What::Breath => slice("breath", format_args!("")),
            What::Read { ticket, bytes, urgency } => {
                let tid = self.lane(shard, begin, end);
                let args = format_args!(
                    r#""ticket":{ticket},"bytes":{bytes},"urgency":"{urgency}""#
                );
                self.line(format_args!(
                    r#"{{"ph":"X","pid":1,"tid":{tid},"ts":{at},"dur":{taken},"name":"read {urgency}","args":{{{args}}}}}"#
                ));
            }
            What::Request { id, part } => {
                for (phase, at) in [("b", at), ("e", self.micros(end))] {
                    self.line(format_args!(
                        r#"{{"ph":"{phase}","cat":"request","id":{id},"pid":1,"tid":0,"ts":{at},"name":"{part}"}}"#
                    ));
                }
            }
            What::Lost(count) => self.line(format_args!(
                r#"{{"ph":"i","pid":1,"tid":{shard},"ts":{at},"s":"t","name":"{count} spans lost"}}"#
            )),
        }
    }

    /// A track of the shard's reads that is free for this one. Reads come in the order in which
    /// they ended, so one that ended before this began is over.
    fn lane(&mut self, shard: usize, begin: Instant, end: Instant) -> usize {
        let lanes = &mut self.lanes[shard];
        let first = READS * (shard + 1);
        if let Some(at) = lanes.iter().position(|&until| until <= begin) {
            lanes[at] = end;
            return first + at;
        }
        let at = lanes.len();
        lanes.push(end);
        self.track(first + at, &format!("shard {shard} reads {at}"));
        first + at
    }
}

/// Nanoseconds, printed as microseconds.
#[derive(Clone, Copy)]
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests;
