//! Products of matrices and activations.

use super::*;
use crate::math::{
    Activations, BlockScales, Columns, Forms, Matrix, Panels, Shares, dequantise, pack,
};

struct Case {
    format: Format,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    /// The same in panels.
    packed: Vec<u8>,
    scales: Option<(Vec<f32>, usize, usize)>,
}

fn packed(matrix: &Matrix) -> Vec<u8> {
    let len = Panels::bytes(matrix.format(), matrix.rows(), matrix.cols()).unwrap();
    let mut packed = vec![0xee; len];
    pack(matrix, 0..matrix.rows().div_ceil(16), &mut packed);
    packed
}

impl Case {
    fn new(rng: &mut Rng, format: Format, rows: usize, cols: usize) -> Self {
        let bytes = (0..rows).flat_map(|_| rng.blocks(format, cols)).collect();
        let scales = (format == Format::F8E4M3 && rng.below(3) > 0).then(|| {
            let (r, c) = [(128, 128), (3, 7), (16, 100)][rng.below(3)];
            (rng.floats(rows.div_ceil(r) * cols.div_ceil(c)), r, c)
        });
        let mut case = Case { format, rows, cols, bytes, packed: Vec::new(), scales };
        case.pack();
        case
    }

    fn pack(&mut self) {
        let matrix = Matrix::new(self.format, self.rows, self.cols, &self.bytes).unwrap();
        self.packed = packed(&matrix);
    }

    fn panels(&self) -> Panels<'_> {
        let panels = Panels::new(self.format, self.rows, self.cols, &self.packed).unwrap();
        match &self.scales {
            None => panels,
            Some((values, block_rows, block_cols)) => {
                let (block_rows, block_cols) = (*block_rows, *block_cols);
                let scales = BlockScales { values, block_rows, block_cols };
                panels.with_scales(scales, self.rows, 0).unwrap()
            }
        }
    }

    fn activations(&self, kernels: &Kernels, x: &[f32]) -> Activations {
        let mut activations = Activations::new();
        activations.copy_from(self.cols, x);
        activations.prepare(kernels, self.format);
        activations
    }

    fn product(&self, kernels: &Kernels, x: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / self.cols * self.rows];
        let activations = self.activations(kernels, x);
        let mut columns = Columns::whole(&mut out, self.rows);
        kernels.linear(&self.panels(), &activations, None, &mut columns);
        out
    }

    /// The weights in f64: what a matrix means, without the order of any addition.
    fn weights(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.rows * self.cols];
        assert!(dequantise(self.format, &self.bytes, &mut out));
        let scaled = out.iter().enumerate().map(|(i, w)| match &self.scales {
            None => *w as f64,
            Some((values, br, bc)) => {
                let (r, k) = (i / self.cols, i % self.cols);
                (w * values[r / br * self.cols.div_ceil(*bc) + k / bc]) as f64
            }
        });
        scaled.collect()
    }
}

fn cases(rng: &mut Rng) -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::ALL {
        let block = format.block();
        let widths: &[usize] = match block {
            1 => &[1, 7, 16, 130, 511, 512, 513, 1153],
            32 => &[1, 15, 16, 17, 37],
            _ => &[1, 2, 3, 5],
        };
        for (i, width) in widths.iter().enumerate() {
            let rows = [1, 16, 39, 17, 5, 33, 65, 130][(i + format as usize) % 8];
            cases.push(Case::new(rng, format, rows, width * block));
        }
    }
    cases
}

#[test]
fn every_instruction_set_equals_the_oracle() {
    let mut rng = Rng(1);
    for case in cases(&mut rng) {
        // Up to 19, every way that tokens are grouped.
        let x = rng.wild(19 * case.cols);
        let want = case.product(&oracle(), &x);
        for tokens in 1..=19 {
            let (x, want) = (&x[..tokens * case.cols], &want[..tokens * case.rows]);
            for kernels in vectors() {
                let (isa, format, rows, cols) = (kernels.isa(), case.format, case.rows, case.cols);
                let what = format!("{isa}: {format} {rows} × {cols}, {tokens} tokens");
                same_bits(&case.product(&kernels, x), want, &what);
            }
        }
    }
}

