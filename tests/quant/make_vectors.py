#!/usr/bin/env python3
"""Writes vectors.bin: random blocks of each quantised format and what the PyPI package `gguf`
(0.19) makes of them, in f32.

    python tests/quant/make_vectors.py

The file: for each format its name (u8 length, ASCII), the number of blocks (u32), their bytes,
then the weights as f32 bits. All little-endian.
"""

import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

# Where the f16 scales lie in a block.
FORMATS = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}

# Zeros, the least and greatest subnormal, the least normal, one, the greatest; both signs.
SCALES = [s | b for s in (0, 0x8000) for b in (0, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF)]


def blocks(name, rng):
    kind = T[name]
    weights, size = GGML_QUANT_SIZES[kind]
    count = 24 if weights == 256 else 96
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for nth, at in enumerate(FORMATS[name]):
        scales = rng.integers(0, 1 << 16, count, dtype=np.uint16)
        scales[(scales & 0x7C00) == 0x7C00] &= 0xBBFF  # finite
        edges = SCALES if nth == 0 else SCALES[5:] + SCALES[:5]
        scales[: len(edges)] = edges
        data[:, at : at + 2] = scales.astype("<u2").view(np.uint8).reshape(count, 2)
    if name == "MXFP4":
        data[:6, 0] = [0, 1, 2, 127, 254, 255]
    return kind, data


def main():
    rng = np.random.default_rng(20240607)
    out = bytearray()
    for name in FORMATS:
        kind, data = blocks(name, rng)
        with np.errstate(over="ignore"):
            want = dequantize(data, kind).astype("<f4")
        assert not np.isnan(want).any()
        out += struct.pack("<B", len(name)) + name.encode() + struct.pack("<I", len(data))
        out += data.tobytes() + want.tobytes()
    path = pathlib.Path(__file__).with_name("vectors.bin")
    path.write_bytes(out)
    print(f"{path}: {len(out)} bytes")


if __name__ == "__main__":
    main()
