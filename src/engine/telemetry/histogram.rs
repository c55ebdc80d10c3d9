//! Histograms that can be told exactly at fixed bounds.
//!
//! hdrhistogram keeps values in cells that grow with them, a thousandth wide. A bound that lies in
//! the middle of a cell could only be guessed at, so all bounds here are the ends of cells: powers
//! of two, and half of one more, times a number that fits. What is counted at a bound is then what
//! was recorded, no more and no less.

use std::time::Duration;

use hdrhistogram::Histogram as Cells;

/// Powers of two times the base, and one and a half of each but the last.
const fn bounds<const N: usize>(base: u64) -> [u64; N] {
    let mut bounds = [0; N];
    let mut i = 0;
    while i < N {
        let whole = base << (i / 2);
        bounds[i] = if i % 2 == 0 { whole } else { whole / 2 * 3 };
        i += 1;
    }
    bounds
}

/// Of times, in microseconds: from 250 µs to 131 s.
const TIMES: [u64; 39] = bounds(250);
/// Of sizes: from 2 to 8192; 1 is put before them.
const SIZES: [u64; 25] = bounds(2);

/// Significant digits that cells keep apart: values below 2048 have a cell each, and every power of
/// two from there on has 1024 cells.
const DIGITS: u8 = 3;
const WHOLE: u32 = 11;

/// Whether the value before it, as which it is recorded, is the last of its cell.
const fn is_exact(bound: u64) -> bool {
    let octave = (bound - 1).ilog2();
    octave < WHOLE || bound.is_multiple_of(1 << (octave + 1 - WHOLE))
}

const _: () = {
    let mut i = 0;
    while i < TIMES.len() {
        assert!(is_exact(TIMES[i]));
        i += 1;
    }
    let mut i = 0;
    while i < SIZES.len() {
        assert!(is_exact(SIZES[i]));
        i += 1;
    }
};

/// Of times or of sizes.
pub struct Histogram {
    cells: Cells<u64>,
    /// Of what was recorded, in nanoseconds or as it is.
    sum: u128,
    of_times: bool,
}

/// What was recorded up to a bound, in seconds for times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub bound: f64,
    pub count: u64,
}

impl Histogram {
    pub fn of_times() -> Histogram {
        Histogram { cells: cells(TIMES[TIMES.len() - 1]), sum: 0, of_times: true }
    }

    pub fn of_sizes() -> Histogram {
        Histogram { cells: cells(SIZES[SIZES.len() - 1]), sum: 0, of_times: false }
    }

    pub fn time(&mut self, time: Duration) {
        debug_assert!(self.of_times);
        let nanos = time.as_nanos();
        self.sum += nanos;
        // A part of a microsecond is one more, for what is at a bound is within it.
        self.record(u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX));
    }

    pub fn size(&mut self, size: u64) {
        debug_assert!(!self.of_times);
        self.sum += u128::from(size);
        self.record(size);
    }

    /// As one less: cells end before a power of two, bounds are one.
    fn record(&mut self, value: u64) {
        self.cells.saturating_record(value.saturating_sub(1));
    }

    pub fn count(&self) -> u64 {
        self.cells.len()
    }

    /// In seconds, for times.
    pub fn sum(&self) -> f64 {
        match self.of_times {
            true => self.sum as f64 / 1e9,
            false => self.sum as f64,
        }
    }

    /// Ascending, each with all that is below it.
    pub fn buckets(&self) -> Vec<Bucket> {
        let (bounds, scale): (&[u64], f64) = match self.of_times {
            true => (&TIMES, 1e6),
            false => (&SIZES, 1.0),
        };
        let first = (!self.of_times).then_some(1);
        let mut recorded = self.cells.iter_recorded().peekable();
        let mut count = 0;
        let bucket = |bound: u64| {
            while let Some(cell) = recorded.next_if(|cell| cell.value_iterated_to() < bound) {
                count += cell.count_at_value();
            }
            Bucket { bound: bound as f64 / scale, count }
        };
        first.into_iter().chain(bounds.iter().copied()).map(bucket).collect()
    }
}

fn cells(most: u64) -> Cells<u64> {
    match Cells::new_with_bounds(1, most, DIGITS) {
        Ok(cells) => cells,
        Err(error) => unreachable!("the bounds are constants: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence that meets bounds often.
    fn values() -> impl Iterator<Item = u64> {
        let mut state = 88172645463325252u64;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
    }

    #[test]
    fn buckets_are_what_a_naive_count_says() {
        let mut times = Histogram::of_times();
        let mut nanos: Vec<u64> = values().take(20_000).map(|v| (v >> 20) >> (v % 44)).collect();
        for bound in TIMES {
            nanos.extend([bound * 1000 - 1, bound * 1000, bound * 1000 + 1]);
        }
        nanos.extend([0, 1, u64::MAX]);
        nanos.iter().for_each(|&n| times.time(Duration::from_nanos(n)));
        for (bucket, bound) in times.buckets().iter().zip(TIMES) {
            let naive = nanos.iter().filter(|&&n| n <= bound * 1000).count() as u64;
            assert_eq!(bucket.count, naive, "{bound} µs");
            assert_eq!(bucket.bound, bound as f64 / 1e6);
        }
        assert_eq!(times.count(), nanos.len() as u64);
        let sum: u128 = nanos.iter().map(|&n| u128::from(n)).sum();
        assert_eq!(times.sum(), sum as f64 / 1e9);
    }

    #[test]
    fn sizes_are_counted_as_well() {
        let mut sizes = Histogram::of_sizes();
        let all: Vec<u64> = (0..9000).chain([1, 1, 1, 1 << 40]).collect();
        all.iter().for_each(|&n| sizes.size(n));
        let buckets = sizes.buckets();
        assert_eq!(buckets.len(), SIZES.len() + 1);
        for Bucket { bound, count } in buckets {
            let naive = all.iter().filter(|&&n| n as f64 <= bound).count() as u64;
            assert_eq!(count, naive, "{bound}");
        }
        assert_eq!(sizes.count(), all.len() as u64);
    }

    #[test]
    fn what_was_never_recorded_is_nothing() {
        assert!(Histogram::of_times().buckets().iter().all(|bucket| bucket.count == 0));
        assert_eq!((Histogram::of_times().sum(), Histogram::of_sizes().count()), (0.0, 0));
    }
}