/// Cut as the chunks of a stage cut it: any part of the panels, any columns of the result.
#[test]
fn parts_of_a_matrix_are_parts_of_the_result() {
    let mut rng = Rng(9);
    for case in cases(&mut rng) {
        let x = rng.wild(7 * case.cols);
        let want = case.product(&oracle(), &x);
        for kernels in vectors().into_iter().chain([oracle()]) {
            let activations = case.activations(&kernels, &x);
            for run in 1..=5 {
                let mut out = vec![f32::NAN; want.len()];
                let shares = Shares::by_columns(&mut out, case.rows, run * 16);
                for i in (0..shares.parts()).rev() {
                    let panels = case.panels();
                    let part = panels.part(i * run..panels.count().min((i + 1) * run));
                    kernels.linear(&part, &activations, None, &mut shares.take(i));
                }
                same_bits(&out, &want, case.format.name());
            }
        }
    }
}

#[test]
fn many_tokens_equal_one_by_one_and_any_choice_of_them() {
    let mut rng = Rng(2);
    for format in Format::ALL {
        let case = Case::new(&mut rng, format, 70, 768);
        let x = rng.wild(150 * case.cols);
        for kernels in vectors() {
            let all = case.product(&kernels, &x);
            for (token, x) in x.chunks(case.cols).enumerate() {
                let alone = case.product(&kernels, x);
                same_bits(&all[token * case.rows..][..case.rows], &alone, format.name());
            }
            let mut activations = Activations::new();
            activations.copy_from(case.cols, &x);
            activations.prepare(&kernels, format);
            let chosen = [149, 3, 3, 77, 0, 12, 64];
            for n in 1..=chosen.len() {
                let chosen = &chosen[..n];
                let mut out = vec![0.0; n * case.rows];
                let mut columns = Columns::whole(&mut out, case.rows);
                kernels.linear(&case.panels(), &activations, Some(chosen), &mut columns);
                for (out, token) in out.chunks(case.rows).zip(chosen) {
                    let want = &all[*token as usize * case.rows..][..case.rows];
                    same_bits(out, want, format.name());
                }
            }
        }
    }
}

/// On both sides of every number at which tokens are led through the panels in another way, an odd
/// panel and a short segment among them.
#[test]
fn however_many_tokens_there_are_the_bits_are_the_oracles() {
    let counts = [7, 8, 9, 18, 19, 36, 37, 39, 40, 41, 42, 43, 255, 256, 257, 258, 515];
    let mut rng = Rng(12);
    for format in Format::ALL {
        let case = Case::new(&mut rng, format, 70, 768);
        let x = rng.wild(515 * case.cols);
        let want = case.product(&oracle(), &x);
        for tokens in counts {
            let (x, want) = (&x[..tokens * case.cols], &want[..tokens * case.rows]);
            for kernels in vectors() {
                let what = format!("{}: {format}, {tokens} tokens", kernels.isa());
                same_bits(&case.product(&kernels, x), want, &what);
            }
        }
    }
}

/// The distance from f64 stays below what rounding can explain: for each block the activations'
/// half step, and one rounding for each float operation of the chain.
#[test]
fn products_are_close_to_f64() {
    let mut rng = Rng(3);
    for case in cases(&mut rng) {
        let x = rng.floats(2 * case.cols);
        let weights = case.weights();
        let got = case.product(&oracle(), &x);
        for (token, x) in x.chunks(case.cols).enumerate() {
            for (r, w) in weights.chunks(case.cols).enumerate() {
                let want: f64 = w.iter().zip(x).map(|(w, x)| w * *x as f64).sum();
                let size: f64 = w.iter().zip(x).map(|(w, x)| (w * *x as f64).abs()).sum();
                let mut bound = 0.0;
                if let Some(block) = case.format.activation_block() {
                    for (w, x) in w.chunks(block).zip(x.chunks(block)) {
                        let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) as f64;
                        let norm: f64 = w.iter().map(|w| w.abs()).sum();
                        bound += norm * amax * (0.5 / 127.0 + 1e-6);
                        // With a minimum, code and minimum are each larger than their difference.
                        let top = w.iter().fold(0.0f64, |m, w| m.max(w.abs()));
                        bound += 1e-6 * 4.0 * top * amax * block as f64;
                    }
                }
                bound += size * (case.cols + 4) as f64 * 2f64.powi(-24) + 1e-37;
                let error = (got[token * case.rows + r] as f64 - want).abs();
                let Case { format, rows, cols, .. } = case;
                assert!(error <= bound, "{format} {rows} × {cols}: {error:e} above {bound:e}");
            }
        }
    }
}

