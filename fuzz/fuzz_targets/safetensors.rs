//! A safetensors file in memory: opened, and every pair of tensors offered to the recipes that
//! take two.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::host::mapping::Bytes;
use penstock::weights::Matrix;
use penstock::weights::safetensors::SafeTensors;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = SafeTensors::from_bytes("fuzz", Bytes::made(data.into())) else { return };
    for a in file.tensors().take(8) {
        let _ = Matrix::whole(a).and_then(|matrix| matrix.every_second(1));
        for b in file.tensors().take(8) {
            let _ = Matrix::mxfp4_expert(a, b, 0);
            if let Ok(matrix) = Matrix::block_scaled(a, b, [2, 2]) {
                let scales = matrix.scales().expect("it was made with scales");
                let _ = scales.at(matrix.rows() - 1, matrix.cols() - 1);
            }
        }
    }
});
