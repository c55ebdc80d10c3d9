//! A GGUF file in memory: opened, its metadata walked, every tensor's bytes reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::host::mapping::Bytes;
use penstock::weights::{Gguf, Matrix};

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz", Bytes::made(data.into())) else { return };
    let metadata = gguf.metadata();
    for (key, value) in metadata.iter() {
        let _ = metadata.u32_per_layer_opt(key, 4);
        let _ = metadata.string_opt(key);
        if let Some(array) = value.as_array() {
            let walked = match (array.strings(), array.scalars()) {
                (Some(strings), _) => strings.count(),
                (None, Some(scalars)) => scalars.count(),
                (None, None) => unreachable!("arrays of arrays are refused"),
            };
            assert_eq!(walked, array.len());
        }
    }
    for tensor in gguf.tensors() {
        for matrix in [Matrix::whole(tensor), Matrix::expert(tensor, 0)].into_iter().flatten() {
            assert_eq!(matrix.row(matrix.rows() - 1).len(), matrix.row_bytes());
        }
    }
});
