//! Few tokens: codes are unpacked in registers, again for each group of tokens.
//!
//! One token or two are done with a segment soon after it came, and get most of a plain read's
//! bandwidth by a load of each of its lines, in order, before the multiplying. Where there is time
//! meanwhile, other lines are fetched: those some way ahead to the second level of cache, the next
//! segment's to the first.

use std::ops::Range;

use super::super::columns::Columns;
use super::super::simd::Simd;
use super::ahead::{Ahead, LINE, Route, fetch_far, lines};
use super::dots::{Act, Direct};
use super::lanes::LaneCodes;
use super::{At, Product, group};
use crate::base::limits::{SEGMENT, SUPER_BLOCK};

/// Tokens that are multiplied at a time, with 32 registers and with 16.
const GROUP: [usize; 2] = [6, 2];
/// Tokens that go through the panels together, in groups.
const TOGETHER: usize = 3 * GROUP[0];
/// Segments of tokens that are made ready at once. As many segments as there is room for are walked
/// in a row, because memory likes long walks: a whole panel's by one token, if it is no longer than
/// most are.
const ROOM: usize = 48;
/// Bytes by which fetching is ahead of multiplying.
const AHEAD: usize = 16 << 10;

const _: () = assert!(TOGETHER <= ROOM);

#[inline(always)]
pub(super) fn multiply<S: Simd, F: LaneCodes>(s: S, product: Product, out: &mut Columns) {
    let count = product.tokens.len();
    let parts = count.div_ceil(TOGETHER);
    for part in 0..parts {
        let range = count * part / parts..count * (part + 1) / parts;
        together::<S, F>(s, product, range, out);
    }
}

#[inline(always)]
fn together<S: Simd, F: LaneCodes>(s: S, product: Product, range: Range<usize>, out: &mut Columns) {
    let (w, count) = (product.w, range.len());
    let mut out = out.some(range.clone());
    let mut acts = [const { Act::EMPTY }; ROOM];
    let route = Route::new(w, ROOM / count);
    let (mut near, mut far) = (route, route);
    near.next();
    // Measured: one token gains a twentieth in formats that leave time for it; with Q8_0, whose
    // codes need no unpacking, it loses a fifth.
    let fetches = count > 1 || F::LEN == SUPER_BLOCK;
    if fetches {
        for _ in 0..AHEAD.div_ceil(route.bytes) {
            lines(far.next(), route.bytes).for_each(fetch_far);
        }
    }
    for k0 in (0..w.cols()).step_by(route.width * SEGMENT) {
        let lap = (k0..w.cols().min(k0 + route.width * SEGMENT)).step_by(SEGMENT);
        for (acts, k0) in acts.chunks_exact_mut(count).zip(lap.clone()) {
            for (act, i) in acts.iter_mut().zip(range.clone()) {
                product.set::<S, F>(s, act, i, k0);
            }
        }
        for panel in 0..w.count() {
            for (acts, k0) in acts.chunks_exact(count).zip(lap.clone()) {
                let segment = w.segment(panel, k0);
                let mut ahead = Ahead::NOTHING;
                if fetches {
                    ahead.far = Some(far.next());
                    let next = near.next();
                    // Measured: two tokens gain an eighth with most formats. Where codes take long
                    // to unpack, few tokens lose.
                    if count > 4 || !F::HALVES {
                        ahead.near = Some(next);
                    }
                }
                if count <= 2 {
                    segment.bytes.iter().step_by(LINE).for_each(|byte| s.touch(byte));
                }
                let at = At { panel, k0, blocks: segment.blocks };
                groups(s, Direct::<F>::new(segment), acts, at, ahead, &mut out);
            }
        }
    }
}

/// All tokens, in groups as even as can be. The first fetches what is ahead.
#[inline(always)]
fn groups<S: Simd, F: LaneCodes>(
    s: S,
    from: Direct<F>,
    acts: &[Act],
    at: At,
    mut ahead: Ahead,
    out: &mut Columns,
) {
    let most = GROUP[if S::WIDE { 0 } else { 1 }];
    let mut first = 0;
    while first < acts.len() {
        let left = acts.len() - first;
        let range = first..first + left.div_ceil(left.div_ceil(most));
        macro_rules! group_of {
            ($T:literal) => {{
                let acts = acts[first..].first_chunk().expect("so many tokens");
                group::<S, F, _, 1, $T>(s, [from], acts, range.clone(), at, ahead, out)
            }};
        }
        match range.len() {
            6 if S::WIDE => group_of!(6),
            5 if S::WIDE => group_of!(5),
            4 if S::WIDE => group_of!(4),
            3 if S::WIDE => group_of!(3),
            2 => group_of!(2),
            _ => group_of!(1),
        }
        ahead = Ahead::NOTHING;
        first = range.end;
    }
}
