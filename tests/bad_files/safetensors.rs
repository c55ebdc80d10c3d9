//! Safetensors files that are wrong in one place each.

use penstock::host::mapping::Bytes;
use penstock::weights::safetensors::SafeTensors;
use penstock::weights::{DType, Matrix};

use crate::allocation::{allowed, peak};
use crate::refused;
use crate::safetensors_writer::{SafetensorsWriter, raw};

pub fn good() -> SafetensorsWriter {
    SafetensorsWriter::new()
        .f32_tensor("norm", &[3], &[1.0, 2.0, 3.0])
        .tensor("half", "BF16", &[2, 3], [5; 12])
        .tensor("fp8", "F8_E4M3", &[4, 4], [6; 16])
        .tensor("nibbles", "U8", &[1, 2, 1, 16], [7; 32])
        .tensor("exponents", "U8", &[1, 2, 1], [7; 2])
        .tensor("steps", "I64", &[], [0; 8])
        .tensor("nothing", "F16", &[0, 7], [])
}

fn open(bytes: Vec<u8>) -> penstock::weights::Result<SafeTensors> {
    SafeTensors::from_bytes("bad.safetensors", Bytes::made(bytes))
}

#[test]
fn the_good_file_is_good() {
    let file = open(good().bytes()).unwrap();
    let half = file.tensor("half").unwrap();
    assert_eq!((&half.shape[..], &half.data[..]), (&[2, 3][..], &[5; 12][..]));
    assert_eq!(file.tensor("nibbles").unwrap().dtype, DType::U8);
    assert_eq!(file.tensors().len(), 7);
    // Listed, and refused by name only when asked for.
    let steps = file.tensor("steps").unwrap();
    refused(steps.format(), "bad.safetensors", "tensor 'steps'", "holds I64");
    let nothing = file.tensor("nothing").unwrap();
    refused(Matrix::whole(nothing), "bad.safetensors", "tensor 'nothing'", "0 rows of 7 F16");
    // An empty header with padding, as some writers leave it.
    assert_eq!(open(raw("{}   ", &[])).unwrap().tensors().len(), 0);
}

