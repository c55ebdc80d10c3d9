//! Which instruction sets the host has, which one the user wants, and the proof that it is there.
//!
//! A token (`Avx2`, `Avx512`) is made by detection alone, so holding one makes its vector code
//! safe to call.

use std::fmt;
use std::str::FromStr;

/// An instruction set that kernels are built for, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    Scalar,
    Avx2,
    Avx512,
    Amx,
}

impl Isa {
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Amx];

    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// What a processor must have; one that lacks any of these falls to the set below.
    pub const fn features(self) -> &'static str {
        match self {
            Isa::Scalar => "nothing",
            Isa::Avx2 => "AVX2, FMA, F16C, BMI1 and BMI2",
            Isa::Avx512 => "AVX-512 F, BW, VL, DQ and VNNI",
            Isa::Amx => "AMX-TILE and AMX-INT8, and all that avx512 needs",
        }
    }

    /// The sets this host has, best last.
    pub fn detected() -> impl DoubleEndedIterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| match isa {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Amx::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => false,
        })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the user asks for: one instruction set by name, or the best the host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IsaChoice {
    Scalar,
    Avx2,
    Avx512,
    Amx,
    #[default]
    Auto,
}

impl IsaChoice {
    pub const ALL: [IsaChoice; 5] =
        [IsaChoice::Scalar, IsaChoice::Avx2, IsaChoice::Avx512, IsaChoice::Amx, IsaChoice::Auto];

    pub const fn name(self) -> &'static str {
        match self {
            IsaChoice::Scalar => "scalar",
            IsaChoice::Avx2 => "avx2",
            IsaChoice::Avx512 => "avx512",
            IsaChoice::Amx => "amx",
            IsaChoice::Auto => "auto",
        }
    }

    /// The best set that satisfies the choice on this host.
    pub fn resolve(self) -> Result<Isa, IsaError> {
        let wanted = match self {
            IsaChoice::Scalar => Isa::Scalar,
            IsaChoice::Avx2 => Isa::Avx2,
            IsaChoice::Avx512 => Isa::Avx512,
            IsaChoice::Amx => Isa::Amx,
            IsaChoice::Auto => return Ok(Isa::detected().next_back().unwrap_or(Isa::Scalar)),
        };
        let has = HostIsas::detect();
        if Isa::detected().any(|isa| isa == wanted) {
            return Ok(wanted);
        }
        #[cfg(target_arch = "x86_64")]
        if let (Isa::Amx, Err(lack)) = (wanted, Amx::ask()) {
            return Err(IsaError::NoTiles { lack, has });
        }
        Err(IsaError::Missing { wanted, has })
    }
}

impl fmt::Display for IsaChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IsaChoice {
    type Err = IsaError;

    fn from_str(text: &str) -> Result<Self, IsaError> {
        IsaChoice::ALL
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or_else(|| IsaError::Unknown { text: text.to_owned() })
    }
}

/// The names of the host's instruction sets, as a sentence needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostIsas {
    best: Isa,
    avx2: bool,
}

impl HostIsas {
    fn detect() -> Self {
        HostIsas {
            best: Isa::detected().next_back().unwrap_or(Isa::Scalar),
            avx2: Isa::detected().any(|isa| isa == Isa::Avx2),
        }
    }
}

impl fmt::Display for HostIsas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scalar")?;
        if self.avx2 {
            f.write_str(", avx2")?;
        }
        if self.best >= Isa::Avx512 {
            f.write_str(", avx512")?;
        }
        if self.best == Isa::Amx {
            f.write_str(", amx")?;
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error("`{text}` is not an instruction set: choose scalar, avx2, avx512, amx or auto")]
    Unknown { text: String },
    #[error(
        "this host lacks {wanted} (it needs {}); it has {has}: choose one of these, or auto",
        wanted.features()
    )]
    Missing { wanted: Isa, has: HostIsas },
    #[error("amx cannot be used, for {lack}; this host has {has}: choose one of these, or auto")]
    NoTiles { lack: TilesLack, has: HostIsas },
}

/// Why a host's tiles cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TilesLack {
    /// The processor has no tiles of bytes, or not the AVX-512 that goes with them.
    Processor,
    /// The operating system, or what it runs in, does not keep the state of tiles.
    State,
    /// The kernel refused the process, with this error.
    Permission(i32),
}

impl fmt::Display for TilesLack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TilesLack::Processor => {
                write!(f, "the processor lacks some of {}", Isa::Amx.features())
            }
            TilesLack::State => f.write_str("the operating system does not turn tiles on"),
            TilesLack::Permission(error) => {
                let error = std::io::Error::from_raw_os_error(*error);
                write!(f, "the kernel refused the process its tiles: {error}")
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use super::amx::Amx;

/// Proof that the host has AVX2, FMA, F16C, BMI1 and BMI2.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

/// Proof that the host has AVX-512 F, BW, VL, DQ and VNNI, and all of [`Avx2`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        has.then_some(Avx2(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    pub fn detect() -> Option<Self> {
        let has = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Avx512(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_reads_back_and_the_rest_is_refused() {
        for choice in IsaChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let refused = "sse9".parse::<IsaChoice>().unwrap_err();
        assert!(refused.to_string().contains("`sse9`"), "{refused}");
    }

    #[test]
    fn auto_takes_the_best_and_amx_says_what_is_missing() {
        let best = IsaChoice::Auto.resolve().unwrap();
        assert!(Isa::detected().all(|isa| isa <= best));
        assert_eq!(IsaChoice::Scalar.resolve(), Ok(Isa::Scalar));
        match IsaChoice::Amx.resolve() {
            Ok(isa) => assert_eq!((isa, best), (Isa::Amx, Isa::Amx)),
            Err(refused) => assert!(refused.to_string().contains("amx"), "{refused}"),
        }
        let has = HostIsas { best: Isa::Avx512, avx2: true };
        let lack = TilesLack::Permission(1);
        let text = IsaError::NoTiles { lack, has }.to_string();
        assert!(text.contains("kernel refused") && text.contains("avx2, avx512:"), "{text}");
    }

    #[test]
    fn a_missing_set_is_named_with_what_the_host_has() {
        let has = HostIsas { best: Isa::Avx2, avx2: true };
        let text = IsaError::Missing { wanted: Isa::Avx512, has }.to_string();
        assert!(text.contains("lacks avx512") && text.contains("it has scalar, avx2:"), "{text}");
    }
}