#[test]
fn activations_are_quantised_by_the_contract() {
    let mut rng = Rng(4);
    let mut x = rng.wild(1024);
    x[256..512].fill(0.0);
    x[512..768].iter_mut().for_each(|x| *x *= 1e-44);
    x[700] = -1.5;
    x[768..].iter_mut().for_each(|x| *x = x.signum() * f32::from_bits(3));
    x[800] = 0.0;
    for (format, block) in [(Format::Q8_0, 32), (Format::Q4K, 256)] {
        let mut want = Activations::new();
        want.copy_from(1024, &x);
        want.prepare(&oracle(), format);
        let want = want.quantised(format);
        let code = |i: usize| want.codes[i] as i32;
        for (b, x) in x.chunks(block).enumerate() {
            let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert_eq!(want.scales[b], amax / 127.0);
            for (j, x) in x.iter().enumerate() {
                let q = code(b * block + j);
                assert!(q.abs() <= 127);
                if amax > 1e-30 {
                    let error = (q as f64 * amax as f64 / 127.0 - *x as f64).abs();
                    assert!(error <= amax as f64 / 127.0 * 0.500_01, "{x} became {q}");
                } else {
                    assert_eq!(q, if *x == 0.0 { 0 } else { 127 * x.signum() as i32 });
                }
            }
        }
        for (i, pair) in want.sums.iter().enumerate() {
            let sum = |half: usize| (0..16).map(|j| code(32 * i + 16 * half + j)).sum::<i32>();
            assert_eq!((*pair as i16 as i32, pair >> 16), (sum(0), sum(1)));
        }
        for kernels in vectors() {
            let mut got = Activations::new();
            got.copy_from(1024, &x);
            got.prepare(&kernels, format);
            let got = got.quantised(format);
            assert_eq!((&got.codes, &got.sums), (&want.codes, &want.sums), "{}", kernels.isa());
            same_bits(&got.scales, &want.scales, "scales");
        }
    }
}

/// The largest bytes and scales of both signs against the largest activations: a sum that
/// saturated or overflowed anywhere would differ.
#[test]
fn extreme_codes_and_activations_stay_exact() {
    for format in Format::ALL.into_iter().filter(|format| format.block() > 1) {
        for fill in [0x00, 0x7f, 0x80, 0x81, 0x0f, 0xf0, 0xff] {
            let mut case = Case::new(&mut Rng(8), format, 5, 512);
            let scales = case.bytes.clone();
            case.bytes.fill(fill);
            // Where all bits are one a scale would be NaN and hide the sum.
            let ats: &[usize] = match format {
                Format::MXFP4 => &[0],
                Format::Q2K => &[80, 81, 82, 83],
                Format::Q3K => &[108, 109],
                Format::Q6K => &[208, 209],
                Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 1, 2, 3],
                _ => &[0, 1],
            };
            for at in (0..case.bytes.len()).step_by(format.block_bytes()) {
                for i in ats {
                    case.bytes[at + i] = scales[at + i];
                }
            }
            case.pack();
            for period in [1, 2, 16, 512] {
                let sign = |i: usize| if (i / period).is_multiple_of(2) { 1.0 } else { -1.0 };
                let x: Vec<f32> = (0..2 * 512).map(sign).collect();
                let want = case.product(&oracle(), &x);
                assert!(want.iter().all(|y| y.is_finite()));
                for kernels in vectors() {
                    let what = format!("{}: {format} of {fill:#x}, {period}", kernels.isa());
                    same_bits(&case.product(&kernels, &x), &want, &what);
                }
            }
        }
    }
}

