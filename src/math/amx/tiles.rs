//! The tile instructions, which stable Rust has no names for, and in tests what stands for them.

use std::arch::asm;
use std::marker::PhantomData;

use super::detect::Amx;
use crate::base::limits::LANES;

/// Rows of a tile, and bytes of one.
pub(in crate::math) const ROWS: usize = 16;
pub(in crate::math) const WIDTH: usize = 64;

/// A value on a cache line of its own, so that no row of a tile straddles two.
#[repr(C, align(64))]
pub(in crate::math) struct Aligned<T>(pub T);

/// Four codes of sixteen rows of weights: one row of a B tile.
pub(in crate::math) type Quad = [i8; WIDTH];
/// 64 codes of sixteen tokens.
pub(in crate::math) type ATile = [[i8; WIDTH]; ROWS];
/// The sums of sixteen tokens, sixteen rows of weights in each.
pub(in crate::math) type CTile = [[i32; LANES]; ROWS];

/// Eight tiles: 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
pub(in crate::math) trait Tiles {
    fn zero<const C: usize>(&mut self);
    /// The `half`th `depth` columns of the tokens' codes.
    fn load_a<const A: usize>(&mut self, from: &ATile, half: usize);
    /// The first `depth / 4` quads.
    fn load_b<const B: usize>(&mut self, from: &[Quad]);
    /// `C[token][row] += Σ_k A[token][k] · B[k][row]`, exactly, in i32.
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self);
    /// Writes the rows of the tokens, no others.
    fn store<const C: usize>(&mut self, to: &mut CTile);
}

/// Palette 1 for products of `tokens` × `depth` codes with `depth` × 16 weights.
pub(super) fn configuration(tokens: usize, depth: usize) -> Aligned<[u8; 64]> {
    assert!((1..=ROWS).contains(&tokens) && (depth == WIDTH || depth == WIDTH / 2));
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for tile in 0..8 {
        let (rows, width) = match tile {
            0..4 => (tokens, WIDTH),
            4 | 5 => (tokens, depth),
            _ => (depth / 4, WIDTH),
        };
        bytes[16 + 2 * tile] = width as u8;
        bytes[48 + tile] = rows as u8;
    }
    Aligned(bytes)
}

/// The tiles of this thread, configured for as long as this lives. There must not be two of them
/// in a thread, which is why the kernel makes one in its innermost function and hands it to no
/// one; it stays in its thread.
pub(in crate::math) struct Registers {
    depth: usize,
    thread: PhantomData<*const ()>,
}

// SAFETY, for every block below: the token proves the instructions and the permission; tiles are
// configured from `configure` to the drop; what a load reads and a store writes are at most
// sixteen rows of 64 bytes inside what the arguments point to. No compiler uses tiles by itself,
// so what one block leaves in them the next one finds.

impl Registers {
    #[inline(always)]
    pub fn configure(_: Amx, tokens: usize, depth: usize) -> Self {
        let configuration = configuration(tokens, depth);
        // SAFETY: see above. The bytes are passed as memory, so they are written before.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) configuration.0.as_ptr(),
                options(readonly, nostack, preserves_flags)
            );
        }
        Registers { depth, thread: PhantomData }
    }
}

