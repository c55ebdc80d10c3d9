//! What a plan refuses, each time with the number that would do.

use std::fmt;

use crate::base::units::Bytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The budget is too small.
    Budget {
        model: String,
        budget: u64,
        /// What everything but the slabs takes.
        fixed: u64,
        /// The budget that would do.
        enough: u64,
        /// A smaller context and chunk, and what each would save.
        context: usize,
        saved_by_context: u64,
        chunk: usize,
        saved_by_chunk: u64,
    },
    /// The budget is more than there is.
    Host { asked: u64, free: u64, limit: Option<u64> },
}

impl Refusal {
    /// The same where another model takes so many bytes of the `whole` budget.
    pub fn beside(self, other: &str, bytes: u64, whole: Option<u64>) -> Refusal {
        match self {
            Refusal::Budget { model, budget, fixed, enough, .. } => Refusal::Budget {
                model: format!("{model} and {other}"),
                budget: whole.unwrap_or(budget + bytes),
                fixed: fixed + bytes,
                enough: enough + bytes,
                context: 0,
                saved_by_context: 0,
                chunk: 0,
                saved_by_chunk: 0,
            },
            Refusal::Host { asked, free, limit } => Refusal::Host {
                asked: asked + bytes,
                free: free + bytes,
                limit: limit.map(|limit| limit + bytes),
            },
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Budget {
                model,
                budget,
                fixed,
                enough,
                context,
                saved_by_context,
                chunk,
                saved_by_chunk,
            } => {
                write!(
                    f,
                    "{} of memory are too little: the trunk, pages, scratch and program of {model} \
                     take {}, and with --memory {} the experts of one token fit too",
                    Bytes(*budget),
                    Bytes(*fixed),
                    Enough(*enough)
                )?;
                if *saved_by_context > 0 {
                    write!(f, "; --context {context} saves {}", Bytes(*saved_by_context))?;
                }
                if *saved_by_chunk > 0 {
                    write!(f, "; --prefill-chunk {chunk} saves {}", Bytes(*saved_by_chunk))?;
                }
                Ok(())
            }
            Refusal::Host { asked, free, limit } => {
                write!(
                    f,
                    "the plan takes {} and this process can have {}",
                    Bytes(*asked),
                    Bytes(*free)
                )?;
                if limit == &Some(*free) {
                    f.write_str(", its control group's limit")?;
                }
                write!(f, ": give at most --memory {}", Most(*free))
            }
        }
    }
}

/// A number of bytes as an option takes it, rounded up to a hundredth: what is named suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enough(pub u64);

impl fmt::Display for Enough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        option(f, self.0, f64::ceil)
    }
}

/// The same, rounded down.
struct Most(u64);

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        option(f, self.0, f64::floor)
    }
}

fn option(f: &mut fmt::Formatter<'_>, bytes: u64, round: fn(f64) -> f64) -> fmt::Result {
    let hundredths = |unit: u64| round(bytes as f64 / unit as f64 * 100.0) / 100.0;
    match bytes {
        0..0x4000_0000 => write!(f, "{}MiB", round(bytes as f64 / (1 << 20) as f64)),
        _ => write!(f, "{}GiB", hundredths(1 << 30)),
    }
}
