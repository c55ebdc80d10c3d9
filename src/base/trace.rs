//! Trace records: what took time on a shard, and from when to when.
//!
//! Each shard writes spans into a bounded ring of its own, and one reader on the lead turns them
//! into a timeline. A span is a small `Copy` value; writing one is a store. A ring that is full
//! loses spans, and says in itself how many once there is room again. A tracer that is off is one
//! branch that always goes the same way.

use std::time::Instant;

use rtrb::{Consumer, Producer, RingBuffer};

/// Outside of all layers.
pub const NO_LAYER: u16 = u16::MAX;

/// Something that took time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub what: What,
    pub begin: Instant,
    pub end: Instant,
}

/// What it was. Spans of one shard that are not `Read` or `Request` lie within each other or apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A batch went through all layers.
    Step { number: u64, rows: u32 },
    /// A stage: for the lead from its beginning to its end, `waited` nanoseconds of it for its
    /// mates; for a mate the part that it did itself.
    Stage { name: &'static str, layer: u16, waited: u32 },
    /// A step had nothing to compute before weights of this layer came.
    Wait { layer: u16 },
    /// The shard went through its reactor.
    Breath,
    /// A block came from disk, for the slab or matrix that the ticket names.
    Read { ticket: u64, bytes: u32, urgency: &'static str },
    /// A part of a request's life.
    Request { id: u64, part: &'static str },
    /// So many spans found no room here.
    Lost(u64),
}

// A span is to be a cache line at most.
const _: () = assert!(size_of::<Span>() <= 64);

/// The end that is written to.
#[derive(Default)]
pub struct Tracer {
    ring: Option<Producer<Span>>,
    lost: u64,
}

/// The end that is read.
pub struct Track {
    ring: Consumer<Span>,
}

/// A ring of so many spans.
pub fn track(room: usize) -> (Tracer, Track) {
    let (to, from) = RingBuffer::new(room);
    (Tracer { ring: Some(to), lost: 0 }, Track { ring: from })
}

impl Tracer {
    pub fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// Notes a span, if anybody wants to know.
    #[inline]
    pub fn note(&mut self, what: What, begin: Instant, end: Instant) {
        if let Some(ring) = &mut self.ring {
            push(ring, &mut self.lost, Span { what, begin, end });
        }
    }
}

#[cold]
fn push(ring: &mut Producer<Span>, lost: &mut u64, span: Span) {
    if *lost > 0 {
        let gap = Span { what: What::Lost(*lost), begin: span.begin, end: span.begin };
        if ring.push(gap).is_err() {
            *lost += 1;
            return;
        }
        *lost = 0;
    }
    if ring.push(span).is_err() {
        *lost += 1;
    }
}

impl Track {
    /// The span that was written first of those still there.
    pub fn pop(&mut self) -> Option<Span> {
        self.ring.pop().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_loses_spans_and_says_how_many() {
        let (mut tracer, mut track) = track(3);
        let now = Instant::now();
        let span = |number| What::Step { number, rows: 1 };
        (0..8).for_each(|number| tracer.note(span(number), now, now));
        let mut seen = || track.pop().map(|span| span.what);
        assert_eq!([seen(), seen()], [Some(span(0)), Some(span(1))]);
        tracer.note(span(8), now, now);
        assert_eq!([seen(), seen()], [Some(span(2)), Some(What::Lost(5))]);
        assert_eq!([seen(), seen()], [Some(span(8)), None]);
        tracer.note(span(9), now, now);
        assert_eq!([seen(), seen()], [Some(span(9)), None]);
    }

    #[test]
    fn nothing_is_noted_where_nobody_reads() {
        let mut tracer = Tracer::default();
        assert!(!tracer.is_on() && track(1).0.is_on());
        tracer.note(What::Breath, Instant::now(), Instant::now());
    }
}