/// A file of one tensor `t` with these three fields, over 16 bytes of data.
fn one(dtype: &str, shape: &str, offsets: &str) -> Vec<u8> {
    let header = format!(r#"{{"t":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#);
    raw(header, &[0; 16])
}

#[test]
fn one_thing_wrong() {
    let two = |a: &str, b: &str| {
        let info = |offsets| format!(r#"{{"dtype":"U8","shape":[8],"data_offsets":{offsets}}}"#);
        raw(format!(r#"{{"a":{},"b":{}}}"#, info(a), info(b)), &[0; 16])
    };
    let t = "tensor 't'";
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (vec![], "file", "the file is empty"),
        (vec![1, 0, 0], "header", "cut short: it has 3 bytes"),
        (b"<!DOCTYPE html><title>not found".to_vec(), "file", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid".to_vec(), "file", "git lfs pull"),
        ((1_u64 << 63).to_le_bytes().to_vec(), "header", "100000000 are allowed"),
        (u64::MAX.to_le_bytes().to_vec(), "header", "100000000 are allowed"),
        (99_999_999_u64.to_le_bytes().to_vec(), "header", "cut short"),
        (raw("", &[]), "header", "EOF"),
        (raw("[]", &[]), "header", "expected an object that maps names to tensors"),
        (raw("{} {}", &[]), "header", "trailing"),
        (raw(b"{\"\xff\":{}}", &[]), "header", "unicode"),
        (raw("[".repeat(5000), &[]), "header", "expected an object"),
        (raw(format!("{{\"t\":{}", "[".repeat(5000)), &[]), "header", "tensor 't'"),
        (raw(r#"{"t":1}"#, &[]), "header", "tensor 't': invalid type"),
        (raw(r#"{"":1}"#, &[]), "header", "name is 0 bytes long"),
        (raw(format!(r#"{{"{}":1}}"#, "n".repeat(2000)), &[]), "header", "1024 are allowed"),
        (
            raw(r#"{"t":{"dtype":"U8","shape":[1]}}"#, &[0]),
            "header",
            "missing field `data_offsets`",
        ),
        (raw(r#"{"t":{"dtype":"U8","dtype":"U8"}}"#, &[0]), "header", "duplicate field `dtype`"),
        (one("3", "[16]", "[0,16]"), "header", "tensor 't': invalid type"),
        (one(r#""U8""#, "[-16]", "[0,16]"), "header", "tensor 't': invalid value"),
        (one(r#""U8""#, "[16]", "[0,-16]"), "header", "tensor 't': invalid value"),
        (one(r#""U8""#, "[1.5]", "[0,16]"), "header", "tensor 't': invalid type"),
        (one(r#""U8""#, "[1e99]", "[0,16]"), "header", "tensor 't': invalid"),
        (one(r#""U8""#, "[16]", "[0,16,17]"), "header", "tensor 't'"),
        (one(r#""U8""#, "[16]", "[0]"), "header", "tensor 't': invalid length 1"),
        (one(r#""U8""#, "[1,1,1,1,1,1,1,1,16]", "[0,16]"), "header", "more than 8 dimensions"),
        (one(r#""U9""#, "[16]", "[0,16]"), t, "dtype 'U9' is not known"),
        (one(r#""U8""#, "[17]", "[0,17]"), t, "do not lie in the 16 bytes"),
        (one(r#""U8""#, "[16]", "[16,0]"), t, "do not lie in"),
        (one(r#""U8""#, "[16]", "[18446744073709551615,16]"), t, "do not lie in"),
        (one(r#""U8""#, "[16]", "[0,18446744073709551615]"), t, "do not lie in"),
        (one(r#""U8""#, "[15]", "[0,16]"), t, "takes 15 bytes"),
        (one(r#""F32""#, "[16]", "[0,16]"), t, "F32 of shape [16] takes 64 bytes"),
        (one(r#""F32""#, "[4611686018427387904,4]", "[0,16]"), t, "beyond any memory"),
        (one(r#""F4""#, "[1]", "[0,16]"), t, "ends inside a byte"),
        (one(r#""U8""#, "[15]", "[1,16]"), "data_offsets", "byte 0 of the 16"),
        (one(r#""U8""#, "[15]", "[0,15]"), "data_offsets", "byte 15 of the 16"),
        (two("[0,8]", "[0,8]"), "tensor 'b'", "overlaps that of 'a'"),
        (two("[4,12]", "[0,8]"), "tensor 'a'", "overlaps that of 'b'"),
        (two("[0,8]", "[7,15]"), "tensor 'b'", "overlaps that of 'a'"),
        (good().f32_tensor("norm", &[1], &[0.0]).bytes(), "tensor 'norm'", "occurs twice"),
    ];
    for (bytes, field, reason) in cases {
        let len = bytes.len();
        let (result, peak) = peak(|| open(bytes));
        refused(result, "bad.safetensors", field, reason);
        assert!(peak <= allowed(len), "{field}: {reason}: {peak} bytes held for {len}");
    }
}

#[test]
fn cut_short_at_every_byte() {
    let bytes = good().bytes();
    for len in 0..bytes.len() {
        let error = open(bytes[..len].to_vec()).unwrap_err().to_string();
        assert!(error.starts_with("bad.safetensors: "), "{error}");
    }
}

#[test]
fn a_header_of_the_smallest_things_costs_little() {
    let mut tensors = String::from("{");
    for i in 0..20_000 {
        let info = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        tensors.push_str(&format!("{}\"{i:x}\":{info}", if i > 0 { "," } else { "" }));
    }
    tensors.push('}');
    let notes = format!(r#"{{"__metadata__":[{}0]}}"#, "0,".repeat(500_000));
    for header in [tensors, notes] {
        let bytes = Bytes::made(raw(header, &[]));
        let (file, peak) = peak(|| SafeTensors::from_bytes("x", bytes.clone()).unwrap());
        assert!(peak <= 16 * bytes.len(), "{peak} bytes held for {}", bytes.len());
        drop(file);
    }
}
