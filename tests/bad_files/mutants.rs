//! Twenty thousand damaged files, the same ones on every run: each is read or refused, without a
//! panic and within its size class. What is read is then used as a model would use it.

use std::path::Path;

use penstock::host::mapping::Bytes;
use penstock::weights::folder::{Index, parse_json};
use penstock::weights::safetensors::SafeTensors;
use penstock::weights::{Gguf, Matrix, Tensor, vector};

use crate::allocation::{allowed, peak};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0xffff,
    1 << 20,
    1 << 31,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    1 << 61,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

const SNIPPETS: [&str; 14] = [
    "-1",
    "18446744073709551616",
    "1e308",
    "null",
    "{}",
    "[]",
    "\"\"",
    "[[[[",
    "\\u0000",
    "\\ud800",
    "../",
    ",",
    "\"dtype\":\"I64\",",
    "F4",
];

/// Damages a file in one to three places, half of the time within its first 256 bytes.
fn mutate(file: &[u8], random: &mut Random, text: bool) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(3) {
        let reach = if random.below(2) == 0 { bytes.len().min(256) } else { bytes.len() };
        let at = random.below(reach);
        match random.below(if text { 8 } else { 7 }) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            // A number written over whatever is there: lengths, counts, offsets, types.
            3 | 4 => {
                let width = random.pick(&[4, 8]);
                let number = random.pick(&NUMBERS).to_le_bytes();
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            // A stretch moved, doubled or taken out.
            5 => {
                let from = random.below(bytes.len());
                let end = bytes.len().min(from + random.below(64));
                let stretch = bytes[from..end].to_vec();
                bytes.splice(at..at, stretch);
            }
            6 => {
                let end = bytes.len().min(at + random.below(64));
                bytes.drain(at..end);
            }
            _ => {
                let end = bytes.len().min(at + random.below(4));
                bytes.splice(at..end, random.pick(&SNIPPETS).bytes());
            }
        }
    }
    bytes
}

fn use_matrix(matrix: &Matrix) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    assert_eq!(matrix.row(rows - 1).len(), matrix.row_bytes());
    assert_eq!(matrix.transposed().unwrap().rows(), cols);
    assert_eq!(matrix.gather_rows(&[rows - 1, 0]).unwrap().row(1), matrix.row(0));
    assert_eq!(matrix.every_second(0).unwrap().rows(), rows.div_ceil(2));
    assert_eq!(matrix.every_second(1).is_ok(), rows > 1);
    assert!(matrix.rows_in(0..rows + 1).is_err());
}

fn use_tensors<'a>(tensors: impl Iterator<Item = &'a Tensor>) {
    for tensor in tensors {
        let _ = vector(tensor, tensor.elements());
        if let Ok(matrix) = Matrix::whole(tensor) {
            use_matrix(&matrix);
        }
        if let Ok(expert) = Matrix::expert(tensor, 0) {
            use_matrix(&expert);
        }
    }
}

fn read_gguf(bytes: Vec<u8>) -> bool {
    let Ok(gguf) = Gguf::from_bytes("mutant", Bytes::made(bytes)) else { return false };
    let metadata = gguf.metadata();
    for (key, value) in metadata.iter() {
        let _ = format!("{value:?}");
        let _ = metadata.u32_per_layer_opt(key, 3);
        let _ = metadata.bool_per_layer_opt(key, 3);
        let _ = metadata.string_opt(key);
        let _ = metadata.f32s_opt(key);
        if let Ok(Some(strings)) = metadata.strings_opt(key) {
            let announced = strings.len();
            assert_eq!(strings.count(), announced, "an array that was accepted is whole");
        }
        if let Some(scalars) = value.as_array().and_then(|array| array.scalars()) {
            assert_eq!(scalars.len(), value.as_array().unwrap().len());
            assert!(
                scalars.map(|scalar| scalar.kind()).all(|k| k == value.as_array().unwrap().kind())
            );
        }
    }
    use_tensors(gguf.tensors());
    true
}

fn read_safetensors(bytes: Vec<u8>) -> bool {
    let Ok(file) = SafeTensors::from_bytes("mutant", Bytes::made(bytes)) else { return false };
    use_tensors(file.tensors());
    if let (Some(blocks), Some(scales)) = (file.tensor("nibbles"), file.tensor("exponents"))
        && let Ok(expert) = Matrix::mxfp4_expert(blocks, scales, 0)
    {
        use_matrix(&expert);
    }
    if let (Some(weight), Some(scales)) = (file.tensor("fp8"), file.tensor("norm"))
        && let Ok(matrix) = Matrix::block_scaled(weight, scales, [2, 3])
    {
        use_matrix(&matrix);
    }
    true
}

fn run(file: Vec<u8>, text: bool, mutants: usize, seed: u64, read: fn(Vec<u8>) -> bool) {
    let mut good = 0;
    for i in 0..mutants {
        let mut random = Random(seed << 32 | i as u64);
        let mutant = mutate(&file, &mut random, text);
        let len = mutant.len();
        let (was_good, held) = peak(|| read(mutant));
        assert!(held <= allowed(len), "mutant {i} of seed {seed}: {held} bytes held for {len}");
        good += usize::from(was_good);
    }
    // Neither side may starve: damage in data passes, damage in a header is seen.
    assert!(good > 0 && good < mutants, "{good} of {mutants} were read");
}

#[test]
fn gguf_mutants() {
    run(crate::gguf::good().bytes(), false, 6_000, 1, read_gguf);
    let v2 = crate::gguf::good().version(2).alignment(8).bytes();
    run(v2, false, 4_000, 2, read_gguf);
}

#[test]
fn safetensors_mutants() {
    run(crate::safetensors::good().bytes(), true, 6_000, 3, read_safetensors);
}

#[test]
fn json_mutants() {
    let config = br#"{"model_type":"llama","rope_scaling":{"type":"yarn","factor":4.0},
        "eos_token_id":[1,2],"hidden_size":4096,"tie":false,"name":"\u00e9x"}"#;
    run(config.to_vec(), true, 3_000, 4, |bytes| parse_json(Path::new("mutant"), &bytes).is_ok());
    let index = br#"{"metadata":{"total_size":12},"weight_map":{"a":"m-1.safetensors",
        "b":"m-2.safetensors","c":"m-1.safetensors"}}"#;
    run(index.to_vec(), true, 3_000, 5, |bytes| Index::parse(Path::new("mutant"), &bytes).is_ok());
}
