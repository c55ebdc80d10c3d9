//! Many tokens: a segment's codes are unpacked into a tile once for all of them.

use std::ops::Range;

use super::super::columns::Columns;
use super::super::simd::Simd;
use super::ahead::{Ahead, LINE, fetch_far, lines};
use super::dots::{Act, Source, Unpacked};
use super::lanes::LaneCodes;
use super::tile::Tile;
use super::{At, Product, group};
use crate::base::limits::{PANEL_ROWS, SEGMENT};

/// Tokens in a group.
const GROUP: usize = 4;
/// Tokens that go through the panels together, at most.
const TOGETHER: usize = 256;
/// Lanes of two panels.
const PAIR: usize = 2 * PANEL_ROWS;

// A group is filled, also where tokens are cut in halves.
const _: () = assert!(super::MANY[0] >= GROUP && super::MANY[1] >= GROUP && TOGETHER > GROUP);

#[inline(always)]
pub(super) fn multiply<S: Simd, F: LaneCodes>(s: S, product: Product, out: &mut Columns) {
    let w = product.w;
    let mut tiles = [const { Tile::new() }; 2];
    // The rows of the result lie so far apart that caches keep few of them, so sums over the
    // segments are made here.
    let mut sums = [0.0; TOGETHER * PAIR];
    let count = product.tokens.len();
    let parts = count.div_ceil(TOGETHER);
    for part in 0..parts {
        let range = count * part / parts..count * (part + 1) / parts;
        let mut sums = Columns::whole(&mut sums[..range.len() * PAIR], PAIR);
        for p0 in (0..w.count()).step_by(2) {
            let count = (w.count() - p0).min(2);
            for k0 in (0..w.cols()).step_by(SEGMENT) {
                for (p, tile) in tiles[..count].iter_mut().enumerate() {
                    tile.fill::<S, F>(s, w.segment(p0 + p, k0));
                }
                let at = At { panel: 0, k0, blocks: SEGMENT.min(w.cols() - k0) / F::LEN };
                if S::WIDE && count == 2 {
                    let from = [Unpacked::<F>::new(&tiles[0]), Unpacked::<F>::new(&tiles[1])];
                    all::<S, F, _, 2>(s, product, range.clone(), from, p0, at, &mut sums);
                    continue;
                }
                for (p, tile) in tiles[..count].iter().enumerate() {
                    let (from, at) = ([Unpacked::<F>::new(tile)], At { panel: p, ..at });
                    all::<S, F, _, 1>(s, product, range.clone(), from, p0 + p, at, &mut sums);
                }
            }
            for (i, j) in range.clone().enumerate() {
                let row = &mut out.row(j)[p0 * PANEL_ROWS..];
                let len = row.len().min(PAIR);
                row[..len].copy_from_slice(&sums.row(i)[..len]);
            }
        }
    }
}

/// All tokens of a range. The last group takes up some of the one before once more, which is
/// cheaper than smaller groups. Between groups, what will be unpacked next is fetched.
#[inline(always)]
fn all<S: Simd, F: LaneCodes, W: Source<S>, const P: usize>(
    s: S,
    product: Product,
    range: Range<usize>,
    from: [W; P],
    panel: usize,
    at: At,
    sums: &mut Columns,
) {
    let w = product.w;
    // After the last of these panels lie those that will most likely be next.
    let first = w.segment(panel, 0).bytes;
    let (start, bytes) = (first.as_ptr(), first.len());
    let skip = match at.k0 + SEGMENT < w.cols() {
        true => (at.k0 / SEGMENT + 1) * bytes,
        false => 2 * w.panel_bytes(),
    };
    let next = (0..P).map(|p| start.wrapping_add(p * w.panel_bytes() + skip));
    let mut next = next.flat_map(|start| lines(start, bytes));
    let count = range.len();
    let each = (P * bytes).div_ceil(LINE).div_ceil(count.div_ceil(GROUP));
    for i in (0..count).step_by(GROUP) {
        next.by_ref().take(each).for_each(fetch_far);
        let end = count.min(i + GROUP);
        let mut acts = [const { Act::EMPTY }; GROUP];
        for (act, i) in acts.iter_mut().zip(end - GROUP..end) {
            product.set::<S, F>(s, act, range.start + i, at.k0);
        }
        group::<S, F, W, P, GROUP>(s, from, &acts, i..end, at, Ahead::NOTHING, sums);
    }
}
