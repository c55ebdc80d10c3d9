//! GGUF files that are wrong in one place each.

use penstock::host::mapping::Bytes;
use penstock::math::Format;
use penstock::weights::Gguf;

use crate::allocation::{allowed, peak};
use crate::gguf_writer::{GgufWriter, string};
use crate::refused;

/// A good file with every kind of value and a few tensors.
pub fn good() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .u8("u8", 200)
        .raw(b"i8", 1, &[0x80])
        .u16("u16", 60_000)
        .raw(b"i16", 3, &(-5_i16).to_le_bytes())
        .u32("u32", 7)
        .i32("i32", -7)
        .f32("f32", 0.5)
        .bool("bool", true)
        .u64("u64", u64::MAX)
        .i64("i64", -1)
        .f64("f64", 1e-6)
        .strings("tokens", &[&b"<s>"[..], b"\xff\xc3", b"", b"the"])
        .f32s("scores", &[0.0, -1.0, -2.0, -3.0])
        .i32s("types", &[3, 6, 1, 1])
        .u32s("head_count_kv", &[8, 8, 2])
        .bools("pattern", &[true, false, true])
        .f32_tensor("norm", &[4], &[1.0, 2.0, 3.0, 4.0])
        .tensor("q", Format::Q4K, &[2, 512], vec![7; 4 * 144])
        .tensor("experts", Format::MXFP4, &[3, 2, 64], vec![9; 12 * 17])
        .tensor("half", Format::F16, &[3, 5], vec![1; 30])
}

fn open(bytes: Vec<u8>) -> penstock::weights::Result<Gguf> {
    Gguf::from_bytes("bad.gguf", Bytes::made(bytes))
}

#[test]
fn the_good_file_is_good() {
    for version in [2, 3] {
        for alignment in [8, 32, 256] {
            let gguf = open(good().version(version).alignment(alignment).bytes()).unwrap();
            let metadata = gguf.metadata();
            assert_eq!(gguf.version(), version);
            assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
            assert_eq!(metadata.u32("u8").unwrap(), 200);
            assert_eq!(metadata.u64("u64").unwrap(), u64::MAX);
            assert_eq!(metadata.f32("f64").unwrap(), 1e-6);
            assert!(metadata.bool("bool").unwrap());
            let tokens: Vec<&[u8]> = metadata.strings("tokens").unwrap().collect();
            assert_eq!(tokens, [&b"<s>"[..], b"\xff\xc3", b"", b"the"]);
            assert_eq!(metadata.f32s("scores").unwrap(), [0.0, -1.0, -2.0, -3.0]);
            assert_eq!(metadata.i32s("types").unwrap(), [3, 6, 1, 1]);
            assert_eq!(metadata.u32_per_layer("head_count_kv", 3).unwrap(), [8, 8, 2]);
            assert_eq!(metadata.u32_per_layer("u32", 3).unwrap(), [7, 7, 7]);
            let pattern = metadata.bool_per_layer_opt("pattern", 3).unwrap().unwrap();
            assert_eq!(pattern, [true, false, true]);
            assert_eq!(metadata.u32_opt("nothing").unwrap(), None);
            let experts = gguf.require("experts").unwrap();
            assert_eq!((&experts.shape[..], &experts.data[..]), (&[3, 2, 64][..], &[9; 204][..]));
            assert_eq!(gguf.tensor("half").unwrap().data[..], [1; 30]);
            let names: Vec<&str> = gguf.tensors().map(|t| t.name.as_str()).collect();
            assert_eq!(names, ["norm", "q", "experts", "half"]);
        }
    }
}

#[test]
fn getters_say_what_is_wrong() {
    let gguf = open(good().bytes()).unwrap();
    let metadata = gguf.metadata();
    let file = "bad.gguf";
    refused(metadata.u32("nothing"), file, "metadata key 'nothing'", "is missing");
    refused(metadata.u32("f32"), file, "metadata key 'f32'", "expected an integer");
    refused(metadata.u32("i32"), file, "metadata key 'i32'", "is -7, which does not fit into u32");
    refused(metadata.u32("u64"), file, "metadata key 'u64'", "does not fit");
    refused(metadata.f32("u32"), file, "metadata key 'u32'", "expected a float");
    refused(metadata.string("u32"), file, "metadata key 'u32'", "found a value of type u32");
    refused(metadata.strings("types"), file, "metadata key 'types'", "an array of i32");
    refused(metadata.u32s("tokens"), file, "metadata key 'tokens'", "an array of string");
    refused(
        metadata.u32s("types").map(|_| ()).and(metadata.u32s("scores")),
        file,
        "'scores'",
        "integer",
    );
    refused(
        metadata.u32_per_layer("head_count_kv", 4),
        file,
        "metadata key 'head_count_kv'",
        "has 3 values for 4 layers",
    );
    refused(gguf.require("nothing"), file, "tensor 'nothing'", "is missing");
}

