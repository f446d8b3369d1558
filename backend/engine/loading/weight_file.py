"""The header of a safetensors file, checked against the file's size.

Format: 8 bytes little-endian length n, n bytes of JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors, section Format). MLX checks much of this too, but names no file,
and a header that lies about offsets is found only when a tensor is read.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit

# Bits of one element.
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header object and the offset at which tensor bytes begin.

    Raises:
        ValueError: The file is cut short, or its header is not what the format says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError(f"has {size} bytes, which is no safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"header claims {length} bytes, the file has {size}")
        # UnicodeDecodeError and JSONDecodeError are ValueErrors.
        header = json.loads(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("header is not a JSON object")
    return header, 8 + length


def check_file(path: Path) -> None:
    """Check every tensor's type, shape and place.

    Raises:
        ValueError: Naming the tensor at fault.
    """
    header, start = read_header(path)
    room = path.stat().st_size - start
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = _place(name, tensor)
        if end > room:
            raise ValueError(f"tensor {name!r} ends at byte {end} of {room}: the file is cut short")
        if (end - begin) * 8 != _bits(name, tensor):
            raise ValueError(f"tensor {name!r} has {end - begin} bytes, which its shape and type do not make")


def _place(name: str, tensor: Any) -> tuple[int, int]:
    offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
    match offsets:
        case [int(begin), int(end)] if 0 <= begin <= end:
            return begin, end
        case _:
            raise ValueError(f"tensor {name!r} has no proper data_offsets")


def _bits(name: str, tensor: dict[str, Any]) -> int:
    dtype, shape = tensor.get("dtype"), tensor.get("shape")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"tensor {name!r} has unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"tensor {name!r} has no proper shape")
    return math.prod(shape) * _BITS[dtype]
