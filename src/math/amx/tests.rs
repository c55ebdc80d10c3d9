//! The whole kernel against naive sums: with emulated tiles on every host, with the processor's
//! own where it has them.

use super::operand::Plain;
use super::tiles::{Emulated, Quad};
use super::*;
use crate::math::block::{self, with_codes};
use crate::math::isa::Avx512;
use crate::math::tests::{Rng, same_bits};
use crate::math::{Activations, Format, Matrix, pack};

/// A panel's segment as unpacking leaves it, and activations beside it.
struct Case {
    blocks: usize,
    codes: Vec<[u8; WIDTH]>,
    k: Vec<Ints>,
    d: Vec<Row>,
    min: Vec<Row>,
    minima: Vec<Ints>,
    m: Vec<Ints>,
    cols: usize,
    q: Vec<i8>,
    sums: Vec<i32>,
    a: Vec<f32>,
}

/// Columns that share an integer scale.
fn sub<F: Ranges>() -> usize {
    if F::HALVES { 16 } else { 32 }
}

/// Rows of the activations, of which a product takes some.
const TOKENS: usize = RUN + 5;

impl Case {
    /// The last segment of a matrix three segments and `blocks` blocks wide.
    fn new<F: Ranges>(rng: &mut Rng, blocks: usize, extreme: bool) -> Self {
        let within = |rng: &mut Rng, (least, largest): (i32, i32)| match (extreme, rng.below(2)) {
            (false, _) => least + rng.below((largest - least + 1) as usize) as i32,
            (true, 0) => least,
            (true, _) => largest,
        };
        let len = blocks * F::LEN;
        let subs = len / sub::<F>();
        let minima: Vec<Ints> =
            (0..subs).map(|_| std::array::from_fn(|_| within(rng, (0, F::LARGEST_M)))).collect();
        let m = minima.as_chunks::<2>().0.iter();
        let m = m.map(|m| std::array::from_fn(|r| m[0][r] | m[1][r] << 16));
        let cols = 3 * SEGMENT + len;
        let q: Vec<i8> = (0..TOKENS * cols).map(|_| within(rng, (-127, 127)) as i8).collect();
        let sums = q.as_chunks::<SMALL_BLOCK>().0.iter().map(|q| {
            let sum = |q: &[i8]| q.iter().map(|q| *q as i32).sum::<i32>();
            sum(&q[..16]) & 0xffff | sum(&q[16..]) << 16
        });
        let row = |rng: &mut Rng| std::array::from_fn(|_| rng.wild(1)[0]);
        let code = |rng: &mut Rng| (within(rng, F::CODES) + F::OFFSET) as u8;
        Case {
            blocks,
            codes: (0..len / 4).map(|_| std::array::from_fn(|_| code(rng))).collect(),
            k: (0..subs).map(|_| std::array::from_fn(|_| within(rng, F::K))).collect(),
            d: (0..blocks).map(|_| row(rng)).collect(),
            min: (0..blocks).map(|_| row(rng)).collect(),
            m: m.collect(),
            minima,
            cols,
            sums: sums.collect(),
            a: rng.wild(TOKENS * cols / F::LEN),
            q,
        }
    }

    /// The chain of one token and row, word by word.
    fn naive<F: Ranges>(&self, token: usize, row: usize) -> f32 {
        let mut acc = 0.0f32;
        for b in 0..self.blocks {
            let (mut isum, mut msum, mut sum) = (0, 0, 0);
            for i in 0..F::LEN {
                let at = b * F::LEN + i;
                let c = self.codes[at / 4][4 * row + at % 4] as i32 - F::OFFSET;
                let k = if F::LEN == SUPER_BLOCK { self.k[at / sub::<F>()][row] } else { 1 };
                let q = self.q[token * self.cols + 3 * SEGMENT + at] as i32;
                isum += c * k * q;
                msum += self.minima[at / sub::<F>()][row] * q;
                sum += q;
            }
            let a = self.a[(token * self.cols + 3 * SEGMENT) / F::LEN + b];
            acc = (isum as f32).mul_add(self.d[b][row] * a, acc);
            acc = match F::MINIMUM {
                Minimum::None => acc,
                Minimum::Float => (sum as f32).mul_add(self.min[b][row] * a, acc),
                Minimum::Integer => (msum as f32).mul_add(-(self.min[b][row] * a), acc),
            };
        }
        acc
    }