#[test]
fn one_thing_wrong() {
    let tensor = |dimensions: &[u64], kind: u32| {
        GgufWriter::new().raw_tensor(b"t", dimensions, kind, vec![0; 64])
    };
    let f32_at = |offset: u64| {
        GgufWriter::new()
            .f32_tensor("a", &[16], &[0.0; 16])
            .f32_tensor("b", &[16], &[0.0; 16])
            .at(offset)
    };
    let with = |change: fn(&mut GgufWriter)| {
        let mut writer = good();
        change(&mut writer);
        writer
    };
    let text = string(b"x");
    let cases: Vec<(GgufWriter, &str, &str)> = vec![
        // The front.
        (good().version(1), "version", "GGUF version 1"),
        (good().version(4), "version", "4 is not known"),
        (good().version(3_u32.swap_bytes()), "version", "big-endian"),
        (with(|w| w.tensor_count = Some(1 << 63)), "tensor count", "more than the file can hold"),
        (with(|w| w.tensor_count = Some(u64::MAX)), "tensor count", "more than the file can hold"),
        (with(|w| w.tensor_count = Some(1 << 31)), "tensor count", "more than the file can hold"),
        (with(|w| w.pair_count = Some(1 << 63)), "metadata count", "more than the file can hold"),
        (with(|w| w.pair_count = Some(1 << 31)), "metadata count", "more than the file can hold"),
        // One pair too few: the next key is read as a tensor.
        (with(|w| w.pair_count = Some(16)), "tensor 'pattern'", "9 dimensions"),
        // Keys and values.
        (good().raw(b"", 0, &[1]), "metadata key 18 of 18", "name is empty"),
        (good().raw(b"a\xff", 0, &[1]), "metadata key 18 of 18", "not valid UTF-8: \"a\\xff\""),
        (good().raw(&[b'k'; 65_536], 0, &[1]), "metadata key 18 of 18", "65535 are allowed"),
        (good().u32("u32", 8), "metadata key 'u32'", "occurs twice"),
        (good().raw(b"k", 13, &[1]), "metadata key 'k'", "type 13 is not known"),
        (good().raw(b"k", u32::MAX, &[1]), "metadata key 'k'", "4294967295 is not known"),
        (good().raw(b"k", 7, &[2]), "metadata key 'k'", "neither 0 nor 1"),
        (good().raw(b"k\n\x1b[2J", 7, &[2]), "metadata key 'k\\n\\u{1b}[2J'", "neither 0 nor 1"),
        (good().raw(b"k", 8, &(1_u64 << 63).to_le_bytes()), "metadata key 'k'", "cut short"),
        (good().raw_array("k", 7, 2, &[1, 2]), "metadata key 'k'", "neither 0 nor 1"),
        (good().raw_array("k", 4, 1 << 63, &[]), "metadata key 'k'", "more than the file can hold"),
        (good().raw_array("k", 4, 1 << 62, &[]), "metadata key 'k'", "more than the file can hold"),
        (good().raw_array("k", 8, 1 << 61, &[]), "metadata key 'k'", "more than the file can hold"),
        (good().raw_array("k", 8, 200, &text), "metadata key 'k'", "more than the file can hold"),
        (good().raw_array("k", 99, 1, &[]), "metadata key 'k'", "element type 99 is not known"),
        (good().raw_array("k", 9, 1, &[0; 64]), "metadata key 'k'", "array of arrays"),
        (good().string("general.alignment", "x"), "'general.alignment'", "expected an integer"),
        (good().u32("general.alignment", 0), "'general.alignment'", "no power of two"),
        (good().u32("general.alignment", 24), "'general.alignment'", "no power of two"),
        (good().u32("general.alignment", 1 << 31), "tensor data", "cut short"),
        // Tensors.
        (tensor(&[], 0), "tensor 't'", "has 0 dimensions"),
        (tensor(&[1, 1, 1, 1, 1], 0), "tensor 't'", "has 5 dimensions"),
        (tensor(&[16, 0], 0), "tensor 't'", "dimension of size 0"),
        (tensor(&[17], 0), "tensor 't'", "beyond the file's end"),
        (tensor(&[1 << 62], 0), "tensor 't'", "has rows of"),
        (tensor(&[1 << 40, 1 << 40], 0), "tensor 't'", "beyond any memory"),
        (tensor(&[1 << 32, 1 << 32, 1 << 32, 1 << 32], 1), "tensor 't'", "beyond any memory"),
        (tensor(&[33], 2), "tensor 't'", "rows of 33 Q4_0 weights, which is no whole number"),
        (tensor(&[32], 12), "tensor 't'", "blocks of 256"),
        (tensor(&[16], 4), "tensor 't'", "Q4_2"),
        (tensor(&[16], 16), "tensor 't'", "is of type IQ2_XXS, which is not read; use a file"),
        (tensor(&[16], 26), "tensor 't'", "is of type I32"),
        (tensor(&[16], 999), "tensor 't'", "type 999, which is not known; read are F32, F16, Q4_0"),
        (f32_at(0), "tensor 'b'", "overlaps that of 'a'"),
        (f32_at(32), "tensor 'b'", "overlaps that of 'a'"),
        (f32_at(8), "tensor 'b'", "no multiple of the alignment 32"),
        (f32_at(128), "tensor 'b'", "beyond the file's end"),
        (f32_at(1 << 63), "tensor 'b'", "beyond the file's end"),
        (f32_at(u64::MAX - 31), "tensor 'b'", "beyond the file's end"),
        (good().f32_tensor("norm", &[1], &[0.0]), "tensor 'norm'", "occurs twice"),
        (good().raw_tensor(b"", &[1], 0, vec![0; 4]), "tensor 5 of 5", "name is empty"),
        (good().raw_tensor(b"\xf0", &[1], 0, vec![0; 4]), "tensor 5 of 5", "not valid UTF-8"),
        (good().raw_tensor(&[b'n'; 257], &[1], 0, vec![0; 4]), "tensor 5 of 5", "256 are allowed"),
    ];
    for (writer, field, reason) in cases {
        let bytes = writer.bytes();
        let len = bytes.len();
        let (result, peak) = peak(|| open(bytes));
        refused(result, "bad.gguf", field, reason);
        assert!(peak <= allowed(len), "{field}: {reason}: {peak} bytes held for {len}");
    }
}

