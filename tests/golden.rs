//! The numbers themselves. The kernels are compared with the oracle elsewhere; here the bits are
//! compared with those of the day they were fixed, so that a change of the contract (a segment, a
//! constant of `exp`), a compiler or a library cannot move oracle and kernels together.

use penstock::math::{
    Activations, AttentionScratch, Columns, Format, IsaChoice, Kernels, KvFormat, KvView, Matrix,
    Panels, Queries, RopeStyle, Store, pack,
};

/// Sixteen bits at a time from a fixed stream.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u16 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 48) as u16
    }

    /// Between -2 and 2, in steps that f32 and bf16 both hold exactly.
    fn value(&mut self) -> f32 {
        f32::from(self.next() as i8) / 64.0
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

fn hash(values: &[f32]) -> u64 {
    values.iter().fold(0xcbf29ce484222325, |hash, value| {
        assert!(value.is_finite());
        (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100000001b3)
    })
}

/// Rows of random codes with scales near 1/64: where they stand depends on the format.
fn rows(format: Format, rows: usize, cols: usize, stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows * cols / format.block() {
        let at = bytes.len();
        bytes.extend((0..format.block_bytes()).map(|_| stream.next() as u8));
        let scale = (0x2400 | stream.next() & 0x3ff).to_le_bytes();
        let mut put = |offset: usize| bytes[at + offset..at + offset + 2].copy_from_slice(&scale);
        let last = format.block_bytes().saturating_sub(2);
        match format {
            Format::F32 => bytes.splice(at.., stream.value().to_le_bytes()).for_each(drop),
            Format::BF16 => {
                let value = (stream.value().to_bits() >> 16) as u16;
                bytes.splice(at.., value.to_le_bytes()).for_each(drop);
            }
            Format::F16 => put(0),
            Format::F8E4M3 => bytes[at] &= 0xbf,
            Format::MXFP4 => bytes[at] = 120 + bytes[at] % 8,
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => {
                [0, 2].into_iter().for_each(put)
            }
            Format::Q2K => [last - 2, last].into_iter().for_each(put),
            Format::Q3K | Format::Q6K => put(last),
            Format::Q8_0 | Format::Q4_0 | Format::Q5_0 | Format::IQ4NL | Format::IQ4XS => put(0),
        }
    }
    bytes
}

/// Three whole segments and a part of one, a partial panel.
fn products(kernels: &Kernels, format: Format) -> u64 {
    let (height, cols) = (19, 3 * 512 + 256);
    let mut stream = Stream(format as u64 + 1);
    let bytes = rows(format, height, cols, &mut stream);
    let matrix = Matrix::new(format, height, cols, &bytes).unwrap();
    let mut packed = vec![0; Panels::bytes(format, height, cols).unwrap()];
    pack(&matrix, 0..height.div_ceil(16), &mut packed);
    let panels = Panels::new(format, height, cols, &packed).unwrap();
    let mut x = Activations::new();
    x.copy_from(cols, &stream.values(5 * cols));
    x.prepare(kernels, format);
    let mut out = vec![0.0; 5 * height];
    kernels.linear(&panels, &x, None, &mut Columns::whole(&mut out, height));
    // One by one: few tokens take another way to the same bits.
    let mut alone = vec![0.0; height];
    for (token, together) in (0..).zip(out.chunks_exact(height)) {
        let mut columns = Columns::whole(&mut alone, height);
        kernels.linear(&panels, &x, Some(&[token]), &mut columns);
        assert_eq!(hash(&alone), hash(together), "{format}");
    }
    hash(&out)
}

/// A query over 2,500 positions: three segments of context, a window that begins in the first.
fn attention(kernels: &Kernels, kv: KvFormat) -> u64 {
    let (d, dv, len) = (24, 40, 2500usize);
    let mut stream = Stream(99);
    let (key_room, value_room) = (kv.room(d), kv.room(dv));
    let page_floats = key_room + value_room;
    let pages: Vec<u32> = (0..len.div_ceil(16) as u32).rev().collect();
    let numbers = stream.values(pages.len() * 16 * (d + dv));
    let query = stream.values(d);
    let arena = match kv {
        KvFormat::F32 => numbers,
        KvFormat::Int8 => {
            let mut arena = vec![0.0; pages.len() * page_floats];
            let mut store = Store { kernels, format: kv, codes: &mut Vec::new() };
            for (i, vectors) in numbers.chunks_exact(d + dv).enumerate() {
                let page = &mut arena[i / 16 * page_floats..][..page_floats];
                let (keys, values) = page.split_at_mut(key_room);
                store.key(keys, i % 16, &vectors[..d]);
                store.value(values, i % 16, &vectors[d..]);
            }
            arena
        }
    };
    let (arena, pages) = (&arena[..], &pages[..]);
    let kv = KvView { format: kv, arena, pages, page_floats, k_at: 0, v_at: key_room, d, dv };
    let mut out = vec![0.0; dv];
    let mut scratch = AttentionScratch::new();
    let queries = Queries {
        q: &query,
        stride: d,
        heads: 1,
        scale: 0.2,
        end: len,
        window: Some(len - 130),
        sinks: Some(&[0.5]),
    };
    kernels.attend(&queries, &kv, &mut Columns::whole(&mut out, dv), &mut scratch);
    hash(&out)
}

fn pieces(kernels: &Kernels) -> u64 {
    let mut stream = Stream(7);
    let mut values = stream.values(333);
    let mut normed = vec![0.0; 333];
    kernels.rms_norm(&values, &stream.values(333), 1e-5, &mut normed);
    kernels.rope(&mut normed[..64], &stream.values(32), &stream.values(32), RopeStyle::Halves);
    kernels.rope(&mut normed[64..99], &stream.values(8), &stream.values(8), RopeStyle::Interleaved);
    let up = stream.values(333);
    let mut gated = vec![0.0; 333];
    kernels.silu_mul(&values, &up, &mut gated);
    let mut clamped = vec![0.0; 333];
    kernels.clamped_swiglu_mul(&values, &up, 1.702, 1.5, &mut clamped);
    kernels.axpy(0.3, &gated, &mut clamped);
    kernels.softmax(&mut values);
    kernels.sigmoid(&mut gated);
    hash(&[values, normed, gated, clamped].concat())
}

#[test]
fn the_bits_are_what_they_were() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    let built = [IsaChoice::Scalar, IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Amx];
    for isa in built.into_iter().filter(|isa| isa.resolve().is_ok()) {
        let kernels = Kernels::new(isa).unwrap();
        let mut check = |name: String, found: u64, expected: u64| {
            checked += 1;
            if found != expected {
                wrong.push(format!("{isa} {name}: {found:#018x}"));
            }
        };
        for (format, expected) in Format::ALL.into_iter().zip(PRODUCTS) {
            check(format.to_string(), products(&kernels, format), expected);
        }
        for (kv, expected) in KvFormat::ALL.into_iter().zip(ATTENTION) {
            check(format!("attention over {kv}"), attention(&kernels, kv), expected);
        }
        check("pieces".into(), pieces(&kernels), PIECES);
    }
    assert!(wrong.is_empty(), "{} of {checked}:\n{}", wrong.len(), wrong.join("\n"));
}

/// In the order of [`Format::ALL`].
const PRODUCTS: [u64; 17] = [
    0xe3dd6f1145dc60b7, // F32
    0x7fb9b3c1e2357dd6, // F16
    0xc7df850322dd8257, // BF16
    0x10d0832c28d80d5b, // F8_E4M3
    0x2377bbf9062df6b6, // Q8_0
    0xb41090e53d7043a7, // Q4_0
    0x95ee2eaceb730266, // Q4_1
    0xb05350a335ba2092, // Q5_0
    0xd18127f4d3248265, // Q5_1
    0x8bde38e60f1457f1, // Q2_K
    0x92c155458777a598, // Q3_K
    0xc7e7afeb8e286cc5, // Q4_K
    0xc1f98e88774acbe9, // Q5_K
    0x5923526c69ae99c6, // Q6_K
    0xe835fc41065d0a85, // IQ4_NL
    0x9629a84728d2ac5d, // IQ4_XS
    0x4b70048cde2a6ebe, // MXFP4
];
/// In the order of [`KvFormat::ALL`].
const ATTENTION: [u64; 2] = [0xefe0b9da47a0f8c8, 0x4bc0585da4f9ea46];
const PIECES: u64 = 0x4513d90bbbfe339d;
