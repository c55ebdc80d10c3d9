//! ggml's numbers for tensor types.

use crate::math::Format;

/// A type as this program sees it.
pub(super) enum TensorType {
    Read(Format),
    /// Known by name, not read.
    Known(&'static str),
    Unknown,
}

pub(super) fn tensor_type(id: u32) -> TensorType {
    use TensorType::{Known, Read, Unknown};
    match id {
        0 => Read(Format::F32),
        1 => Read(Format::F16),
        2 => Read(Format::Q4_0),
        3 => Read(Format::Q4_1),
        4 => Known("Q4_2 (long withdrawn)"),
        5 => Known("Q4_3 (long withdrawn)"),
        6 => Read(Format::Q5_0),
        7 => Read(Format::Q5_1),
        8 => Read(Format::Q8_0),
        9 => Known("Q8_1"),
        10 => Read(Format::Q2K),
        11 => Read(Format::Q3K),
        12 => Read(Format::Q4K),
        13 => Read(Format::Q5K),
        14 => Read(Format::Q6K),
        15 => Known("Q8_K"),
        16 => Known("IQ2_XXS"),
        17 => Known("IQ2_XS"),
        18 => Known("IQ3_XXS"),
        19 => Known("IQ1_S"),
        20 => Read(Format::IQ4NL),
        21 => Known("IQ3_S"),
        22 => Known("IQ2_S"),
        23 => Read(Format::IQ4XS),
        24 => Known("I8"),
        25 => Known("I16"),
        26 => Known("I32"),
        27 => Known("I64"),
        28 => Known("F64"),
        29 => Known("IQ1_M"),
        30 => Read(Format::BF16),
        31 => Known("Q4_0_4_4 (withdrawn)"),
        32 => Known("Q4_0_4_8 (withdrawn)"),
        33 => Known("Q4_0_8_8 (withdrawn)"),
        34 => Known("TQ1_0"),
        35 => Known("TQ2_0"),
        36 => Known("IQ4_NL_4_4 (withdrawn)"),
        37 => Known("IQ4_NL_4_8 (withdrawn)"),
        38 => Known("IQ4_NL_8_8 (withdrawn)"),
        39 => Read(Format::MXFP4),
        40 => Known("NVFP4"),
        41 => Known("Q1_0"),
        _ => Unknown,
    }
}

/// The number of a format; `None` for one that GGUF does not have.
pub(super) fn type_id(format: Format) -> Option<u32> {
    (0..64).find(|&id| matches!(tensor_type(id), TensorType::Read(read) if read == format))
}

/// The formats a GGUF file may hold, for messages.
pub(super) fn read_here() -> String {
    let ids = 0..64;
    let names: Vec<&str> = ids
        .filter_map(|id| match tensor_type(id) {
            TensorType::Read(format) => Some(format.name()),
            TensorType::Known(_) | TensorType::Unknown => None,
        })
        .collect();
    names.join(", ")
}