#[test]
fn cut_short_at_every_byte() {
    let (bytes, ends) = good().with_boundaries();
    for len in 0..bytes.len() {
        let error = open(bytes[..len].to_vec()).unwrap_err().to_string();
        assert!(error.starts_with("bad.gguf: "), "{error}");
        // Behind the magic, a cut is called a cut wherever it falls between two fields. A count
        // is the exception: it is held against what is left.
        if ends.contains(&len) && len > 8 {
            let said = ["cut short", "more than the file can hold"];
            assert!(said.iter().any(|said| error.contains(said)), "{len}: {error}");
        }
    }
}

#[test]
fn strangers() {
    for (bytes, reason) in [
        (&b""[..], "the file is empty"),
        (b"GGU", "it starts with \"GGU\""),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b"\0\x01\x02\x03\xff", "it starts with \"\\x00\\x01\\x02\\x03\\xff\""),
    ] {
        refused(open(bytes.into()), "bad.gguf", "magic", reason);
    }
}

#[test]
fn a_file_of_the_smallest_things_costs_little() {
    let mut pairs = GgufWriter::new();
    for i in 0..20_000_u32 {
        // Three bytes of key, one of value.
        let key = [b'a' + (i % 26) as u8, b'a' + (i / 26 % 26) as u8, b'0' + (i / 676) as u8];
        pairs = pairs.raw(&key, 0, &[0]);
    }
    let mut tensors = GgufWriter::new();
    for i in 0..10_000_u32 {
        tensors = tensors.raw_tensor(format!("{i:x}").as_bytes(), &[1], 0, vec![0; 4]);
    }
    let tokens = GgufWriter::new().strings("t", &vec![""; 100_000]);
    for (writer, most) in [(pairs, 64), (tensors, 64), (tokens, 1)] {
        let bytes = Bytes::made(writer.bytes());
        let (gguf, peak) = peak(|| Gguf::from_bytes("x", bytes.clone()).unwrap());
        assert!(peak <= most * bytes.len(), "{peak} bytes held for {}", bytes.len());
        drop(gguf);
    }
}
