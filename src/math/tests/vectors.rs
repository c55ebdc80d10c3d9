//! Dequantisation against the reference package's own numbers.

use super::*;
use crate::math::dequantise;

fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (head, tail) = rest.split_at(n);
    *rest = tail;
    head
}

#[test]
fn every_quantised_format_equals_the_reference_package() {
    // Written by tests/quant/make_vectors.py.
    let mut rest: &[u8] = include_bytes!("../../../tests/quant/vectors.bin");
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let len = take(&mut rest, 1)[0] as usize;
        let name = str::from_utf8(take(&mut rest, len)).unwrap();
        let format = Format::ALL.into_iter().find(|f| f.name() == name).unwrap();
        let blocks = u32::from_le_bytes(take(&mut rest, 4).try_into().unwrap()) as usize;
        let bytes = take(&mut rest, blocks * format.block_bytes());
        let weights = blocks * format.block();
        let want = take(&mut rest, weights * 4).as_chunks::<4>().0;
        let mut got = vec![f32::NAN; weights];
        assert!(dequantise(format, bytes, &mut got));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let want = u32::from_le_bytes(*want);
            assert_eq!(got.to_bits(), want, "{format}, weight {i}: {got:e}");
        }
        seen.push(format);
    }
    let quantised: Vec<Format> = Format::ALL.into_iter().filter(|f| f.block() > 1).collect();
    assert_eq!(seen, quantised);
}

#[test]
fn float_formats_widen_exactly() {
    for bits in 0..=u16::MAX {
        let one = |format| {
            let mut out = [0.0];
            assert!(dequantise(format, &bits.to_le_bytes(), &mut out));
            out[0]
        };
        same_bits(&[one(Format::F16)], &[half::f16::from_bits(bits).to_f32()], "F16");
        same_bits(&[one(Format::BF16)], &[half::bf16::from_bits(bits).to_f32()], "BF16");
    }
    for byte in 0..=u8::MAX {
        let (exponent, mantissa) = ((byte >> 3 & 15) as i32, (byte & 7) as f64);
        let size = match exponent {
            0 => mantissa / 8.0 * 2f64.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
        };
        let size = if byte & 0x7f == 0x7f { f32::NAN } else { size as f32 };
        let mut out = [0.0];
        assert!(dequantise(Format::F8E4M3, &[byte], &mut out));
        same_bits(&out, &[if byte & 0x80 == 0 { size } else { -size }], "F8_E4M3");
    }
}

#[test]
fn bytes_that_do_not_fit_the_weights_are_refused() {
    let mut out = [5.0; 64];
    assert!(!dequantise(Format::Q8_0, &[0; 67], &mut out));
    assert!(!dequantise(Format::Q8_0, &[0; 69], &mut out));
    assert!(!dequantise(Format::Q8_0, &[0; 34], &mut out[..31]));
    assert_eq!(out, [5.0; 64]);
    assert!(dequantise(Format::Q8_0, &[0; 68], &mut out));
    assert_eq!(out, [0.0; 64]);
}
