"""Writes foreign.gguf with the `gguf` package (PyPI, 0.17 or later; NumPy): every tensor type that
is read, every metadata type, as a writer that is not ours puts them. Run it in this folder."""

import gguf
import numpy as np

w = gguf.GGUFWriter("foreign.gguf", "llama")
w.add_uint8("u8", 200)
w.add_int8("i8", -100)
w.add_uint16("u16", 60000)
w.add_int16("i16", -30000)
w.add_uint32("u32", 4000000000)
w.add_int32("i32", -2000000000)
w.add_uint64("u64", 2**63)
w.add_int64("i64", -(2**62))
w.add_float32("f32", 0.5)
w.add_float64("f64", 0.25)
w.add_bool("bool", True)
w.add_string("string", "Käse")
w.add_array("strings", ["", "é", "<s>"])
w.add_array("i32s", [1, -2, 3])
w.add_array("f32s", [0.5, -1.0])
w.add_array("bools", [True, False])
for n, kind in enumerate(
    "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
):
    kind = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows = np.arange(2 * 256 // block * size) * 7 + n
    data = (rows % 251).astype(np.uint8).reshape(2, -1)
    w.add_tensor(f"t.{kind.name}", data, raw_dtype=kind)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
