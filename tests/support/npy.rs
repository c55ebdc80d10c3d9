//! Reads the float32 matrices that NumPy wrote.

use std::fs;
use std::path::Path;

/// `[rows][cols]` of a version 1 `.npy` file.
pub fn read(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(bytes.starts_with(b"\x93NUMPY\x01"), "{}", path.display());
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let dict = std::str::from_utf8(&bytes[10..header]).unwrap();
    assert!(dict.contains("'<f4'") && dict.contains("'fortran_order': False"), "{dict}");
    let shape = dict.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let sizes: Vec<usize> = shape.split(',').map(|n| n.trim().parse().unwrap()).collect();
    let [rows, cols] = sizes[..] else { panic!("{dict}") };
    let values: Vec<f32> =
        bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values.len(), rows * cols);
    values.chunks(cols).map(<[f32]>::to_vec).collect()
}
