//! Float weights: a column of a panel is a vector, and each lane one chain of additions.

// Several arrays are walked by one index, over ranges that the compiler unrolls.
#![allow(clippy::needless_range_loop)]

use super::super::activations::{Activations, Tokens};
use super::super::columns::Columns;
use super::super::float::Float;
use super::super::panels::Panels;
use super::super::simd::Simd;
use super::add_panel;
use crate::base::limits::{LANES, PANEL_ROWS, SEGMENT};

/// Panels that are read side by side.
const STREAMS: usize = 4;

#[inline(always)]
pub(in super::super) fn floats<S: Simd, F: Float>(
    s: S,
    w: &Panels,
    x: &Activations,
    tokens: Tokens,
    out: &mut Columns,
) {
    for p0 in (0..w.count()).step_by(STREAMS) {
        let panels = p0..w.count().min(p0 + STREAMS);
        for k0 in (0..w.cols()).step_by(SEGMENT) {
            let mut i = 0;
            if S::WIDE {
                i = groups::<S, F, 2, 4>(s, w, x, tokens, i, panels.clone(), k0, out);
                i = groups::<S, F, 4, 2>(s, w, x, tokens, i, panels.clone(), k0, out);
            } else {
                i = groups::<S, F, 1, 4>(s, w, x, tokens, i, panels.clone(), k0, out);
                i = groups::<S, F, 2, 2>(s, w, x, tokens, i, panels.clone(), k0, out);
            }
            groups::<S, F, 4, 1>(s, w, x, tokens, i, panels.clone(), k0, out);
        }
    }
}

/// Tokens `i..` in groups of `T`, as long as there are enough, by `P` panels of the segment at
/// `k0` and then by one; returns the first token that is left.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn groups<S: Simd, F: Float, const P: usize, const T: usize>(
    s: S,
    w: &Panels,
    x: &Activations,
    tokens: Tokens,
    mut i: usize,
    panels: std::ops::Range<usize>,
    k0: usize,
    out: &mut Columns,
) -> usize {
    while i + T <= tokens.len() {
        let mut p = panels.start;
        while p + P <= panels.end {
            group::<S, F, P, T>(s, w, x, tokens, i, p, k0, out);
            p += P;
        }
        while p < panels.end {
            group::<S, F, 1, T>(s, w, x, tokens, i, p, k0, out);
            p += 1;
        }
        i += T;
    }
    i
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn group<S: Simd, F: Float, const P: usize, const T: usize>(
    s: S,
    w: &Panels,
    x: &Activations,
    tokens: Tokens,
    i: usize,
    panel: usize,
    k0: usize,
    out: &mut Columns,
) {
    let len = SEGMENT.min(w.cols() - k0);
    let mut columns: [&[F::Column]; P] = [&[]; P];
    for p in 0..P {
        columns[p] = &F::columns(w.segment(panel + p, k0).bytes)[..len];
    }
    let mut values: [&[f32]; T] = [&[]; T];
    for t in 0..T {
        values[t] = &x.token(tokens.at(i + t))[k0..k0 + len];
    }
    let mut acc = [[s.splat(0.0); T]; P];
    if w.has_scales() {
        let mut k = 0;
        while k < len {
            let end = (w.scales_end(k0 + k) - k0).min(len);
            let mut scales = [s.splat(1.0); P];
            for p in 0..P {
                let mut lanes = [0.0; LANES];
                let row = (panel + p) * PANEL_ROWS;
                for (r, lane) in (row..w.rows()).zip(&mut lanes) {
                    *lane = w.scale(r, k0 + k);
                }
                scales[p] = s.load(&lanes);
            }
            for k in k..end {
                for p in 0..P {
                    let w = s.mul(F::widen(s, &columns[p][k]), scales[p]);
                    for t in 0..T {
                        acc[p][t] = s.fma(w, s.splat(values[t][k]), acc[p][t]);
                    }
                }
            }
            k = end;
        }
    } else {
        for k in 0..len {
            for p in 0..P {
                let w = F::widen(s, &columns[p][k]);
                for t in 0..T {
                    acc[p][t] = s.fma(w, s.splat(values[t][k]), acc[p][t]);
                }
            }
        }
    }
    for t in 0..T {
        let row = out.row(i + t);
        for p in 0..P {
            add_panel(s, acc[p][t], k0 == 0, row, panel + p);
        }
    }
}