    /// Every token of the list by the kernel.
    #[inline(always)]
    fn product<S: Lanes, F: Ranges, T: Tiles>(
        &self,
        s: S,
        list: &[usize],
        tiles: impl Fn(usize, usize) -> T,
    ) -> Vec<Row> {
        let (cols, codes, sums, scales) = (self.cols, &self.q, &self.sums, &self.a);
        let x = Quantised { cols, codes, sums, scales };
        let mut operand = Box::new(Aligned(Operand::new()));
        operand.0.expand::<S, F>(s, &self.codes, &self.k);
        let scales = Scales { d: &self.d, min: &self.min, m: &self.m };
        let mut packed = Box::new(Packed::new());
        let ids = |i: usize| list[i];
        packed.pack::<F>(x, 3 * SEGMENT, list.len(), ids);
        let mut tiles = tiles(packed.cut.size, depth::<F>());
        let mut out = vec![[f32::NAN; LANES]; list.len()];
        let add = |i: usize, sum: S::F| s.store(sum, &mut out[i]);
        segment::<S, F, T>(s, &mut tiles, &operand.0, scales, &packed, x, ids, add);
        out
    }
}

fn each_format(check: impl Fn(&mut Rng, Way)) {
    let mut rng = Rng(31);
    macro_rules! formats {
        ($($format:ident)*) => {
            $(check(&mut rng, Way {
                name: stringify!($format),
                block: block::$format::LEN,
                case: Case::new::<block::$format>,
                naive: Case::naive::<block::$format>,
                plain: |case, list| {
                    case.product::<_, block::$format, _>(Plain, list, Emulated::configure)
                },
                host: |case, list| on_host::<block::$format>(case, list),
                same_operand: same_operand::<block::$format>,
            });)*
        };
    }
    formats!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2K Q3K Q4K Q5K Q6K IQ4NL IQ4XS MXFP4);
}

/// A format's functions.
struct Way {
    name: &'static str,
    block: usize,
    case: fn(&mut Rng, usize, bool) -> Case,
    naive: fn(&Case, usize, usize) -> f32,
    plain: fn(&Case, &[usize]) -> Vec<Row>,
    host: fn(&Case, &[usize]) -> Option<Vec<Row>>,
    same_operand: fn(&Case) -> bool,
}

/// By the processor's tiles, or where it has none, by its lanes and emulated ones.
fn on_host<F: Ranges>(case: &Case, list: &[usize]) -> Option<Vec<Row>> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn inner<F: Ranges>(s: Avx512, amx: Option<Amx>, case: &Case, list: &[usize]) -> Vec<Row> {
        match amx {
            Some(amx) => case.product::<_, F, _>(s, list, |tokens, depth| {
                Registers::configure(amx, tokens, depth)
            }),
            None => case.product::<_, F, _>(s, list, Emulated::configure),
        }
    }
    // SAFETY: the token was made by detecting these features.
    Avx512::detect().map(|s| unsafe { inner::<F>(s, Amx::detect(), case, list) })
}

/// Whether the host's lanes expand a panel as the plain ones do.
fn same_operand<F: Ranges>(case: &Case) -> bool {
    let Some(s) = Avx512::detect() else { return true };
    let (mut a, mut b) = (Box::new(Operand::new()), Box::new(Operand::new()));
    a.expand::<_, F>(s, &case.codes, &case.k);
    b.expand::<_, F>(Plain, &case.codes, &case.k);
    a.low == b.low && a.high == b.high
}

