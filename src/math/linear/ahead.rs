//! Fetching ahead of the multiplying.
//!
//! The fields of a segment are streams of their own, among which a processor's prefetching loses
//! its way: it gets 7 to 10 GB/s on a Zen 4 core, of some 28 that a plain read gets. So the kernels
//! say themselves what comes next.

use super::super::panels::Panels;
use super::lanes::LaneCodes;
use crate::base::limits::{PANEL_ROWS, SEGMENT, SMALL_BLOCK};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// What to fetch while a segment is multiplied: what lies as far from here as the columns that are
/// being multiplied are from the segment's first.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// To the second level.
    pub far: Option<*const u8>,
    /// To the first.
    pub near: Option<*const u8>,
}

impl Ahead {
    pub const NOTHING: Ahead = Ahead { far: None, near: None };

    /// The part that goes with a group of runs of 32 columns, of which `run` is the first.
    #[inline(always)]
    pub fn fetch<F: LaneCodes>(self, run: usize) {
        let bytes = PANEL_ROWS * F::FORMAT.block_bytes() * SMALL_BLOCK / F::LEN;
        let lines = (run * bytes..(run + F::GROUP) * bytes).step_by(LINE);
        if let Some(far) = self.far {
            lines.clone().for_each(|i| prefetch::<false>(far.wrapping_add(i)));
        }
        if let Some(near) = self.near {
            lines.for_each(|i| prefetch::<true>(near.wrapping_add(i)));
        }
    }
}

/// The lines of `bytes` from `start` on.
#[inline(always)]
pub(super) fn lines(start: *const u8, bytes: usize) -> impl Iterator<Item = *const u8> {
    (0..bytes).step_by(LINE).map(move |i| start.wrapping_add(i))
}

/// Asks for a line to be brought to the second level.
#[inline(always)]
pub(super) fn fetch_far(line: *const u8) {
    prefetch::<false>(line);
}

/// A hint that a line will be needed, to the first level of cache or to the second. The address
/// may be any.
#[inline(always)]
fn prefetch<const FIRST: bool>(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint reads nothing and does not fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match FIRST {
            true => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            false => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The way of a few tokens through a matrix: some segments of each panel, then the next ones. Says
/// where in memory each step of it begins; after the last, what lies behind the matrix.
#[derive(Clone, Copy)]
pub(super) struct Route {
    /// Where this step begins, the first one in its panel, and the first in its lap.
    step: *const u8,
    panel: *const u8,
    lap: *const u8,
    /// Steps that are left of the panel, panels that are left of the lap, segments that are left of
    /// a row.
    steps: usize,
    panels: usize,
    segments: usize,
    /// Segments of a panel in a lap, and panels.
    pub width: usize,
    count: usize,
    /// Bytes of a segment, and of a panel.
    pub bytes: usize,
    size: usize,
}

impl Route {
    /// Of at most `width` segments in a lap. The matrix has panels and columns.
    #[inline(always)]
    pub fn new(w: &Panels, width: usize) -> Route {
        let first = w.segment(0, 0).bytes;
        let (start, count, segments) = (first.as_ptr(), w.count(), w.cols().div_ceil(SEGMENT));
        let width = width.min(segments);
        Route {
            step: start,
            panel: start,
            lap: start,
            steps: width,
            panels: count,
            segments,
            width,
            count,
            bytes: first.len(),
            size: w.panel_bytes(),
        }
    }

    /// Goes on, and says where it was.
    #[inline(always)]
    pub fn next(&mut self) -> *const u8 {
        let step = self.step;
        self.step = step.wrapping_add(self.bytes);
        self.steps -= 1;
        if self.steps == 0 {
            self.panel = self.panel.wrapping_add(self.size);
            self.panels -= 1;
            if self.panels == 0 && self.segments > self.width {
                self.lap = self.lap.wrapping_add(self.width * self.bytes);
                (self.panel, self.panels) = (self.lap, self.count);
                self.segments -= self.width;
            } else if self.panels == 0 {
                self.panels = usize::MAX;
            }
            (self.step, self.steps) = (self.panel, self.width.min(self.segments));
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Format;

    #[test]
    fn a_route_goes_where_the_segments_are() {
        let (rows, cols) = (5 * PANEL_ROWS, 3 * SEGMENT + 256);
        for format in [Format::Q4K, Format::Q8_0] {
            let bytes = vec![0; Panels::bytes(format, rows, cols).unwrap()];
            let w = Panels::new(format, rows, cols, &bytes).unwrap();
            for width in 1..=5 {
                let mut route = Route::new(&w, width);
                let width = route.width;
                assert!(width <= 4);
                for k0 in (0..cols).step_by(width * SEGMENT) {
                    for p in 0..w.count() {
                        for k in (k0..cols.min(k0 + width * SEGMENT)).step_by(SEGMENT) {
                            assert_eq!(route.next(), w.segment(p, k).bytes.as_ptr(), "{p}, {k}");
                        }
                    }
                }
                let end = bytes.as_ptr_range().end;
                assert!((0..20).all(|_| route.next() >= end), "back in the matrix");
            }
        }
    }
}
