//! A file written by the `gguf` package, lest reader and test writer agree in an error.
//! `foreign.py` makes it.

use penstock::host::mapping::Bytes;
use penstock::math::Format;
use penstock::weights::{DType, Gguf};

#[test]
fn a_file_that_others_wrote() {
    let gguf = Gguf::from_bytes("foreign", Bytes::fixed(include_bytes!("foreign.gguf"))).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.string("general.architecture").unwrap(), "llama");
    let integers = [
        ("u8", 200),
        ("i8", -100),
        ("u16", 60_000),
        ("i16", -30_000),
        ("u32", 4_000_000_000),
        ("i32", -2_000_000_000),
        ("u64", 1 << 63),
        ("i64", -(1 << 62)),
    ];
    for (key, expected) in integers {
        assert_eq!(metadata.get(key).unwrap().as_integer(), Some(expected), "{key}");
        assert_eq!(metadata.get(key).unwrap().kind().name(), key);
    }
    assert_eq!((metadata.f32("f32").unwrap(), metadata.f32("f64").unwrap()), (0.5, 0.25));
    assert!(metadata.bool("bool").unwrap());
    assert_eq!(metadata.string("string").unwrap(), "Käse");
    let strings: Vec<&[u8]> = metadata.strings("strings").unwrap().collect();
    assert_eq!(strings, [&b""[..], "é".as_bytes(), b"<s>"]);
    assert_eq!(metadata.i32s("i32s").unwrap(), [1, -2, 3]);
    assert_eq!(metadata.f32s("f32s").unwrap(), [0.5, -1.0]);
    assert_eq!(metadata.bool_per_layer_opt("bools", 2).unwrap().unwrap(), [true, false]);

    let mut names = 0;
    for format in Format::ALL.into_iter().filter(|&f| f != Format::F8E4M3) {
        let tensor = gguf.require(&format!("t.{format}")).unwrap();
        assert_eq!(tensor.dtype, DType::Weights(format));
        assert_eq!(tensor.shape, [2, 256]);
        let n = gguf.tensors().position(|t| t.name == tensor.name).unwrap();
        let expected: Vec<u8> = (0..tensor.data.len()).map(|i| ((i * 7 + n) % 251) as u8).collect();
        assert_eq!(tensor.data[..], expected, "{format}");
        names += 1;
    }
    assert_eq!(gguf.tensors().len(), names);
}