impl Drop for Registers {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: see above.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

impl Tiles for Registers {
    #[inline(always)]
    fn zero<const C: usize>(&mut self) {
        // SAFETY: see above.
        unsafe { asm!("tilezero tmm{}", const C, options(nomem, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn load_a<const A: usize>(&mut self, from: &ATile, half: usize) {
        assert!((half + 1) * self.depth <= WIDTH);
        let at = from.as_flattened()[half * self.depth..].as_ptr();
        // SAFETY: see above.
        unsafe {
            asm!(
                "tileloadd tmm{}, [{} + {} * 1]", const A, in(reg) at, in(reg) WIDTH,
                options(readonly, nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    fn load_b<const B: usize>(&mut self, from: &[Quad]) {
        assert!(from.len() >= self.depth / 4);
        // SAFETY: see above.
        unsafe {
            asm!(
                "tileloadd tmm{}, [{} + {} * 1]", const B, in(reg) from.as_ptr(), in(reg) WIDTH,
                options(readonly, nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: see above.
        unsafe {
            asm!(
                "tdpbssd tmm{}, tmm{}, tmm{}", const C, const A, const B,
                options(nomem, nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    fn store<const C: usize>(&mut self, to: &mut CTile) {
        // SAFETY: see above.
        unsafe {
            asm!(
                "tilestored [{} + {} * 1], tmm{}", in(reg) to.as_mut_ptr(), in(reg) WIDTH, const C,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// The same in plain code, by what the instructions' manual says: rows and bytes beyond the
/// configuration are zero, and a product whose tiles do not fit each other is refused.
#[cfg(test)]
pub(in crate::math) struct Emulated {
    configuration: [u8; 64],
    tiles: [[[u8; WIDTH]; ROWS]; 8],
}

#[cfg(test)]
impl Emulated {
    pub fn configure(tokens: usize, depth: usize) -> Self {
        let configuration = configuration(tokens, depth).0;
        assert_eq!(configuration[..16], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(configuration[32..48].iter().chain(&configuration[56..]).all(|b| *b == 0));
        Emulated { configuration, tiles: [[[0; WIDTH]; ROWS]; 8] }
    }

    fn shape(&self, tile: usize) -> (usize, usize) {
        let c = &self.configuration;
        let width = u16::from_le_bytes([c[16 + 2 * tile], c[17 + 2 * tile]]) as usize;
        let rows = c[48 + tile] as usize;
        assert!((1..=ROWS).contains(&rows) && (4..=WIDTH).contains(&width));
        assert!(width.is_multiple_of(4));
        (rows, width)
    }

    /// Row `r` is the first bytes of `rows[r]`.
    fn load(&mut self, tile: usize, rows: &[&[i8]]) {
        let (count, width) = self.shape(tile);
        self.tiles[tile] = [[0; WIDTH]; ROWS];
        for r in 0..count {
            for i in 0..width {
                self.tiles[tile][r][i] = rows[r][i] as u8;
            }
        }
    }
}

#[cfg(test)]
impl Tiles for Emulated {
    fn zero<const C: usize>(&mut self) {
        self.tiles[C] = [[0; WIDTH]; ROWS];
    }

    fn load_a<const A: usize>(&mut self, from: &ATile, half: usize) {
        let (_, width) = self.shape(A);
        let rows = from.each_ref().map(|row| &row[half * width..]);
        self.load(A, &rows);
    }

    fn load_b<const B: usize>(&mut self, from: &[Quad]) {
        let rows: Vec<&[i8]> = from.iter().map(|quad| &quad[..]).collect();
        self.load(B, &rows);
    }

    fn dot<const C: usize, const A: usize, const B: usize>(&mut self) {
        let ((m, n), (a_rows, k), (b_rows, b_width)) =
            (self.shape(C), self.shape(A), self.shape(B));
        assert!(C != A && A != B && C != B, "three tiles");
        assert!(m == a_rows && n == b_width && k / 4 == b_rows, "tiles that fit each other");
        for m in 0..m {
            for n in 0..n / 4 {
                let at = 4 * n..4 * n + 4;
                let word = |row: &[u8; WIDTH]| {
                    i32::from_le_bytes([row[4 * n], row[4 * n + 1], row[4 * n + 2], row[4 * n + 3]])
                };
                let mut sum = word(&self.tiles[C][m]);
                for k in 0..k {
                    let a = self.tiles[A][m][k] as i8 as i32;
                    let b = self.tiles[B][k / 4][4 * n + k % 4] as i8 as i32;
                    sum = sum.wrapping_add(a * b);
                }
                self.tiles[C][m][at].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }

    fn store<const C: usize>(&mut self, to: &mut CTile) {
        let (rows, _) = self.shape(C);
        for (to, from) in to[..rows].iter_mut().zip(&self.tiles[C]) {
            for (to, word) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                *to = i32::from_le_bytes(*word);
            }
        }
    }
}
