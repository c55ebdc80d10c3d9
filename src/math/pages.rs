//! How the keys and values of 16 positions lie in a page.
//!
//! A page is part of an arena of floats. The keys of one head have a room in it, and so have its
//! values:
//!
//! ```text
//! f32    keys [d][16]             values [16][dv]
//! int8   codes [d][16], scales    codes [16][dv], scales     a byte each, then 16 floats
//! ```
//!
//! so that one vector holds one dimension of 16 keys, and the scales of 16 positions. Codes take
//! whole cache lines: where they end, scales begin on one.

use std::fmt;
use std::str::FromStr;

use super::kernels::Kernels;
use super::simd::{Row, Simd};
use crate::base::limits::{LANES, PAGE};

/// What keys and values are kept as. It changes results, the same way everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    #[default]
    F32,
    /// 8 bits for each number, and a scale for the key or value of a position.
    Int8,
}

impl KvFormat {
    pub const ALL: [KvFormat; 2] = [KvFormat::F32, KvFormat::Int8];

    pub const fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::Int8 => "int8",
        }
    }

    /// Floats of the room that 16 keys or values of this length take.
    pub const fn room(self, length: usize) -> usize {
        match self {
            KvFormat::F32 => length * PAGE,
            KvFormat::Int8 => (length * PAGE).next_multiple_of(LINE) / size_of::<f32>() + PAGE,
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("keys and values are kept in f32 or int8")]
pub struct KvFormatError;

impl FromStr for KvFormat {
    type Err = KvFormatError;

    fn from_str(text: &str) -> Result<KvFormat, KvFormatError> {
        let known = KvFormat::ALL.into_iter().find(|format| format.name() == text);
        known.ok_or(KvFormatError)
    }
}

/// The keys and values of one head, in pages of an arena. Page p's floats start at
/// `pages[p] * page_floats`, the room of its keys lies `k_at` further on, that of its values `v_at`
/// further on. Only pages of positions that the query sees are looked up.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    pub format: KvFormat,
    pub arena: &'a [f32],
    pub pages: &'a [u32],
    pub page_floats: usize,
    pub k_at: usize,
    pub v_at: usize,
    pub d: usize,
    pub dv: usize,
}

impl<'a> KvView<'a> {
    #[inline(always)]
    pub(super) fn keys(&self, page: usize) -> &'a [f32] {
        self.room(page, self.k_at, self.d)
    }

    #[inline(always)]
    pub(super) fn values(&self, page: usize) -> &'a [f32] {
        self.room(page, self.v_at, self.dv)
    }

    #[inline(always)]
    fn room(&self, page: usize, at: usize, length: usize) -> &'a [f32] {
        let at = self.pages[page] as usize * self.page_floats + at;
        &self.arena[at..at + self.format.room(length)]
    }
}

/// What a number of a page is kept in.
pub(super) trait Cell: Copy + Default {
    /// Whether it must be multiplied by its position's scale.
    const SCALED: bool;

    /// The numbers in a room, and the scales of the 16 positions.
    fn of_room(room: &[f32], length: usize) -> (&[Self], &Row);

    /// Sixteen of them, not multiplied yet.
    fn lanes<S: Simd>(s: S, cells: &[Self; LANES]) -> S::F;
}

impl Cell for f32 {
    const SCALED: bool = false;

    #[inline(always)]
    fn of_room(room: &[f32], _: usize) -> (&[f32], &Row) {
        (room, &[1.0; LANES])
    }

    #[inline(always)]
    fn lanes<S: Simd>(s: S, cells: &Row) -> S::F {
        s.load(cells)
    }
}

/// A code, as the byte it is.
impl Cell for u8 {
    const SCALED: bool = true;

    #[inline(always)]
    fn of_room(room: &[f32], length: usize) -> (&[u8], &Row) {
        let (codes, scales) = room.split_last_chunk().expect("a room ends with its scales");
        (&bytes(codes)[..length * PAGE], scales)
    }

    #[inline(always)]
    fn lanes<S: Simd>(s: S, cells: &[u8; LANES]) -> S::F {
        s.to_float(s.widen_i8(cells))
    }
}

fn bytes(floats: &[f32]) -> &[u8] {
    // SAFETY: they are the same bytes, all of them initialised, and a byte may lie anywhere.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), size_of_val(floats)) }
}

fn bytes_mut(floats: &mut [f32]) -> &mut [u8] {
    // SAFETY: as in `bytes`; the borrow is handed on, and any bytes that are written are floats.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), size_of_val(floats)) }
}

/// Writes keys and values into their rooms.
pub struct Store<'a> {
    pub kernels: &'a Kernels,
    pub format: KvFormat,
    /// The codes of one vector: kept from call to call.
    pub codes: &'a mut Vec<i8>,
}

impl Store<'_> {
    /// The key of the position at `slot` of a page.
    pub fn key(&mut self, room: &mut [f32], slot: usize, key: &[f32]) {
        self.check(room, slot, key);
        match self.format {
            KvFormat::F32 => {
                for (lanes, k) in room.chunks_exact_mut(PAGE).zip(key) {
                    lanes[slot] = *k;
                }
            }
            KvFormat::Int8 => {
                let codes = self.quantise(room, slot, key);
                for (lanes, code) in bytes_mut(room).chunks_exact_mut(PAGE).zip(codes) {
                    lanes[slot] = *code as u8;
                }
            }
        }
    }

    /// Its value.
    pub fn value(&mut self, room: &mut [f32], slot: usize, value: &[f32]) {
        self.check(room, slot, value);
        let at = slot * value.len();
        match self.format {
            KvFormat::F32 => room[at..][..value.len()].copy_from_slice(value),
            KvFormat::Int8 => {
                let codes = self.quantise(room, slot, value);
                for (byte, code) in bytes_mut(room)[at..].iter_mut().zip(codes) {
                    *byte = *code as u8;
                }
            }
        }
    }

    fn check(&self, room: &[f32], slot: usize, vector: &[f32]) {
        let fits = room.len() == self.format.room(vector.len());
        assert!(slot < PAGE && fits, "a position has its slot in the room");
    }

    /// Leaves the scale in the room and says the codes.
    fn quantise(&mut self, room: &mut [f32], slot: usize, vector: &[f32]) -> &[i8] {
        let scales: &mut Row = room.last_chunk_mut().expect("a room ends with its scales");
        self.codes.resize(vector.len(), 0);
        self.kernels.quantise_whole(vector, self.codes, &mut scales[slot]);
        self.codes
    }
}
