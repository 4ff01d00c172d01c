"""Makes all_types.gguf and all_types.safetensors, what the gguf package dequantises it to.

    pip install gguf==0.19.0 safetensors numpy && python make_samples.py
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

ROWS, WIDTH = 3, 512
random = np.random.default_rng(7)
folder = Path(__file__).parent


def halves(count, low, high):
    """Halves of both signs, subnormal ones and zero among them."""
    values = random.uniform(low, high, (count, 1)).astype(np.float16)
    values[0], values[1] = 0, np.float16(3e-7)
    return values.view(np.uint8)


def random_blocks(kind):
    """Blocks of a type that the package cannot quantise: any bytes, with possible scales."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = ROWS * WIDTH // elements
    raw = random.integers(0, 256, (blocks, size), dtype=np.uint8)
    if kind in (Type.Q4_K, Type.Q5_K):
        raw[:, 0:2], raw[:, 2:4] = halves(blocks, -2, 2), halves(blocks, -2, 2)
    else:
        raw[:, 208:210] = halves(blocks, -2, 2)
    return raw.reshape(ROWS, -1)


writer = gguf.GGUFWriter(folder / "all_types.gguf", "llama")
writer.add_uint8("sample.uint8", 200)
writer.add_int8("sample.int8", -100)
writer.add_uint16("sample.uint16", 60000)
writer.add_int16("sample.int16", -30000)
writer.add_uint32("sample.uint32", 4_000_000_000)
writer.add_int32("sample.int32", -2_000_000_000)
writer.add_uint64("sample.uint64", 2**62)
writer.add_int64("sample.int64", -(2**62))
writer.add_float32("sample.float32", 0.5)
writer.add_float64("sample.float64", 0.1)
writer.add_bool("sample.bool", True)
writer.add_string("sample.string", "naïve\n\u2028")
writer.add_array("sample.strings", ["a", "", "ÄÖ"])
writer.add_array("sample.integers", [1, -2, 3])
writer.add_array("sample.floats", [0.5, -1.25])
writer.add_array("sample.bools", [True, False])

expected = {}
for kind in (Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K):
    values = (random.standard_normal((ROWS, WIDTH)) * np.exp(random.standard_normal((ROWS, WIDTH)))).astype(np.float32)
    values[1, :64] = 0
    raw = random_blocks(kind) if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K) else gguf.quants.quantize(values, kind)
    if kind in (Type.F32, Type.F16):
        writer.add_tensor(kind.name, raw)
    else:
        writer.add_tensor(kind.name, raw.view(np.uint8), raw_dtype=kind)
    expected[kind.name] = gguf.quants.dequantize(raw, kind).astype(np.float32)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
save_file(expected, folder / "all_types.safetensors")
