"""Weight files: what the check of a load lets through, MLX must be able to read."""

import json
import struct
import tempfile
from pathlib import Path

import mlx.core as mx

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.checkpoint import check_weights
from tests.fuzz.structures import change_safetensors
from tests.fuzz.target import Target

_WORDS = [word.encode() for word in (
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "F8_E4M3", "F8_E5M2",
    "F4",
    "F6_E2M3", "F8_E8M0", "C64", "dtype", "shape", "data_offsets", "__metadata__", "a", "b",
)]  # fmt: skip


def weights() -> Target:
    """A safetensors file."""
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "model.safetensors"
    seeds = [
        _file({"a": ("F32", [2, 2], 16), "b": ("BF16", [3], 6)}),
        _file({"a": ("I64", [], 8), "b": ("BOOL", [0, 5], 0), "c": ("F16", [1, 1, 4], 8)}),
        _file({"a": ("U8", [24], 24)}),
    ]
    return Target(
        run=lambda data: _load(file, data),
        seeds=seeds,
        change=lambda rng, data, words: change_safetensors(rng, data, [*words, *_WORDS]),
        refusals=(ModelLoadFailed,),
        close=folder.cleanup,
    )


def _load(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    check_weights(file.parent)
    try:
        arrays = mx.load(str(file))
        mx.eval(list(arrays.values()) if isinstance(arrays, dict) else arrays)
    # As a load has it; that it comes back at all is what this is about.
    except Exception as error:
        raise ModelLoadFailed(str(error)) from error


def _file(arrays: dict[str, tuple[str, list[int], int]]) -> bytes:
    header, at = {"__metadata__": {"format": "mlx"}}, 0
    for name, (dtype, shape, size) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[assignment]
        at += size
    told = json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + bytes(range(at))
