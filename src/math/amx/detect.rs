//! The proof that tiles may be used: the processor has them and the kernel lets this process.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use super::super::isa::{Avx512, TilesLack};

/// Proof that the host has AMX with products of bytes, that the kernel keeps the tiles of this
/// process, and all of [`Avx512`].
#[derive(Clone, Copy, Debug)]
pub struct Amx(Avx512);

/// Leaf 7: AMX-TILE and AMX-INT8.
const TILE: u32 = 1 << 24;
const INT8: u32 = 1 << 25;
/// Leaf 1: the kernel uses XSAVE, so XGETBV may be asked.
const OSXSAVE: u32 = 1 << 27;
/// The state components of tiles in XCR0: their configuration and their data.
const XTILE: u32 = 0b11 << 17;

const ARCH_PRCTL: i64 = 158;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
const XFEATURE_XTILEDATA: u64 = 18;

impl Amx {
    pub fn detect() -> Option<Self> {
        Self::ask().ok()
    }

    /// Asks once in a process; the kernel's permission holds for all its threads.
    pub fn ask() -> Result<Self, TilesLack> {
        static ANSWER: OnceLock<Result<Amx, TilesLack>> = OnceLock::new();
        *ANSWER.get_or_init(|| {
            let avx512 = Avx512::detect().ok_or(TilesLack::Processor)?;
            if __cpuid(0).eax < 0x1d || __cpuid_count(7, 0).edx & (TILE | INT8) != TILE | INT8 {
                return Err(TilesLack::Processor);
            }
            // Palette 1: eight tiles of sixteen rows of 64 bytes.
            let palette = __cpuid_count(0x1d, 1);
            if palette.ebx != 8 << 16 | 64 || palette.ecx & 0xffff != 16 {
                return Err(TilesLack::Processor);
            }
            if __cpuid(1).ecx & OSXSAVE == 0 || enabled_state() & XTILE != XTILE {
                return Err(TilesLack::State);
            }
            match request_tiles() {
                0 => Ok(Amx(avx512)),
                error => Err(TilesLack::Permission(-error as i32)),
            }
        })
    }

    pub fn avx512(self) -> Avx512 {
        self.0
    }
}

/// The lower half of XCR0.
fn enabled_state() -> u32 {
    let low: u32;
    // SAFETY: the caller has seen OSXSAVE; the instruction only reads.
    unsafe {
        asm!(
            "xgetbv", in("ecx") 0, out("eax") low, out("edx") _,
            options(nomem, nostack, preserves_flags)
        );
    }
    low
}

/// 0, or the kernel's error, negative.
fn request_tiles() -> i64 {
    let answer: i64;
    // SAFETY: the call changes nothing but what this process is allowed; the clobbers are those
    // of a system call.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    answer
}
