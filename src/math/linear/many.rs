//! Many tokens: a segment's codes are unpacked into a tile once for all of them.

use super::super::columns::Columns;
use super::super::simd::Simd;
use super::ahead::{Ahead, LINE, fetch_far, lines};
use super::dots::{Act, Source, Unpacked};
use super::lanes::LaneCodes;
use super::tile::Tile;
use super::{At, Product, group};
use crate::base::limits::SEGMENT;

/// Tokens in a group.
const GROUP: usize = 4;

// A group is filled.
const _: () = assert!(super::MANY[0] >= GROUP && super::MANY[1] >= GROUP);

#[inline(always)]
pub(super) fn multiply<S: Simd, F: LaneCodes>(s: S, product: Product, out: &mut Columns) {
    let w = product.w;
    let mut tiles = [const { Tile::new() }; 2];
    for p0 in (0..w.count()).step_by(2) {
        let count = (w.count() - p0).min(2);
        for k0 in (0..w.cols()).step_by(SEGMENT) {
            for (p, tile) in tiles[..count].iter_mut().enumerate() {
                tile.fill::<S, F>(s, w.segment(p0 + p, k0));
            }
            let at = At { panel: p0, k0, blocks: SEGMENT.min(w.cols() - k0) / F::LEN };
            if S::WIDE && count == 2 {
                let from = [Unpacked::<F>::new(&tiles[0]), Unpacked::<F>::new(&tiles[1])];
                all::<S, F, _, 2>(s, product, from, at, out);
                continue;
            }
            for (p, tile) in tiles[..count].iter().enumerate() {
                let at = At { panel: p0 + p, ..at };
                all::<S, F, _, 1>(s, product, [Unpacked::<F>::new(tile)], at, out);
            }
        }
    }
}

/// All tokens. The last group takes up some of the one before once more, which is cheaper than
/// smaller groups. Between groups, what will be unpacked next is fetched.
#[inline(always)]
fn all<S: Simd, F: LaneCodes, W: Source<S>, const P: usize>(
    s: S,
    product: Product,
    from: [W; P],
    at: At,
    out: &mut Columns,
) {
    let Product { w, tokens, .. } = product;
    // After the last of these panels lie those that will most likely be next.
    let first = w.segment(at.panel, 0).bytes;
    let (start, bytes) = (first.as_ptr(), first.len());
    let skip = match at.k0 + SEGMENT < w.cols() {
        true => (at.k0 / SEGMENT + 1) * bytes,
        false => 2 * w.panel_bytes(),
    };
    let next = (0..P).map(|p| start.wrapping_add(p * w.panel_bytes() + skip));
    let mut next = next.flat_map(|start| lines(start, bytes));
    let each = (P * bytes).div_ceil(LINE).div_ceil(tokens.len().div_ceil(GROUP));
    for i in (0..tokens.len()).step_by(GROUP) {
        next.by_ref().take(each).for_each(fetch_far);
        let end = tokens.len().min(i + GROUP);
        let mut acts = [const { Act::EMPTY }; GROUP];
        for (act, i) in acts.iter_mut().zip(end - GROUP..end) {
            product.set::<S, F>(s, act, i, at.k0);
        }
        group::<S, F, W, P, GROUP>(s, from, &acts, i..end, at, Ahead::NOTHING, out);
    }
}