#[test]
fn the_kernel_equals_naive_sums() {
    each_format(|rng, way| {
        let whole = SEGMENT / way.block;
        for blocks in [whole, 1, 2.min(whole), whole - 1] {
            for (tokens, extreme) in [(1, true), (16, false), (17, true), (33, false), (50, true)] {
                let case = (way.case)(rng, blocks, extreme);
                assert!((way.same_operand)(&case), "{}", way.name);
                let list: Vec<usize> = (0..tokens).map(|_| rng.below(TOKENS)).collect();
                let what = format!("{}, {blocks} blocks, {tokens} tokens", way.name);
                let want: Vec<Row> = list
                    .iter()
                    .map(|t| std::array::from_fn(|r| (way.naive)(&case, *t, r)))
                    .collect();
                let want = want.as_flattened();
                same_bits((way.plain)(&case, &list).as_flattened(), want, &what);
                if let Some(got) = (way.host)(&case, &list) {
                    same_bits(got.as_flattened(), want, &what);
                }
            }
        }
    });
}

#[test]
fn a_full_run_equals_single_tokens() {
    each_format(|rng, way| {
        let case = (way.case)(rng, SEGMENT / way.block, false);
        let list: Vec<usize> = (0..RUN).collect();
        let Some(all) = (way.host)(&case, &list) else { return };
        for token in [0, 1, 15, 16, 100, RUN - 1] {
            let want: Row = std::array::from_fn(|r| (way.naive)(&case, token, r));
            same_bits(&all[token], &want, way.name);
            assert_eq!((way.host)(&case, &[token]).map(|out| out[0]), Some(all[token]));
        }
    });
}

/// Panels, segments, runs of tokens and lists of them, with tiles emulated or not.
#[test]
fn whole_products_equal_the_oracle() {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn by_tiles(s: Avx512, w: &Panels, x: &Activations, tokens: Tokens, out: &mut Columns) {
        with_codes!(
            w.format(),
            F => {
                let x = x.quantised(F::FORMAT);
                match Amx::detect() {
                    Some(amx) => {
                        let tiles = |tokens, depth| Registers::configure(amx, tokens, depth);
                        quantised::<_, F, _>(s, tiles, w, x, tokens, out)
                    }
                    None => quantised::<_, F, _>(s, Emulated::configure, w, x, tokens, out),
                }
            },
            unreachable!()
        )
    }

    let Some(s) = Avx512::detect() else { return };
    let oracle = crate::math::tests::oracle();
    let mut rng = Rng(33);
    for format in Format::ALL.into_iter().filter(|format| format.block() > 1) {
        for (rows, cols, tokens) in [(37, 768, 20), (5, 256, RUN + 19), (16, 1280, 33)] {
            let cols = if format.block() == SMALL_BLOCK { cols - 32 } else { cols };
            let bytes: Vec<u8> = (0..rows).flat_map(|_| rng.blocks(format, cols)).collect();
            let matrix = Matrix::new(format, rows, cols, &bytes).unwrap();
            let mut packed = vec![0; Panels::bytes(format, rows, cols).unwrap()];
            pack(&matrix, 0..rows.div_ceil(LANES), &mut packed);
            let w = Panels::new(format, rows, cols, &packed).unwrap();
            let mut x = Activations::new();
            x.copy_from(cols, &rng.wild(40 * cols));
            x.prepare(&oracle, format);
            let list: Vec<u32> = (0..tokens).map(|_| rng.below(40) as u32).collect();
            let (mut got, mut want) = (vec![f32::NAN; tokens * rows], vec![0.0; tokens * rows]);
            oracle.linear(&w, &x, Some(&list), &mut Columns::whole(&mut want, rows));
            let out = &mut Columns::whole(&mut got, rows);
            // SAFETY: the token was made by detecting these features.
            unsafe { by_tiles(s, &w, &x, Tokens::List(&list), out) }
            same_bits(&got, &want, &format!("{format} {rows} × {cols}, {tokens} tokens"));
        }
    }
}

