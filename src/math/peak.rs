//! The most that one core multiplies and adds when nothing has to be fetched: what the kernels'
//! speed is a fraction of.

use std::fmt;
use std::time::{Duration, Instant};

use super::isa::Isa;

/// What is multiplied and added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Bytes, summed in 32 bits, as the quantised kernels do.
    Int8,
    /// Floats, by fused multiply-add.
    Float32,
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arithmetic::Int8 => "int8",
            Arithmetic::Float32 => "f32",
        })
    }
}

/// A loop of independent operations on registers.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
struct Loop {
    /// Runs so many rounds.
    run: fn(u64),
    ops_per_round: u64,
}

/// Long enough for the clock, short enough that some try is not interrupted.
const TRY: Duration = Duration::from_millis(2);
const TRIES: usize = 25;

/// Operations per second of the calling thread (a multiply-add counts as two), the best of many
/// tries: about 60 ms. `None` for a set that this host lacks or that has no such peak.
pub fn peak_ops(isa: Isa, arithmetic: Arithmetic) -> Option<f64> {
    let Loop { run, ops_per_round } = Loop::of(isa, arithmetic)?;
    let time = |rounds: u64| {
        let start = Instant::now();
        run(rounds);
        start.elapsed()
    };
    // The first rounds also wake the wide units up.
    let mut rounds = 1 << 10;
    while time(rounds) < TRY && rounds < 1 << 40 {
        rounds *= 2;
    }
    let best = (0..TRIES).map(|_| time(rounds)).min()?;
    Some((rounds * ops_per_round) as f64 / best.as_secs_f64().max(1e-9))
}

#[cfg(not(target_arch = "x86_64"))]
impl Loop {
    fn of(_: Isa, _: Arithmetic) -> Option<Loop> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
impl Loop {
    /// A further instruction set is one more arm.
    fn of(isa: Isa, arithmetic: Arithmetic) -> Option<Loop> {
        use super::isa::{Avx2, Avx512};
        // Sums, bytes or floats in each, and a multiply and an add.
        Some(match (isa, arithmetic) {
            (Isa::Avx512, Arithmetic::Int8) if Avx512::detect().is_some() => {
                Loop { run: x86::vnni, ops_per_round: 12 * 64 * 2 }
            }
            (Isa::Avx512, Arithmetic::Float32) if Avx512::detect().is_some() => {
                Loop { run: x86::fma_512, ops_per_round: 12 * 16 * 2 }
            }
            (Isa::Avx2, Arithmetic::Int8) if Avx2::detect().is_some() => {
                Loop { run: x86::maddubs, ops_per_round: 6 * 32 * 2 }
            }
            (Isa::Avx2, Arithmetic::Float32) if Avx2::detect().is_some() => {
                Loop { run: x86::fma_256, ops_per_round: 12 * 8 * 2 }
            }
            _ => return None,
        })
    }
}

/// In assembly, where nobody finds out that the sums are not needed. Twelve of them hide the
/// latency of two units (five cycles each at most).
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    // SAFETY, for every block in this file: `Loop::of` asks for the instructions' presence before
    // it names the function; the block touches no memory, and the registers that it names.

    /// Expands to a loop of `$rounds` rounds: `$set` puts `$bits` in the operands, `$body` is
    /// repeated for each number in `$sums`.
    macro_rules! rounds {
        ($rounds:expr, $bits:expr, $set:literal, $sums:literal, $body:literal) => {
            asm!(
                $set,
                concat!(".irp n,", $sums),
                r"vpxor xmm\n, xmm\n, xmm\n",
                ".endr",
                ".p2align 6",
                "2:",
                concat!(".irp n,", $sums),
                $body,
                ".endr",
                "dec {rounds}",
                "jnz 2b",
                "vzeroupper",
                rounds = inout(reg) $rounds.max(1) => _,
                bits = in(reg) $bits,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nomem, nostack),
            )
        };
    }

    /// Codes of ones and twos. Zeroes could be cheaper, or let the clock run faster.
    const CODES: u32 = 0x0201_0201;

    pub fn vnni(rounds: u64) {
        // SAFETY: see above.
        unsafe {
            rounds!(
                rounds,
                CODES,
                "vmovd xmm15, {bits:e}\n vpbroadcastd zmm15, xmm15",
                "0,1,2,3,4,5,6,7,8,9,10,11",
                r"vpdpbusd zmm\n, zmm15, zmm15"
            );
        }
    }

    pub fn maddubs(rounds: u64) {
        // SAFETY: see above.
        unsafe {
            rounds!(
                rounds,
                CODES,
                "vmovd xmm15, {bits:e}\n vpbroadcastd ymm15, xmm15",
                "0,1,2,3,4,5",
                r"vpmaddubsw ymm12, ymm15, ymm15
                vpmaddwd ymm13, ymm12, ymm15
                vpaddd ymm\n, ymm\n, ymm13"
            );
        }
    }

    pub fn fma_512(rounds: u64) {
        // SAFETY: see above.
        unsafe {
            rounds!(
                rounds,
                1.5f32.to_bits(),
                "vmovd xmm15, {bits:e}\n vpbroadcastd zmm15, xmm15",
                "0,1,2,3,4,5,6,7,8,9,10,11",
                r"vfmadd231ps zmm\n, zmm15, zmm15"
            );
        }
    }

    pub fn fma_256(rounds: u64) {
        // SAFETY: see above.
        unsafe {
            rounds!(
                rounds,
                1.5f32.to_bits(),
                "vmovd xmm15, {bits:e}\n vpbroadcastd ymm15, xmm15",
                "0,1,2,3,4,5,6,7,8,9,10,11",
                r"vfmadd231ps ymm\n, ymm15, ymm15"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_has_a_peak() {
        for arithmetic in [Arithmetic::Int8, Arithmetic::Float32] {
            assert_eq!(peak_ops(Isa::Scalar, arithmetic), None);
            for isa in [Isa::Avx2, Isa::Avx512] {
                let peak = peak_ops(isa, arithmetic);
                println!("{isa} {arithmetic}: {:.3} Top/s", peak.unwrap_or(0.0) / 1e12);
                assert_eq!(peak.is_some(), Isa::detected().any(|has| has == isa));
                assert!(peak.is_none_or(|ops| ops > 1e9 && ops < 1e14), "{peak:?}");
            }
        }
    }
}