#[test]
fn a_nan_activation_is_not_swallowed() {
    let mut x = vec![1.0; 256];
    x[77] = f32::NAN;
    let case = Case::new(&mut Rng(5), Format::Q4K, 3, 256);
    for kernels in vectors().into_iter().chain([oracle()]) {
        assert!(case.product(&kernels, &x).iter().all(|y| y.is_nan()), "{}", kernels.isa());
    }
}

#[test]
fn changed_values_must_be_prepared_again() {
    let case = Case::new(&mut Rng(6), Format::Q8_0, 3, 64);
    let mut x = Activations::new();
    x.copy_from(64, &[1.0; 64]);
    x.prepare(&oracle(), Format::Q8_0);
    x.values_mut()[0] = 2.0;
    let stale = std::panic::catch_unwind(move || {
        oracle().linear(&case.panels(), &x, None, &mut Columns::whole(&mut [0.0; 3], 3));
    });
    assert!(stale.is_err());
}

#[test]
fn a_stride_skips_what_lies_between_the_rows() {
    let mut rng = Rng(7);
    let rows: Vec<Vec<u8>> = (0..5).map(|_| rng.blocks(Format::Q6K, 256)).collect();
    let tight = rows.concat();
    let mut wide = rows.iter().flat_map(|row| [&row[..], &[0xff; 6]].concat()).collect::<Vec<_>>();
    wide.truncate(wide.len() - 6);
    let matrix = Matrix::new(Format::Q6K, 5, 256, &tight).unwrap();
    let with_stride = Matrix::with_stride(Format::Q6K, 5, 256, 216, &wide).unwrap();
    assert!(packed(&matrix) == packed(&with_stride));
}

/// Parts that are filled and finished by several threads are what one prepares.
#[test]
fn split_activations_equal_prepared_ones() {
    let mut rng = Rng(10);
    for kernels in vectors().into_iter().chain([oracle()]) {
        let mut x = Activations::new();
        for (tokens, rows) in [(7, 2), (3, 5), (1, 1), (8, 8)] {
            let values = rng.wild(tokens * 512);
            let forms = Forms::of(Format::Q4K) | Forms::of(Format::Q8_0);
            x.reset(tokens, 512, forms);
            assert_eq!(x.forms(), forms);
            let parts = x.split(rows);
            std::thread::scope(|scope| {
                for i in 0..parts.parts() {
                    let (parts, values) = (&parts, &values);
                    scope.spawn(move || {
                        let mut part = parts.take(i);
                        for j in 0..part.tokens() {
                            let from = &values[(i * rows + j) * 512..][..512];
                            part.row_mut(j).copy_from_slice(from);
                        }
                        part.finish(&kernels);
                    });
                }
            });
            assert_eq!(x.values(), values);
            for format in [Format::Q4K, Format::Q8_0] {
                let mut want = Activations::new();
                want.copy_from(512, &values);
                want.prepare(&kernels, format);
                let (want, got) = (want.quantised(format), x.quantised(format));
                assert!(got.codes == want.codes && got.sums == want.sums);
                same_bits(&got.scales, &want.scales, "scales");
            }
        }
    }
}

#[test]
fn a_split_is_ready_when_all_parts_are_finished() {
    let kernels = oracle();
    let mut x = Activations::new();
    x.reset(4, 32, Forms::of(Format::Q8_0)).fill(1.0);
    let parts = x.split(3);
    parts.take(1).finish(&kernels);
    assert!(std::panic::catch_unwind(|| x.quantised(Format::Q8_0).codes.len()).is_err());
    x.split(4).take(0).finish(&kernels);
    assert_eq!(x.quantised(Format::Q8_0).codes, [127; 128]);
    x.values_mut()[0] = 2.0;
    assert!(std::panic::catch_unwind(|| x.quantised(Format::Q8_0).codes.len()).is_err());
}
