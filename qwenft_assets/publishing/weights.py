"""Weights on disk, without torch: the header of a safetensors file, and fp32 rounded to bf16.

Format: https://huggingface.co/docs/safetensors, 8 bytes of header length (little-endian), the header
as JSON, the tensors' bytes in the order of their offsets.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8


def read_header(file: Path) -> dict[str, Any]:
    """`dtype`, `shape` and `data_offsets` by tensor, and `__metadata__`."""
    with file.open("rb") as weights:
        return json.loads(weights.read(int.from_bytes(weights.read(8), "little")))


def round_to_bf16(source: Path, target: Path) -> None:
    """Rewrite the fp32 tensors of a safetensors file as bf16; others stay as they are."""
    header = read_header(source)
    tensors = {name: header[name] for name in sorted(header) if name != "__metadata__"}
    with source.open("rb") as weights:
        body_start = 8 + int.from_bytes(weights.read(8), "little")
        described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, tensor in tensors.items():
            first, last = tensor["data_offsets"]
            is_fp32 = tensor["dtype"] == "F32"
            size = (last - first) // 2 if is_fp32 else last - first
            described[name] = {
                "dtype": "BF16" if is_fp32 else tensor["dtype"],
                "shape": tensor["shape"],
                "data_offsets": [offset, offset + size],
            }
            offset += size
        encoded = json.dumps(described, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % _ALIGNMENT)
        with target.open("wb") as rounded:
            rounded.write(len(encoded).to_bytes(8, "little") + encoded)
            for tensor in tensors.values():
                first, last = tensor["data_offsets"]
                weights.seek(body_start + first)
                data = weights.read(last - first)
                is_fp32 = tensor["dtype"] == "F32"
                rounded.write(bf16_bits(np.frombuffer(data, "<f4")).tobytes() if is_fp32 else data)


def bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """fp32 rounded to the nearest bf16, ties to even, as its 16 bits; not for NaN."""
    bits = values.view("<u4")
    # Half a unit of the last place that stays, less one bit where that place is even.
    to_nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (to_nearest >> np.uint32(16)).astype("<u2")