#[test]
fn tokens_are_cut_in_even_blocks() {
    for tokens in 1..=RUN {
        let cut = Cut::even(tokens);
        assert!((1..=ROWS).contains(&cut.size) && cut.blocks() <= RUN / ROWS);
        let mut next = 0;
        for i in 0..cut.blocks() {
            let block = cut.block(i);
            assert!(block.start == next && !block.is_empty() && block.len() <= cut.size);
            next = block.end;
        }
        assert_eq!(next, tokens);
        assert!(cut.blocks() * cut.size - tokens < cut.blocks(), "{tokens}");
    }
    assert_eq!((Cut::even(20).size, Cut::even(20).blocks()), (10, 2));
}

/// Every shape of tile the kernel configures, each instruction.
#[test]
fn the_processors_tiles_do_what_the_emulated_do() {
    let Some(amx) = Amx::detect() else { return };
    let mut rng = Rng(32);
    for tokens in 1..=ROWS {
        for depth in [WIDTH / 2, WIDTH] {
            let mut byte = || rng.next() as i8;
            let a: [ATile; 2] =
                std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| byte())));
            let b: [[Quad; ROWS]; 2] =
                std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| byte())));
            let mut real = [[[7; LANES]; ROWS]; 4];
            let mut plain = real;
            work(&mut Registers::configure(amx, tokens, depth), &a, &b, depth, &mut real);
            work(&mut Emulated::configure(tokens, depth), &a, &b, depth, &mut plain);
            assert_eq!(real, plain, "{tokens} tokens, depth {depth}");
        }
    }

    fn work<T: Tiles>(
        tiles: &mut T,
        a: &[ATile; 2],
        b: &[[Quad; ROWS]; 2],
        depth: usize,
        sums: &mut [CTile; 4],
    ) {
        let half = WIDTH / depth - 1;
        tiles.load_a::<4>(&a[0], 0);
        tiles.load_a::<5>(&a[1], half);
        tiles.load_b::<6>(&b[0]);
        tiles.load_b::<7>(&b[1][ROWS - depth / 4..]);
        tiles.dot::<0, 4, 6>();
        tiles.dot::<1, 4, 7>();
        tiles.dot::<2, 5, 6>();
        tiles.dot::<3, 5, 7>();
        tiles.dot::<0, 5, 7>();
        tiles.zero::<1>();
        tiles.dot::<1, 5, 6>();
        tiles.store::<0>(&mut sums[0]);
        tiles.store::<1>(&mut sums[1]);
        tiles.store::<2>(&mut sums[2]);
        tiles.store::<3>(&mut sums[3]);
    }
}

/// Threads that the kernel switches between on one core keep their own tiles.
#[test]
fn tiles_belong_to_their_thread() {
    let Some(amx) = Amx::detect() else { return };
    std::thread::scope(|scope| {
        for thread in 1..=3i8 {
            scope.spawn(move || {
                let a = [[thread; WIDTH]; ROWS];
                let b = [[1; WIDTH]; ROWS];
                let mut tiles = Registers::configure(amx, ROWS, WIDTH);
                tiles.load_a::<4>(&a, 0);
                tiles.load_b::<6>(&b);
                for round in 1..=200 {
                    tiles.dot::<0, 4, 6>();
                    std::thread::yield_now();
                    let mut sums = [[0; LANES]; ROWS];
                    tiles.store::<0>(&mut sums);
                    assert_eq!(sums, [[round * 64 * thread as i32; LANES]; ROWS]);
                }
            });
        }
    });
}

#[test]
fn what_a_host_lacks_is_said() {
    match Amx::ask() {
        Ok(amx) => assert!(Amx::detect().is_some() && Avx512::detect().is_some(), "{amx:?}"),
        Err(lack) => assert!(!lack.to_string().is_empty() && Amx::detect().is_none()),
    }
}
