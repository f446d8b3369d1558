"""Malformed safetensors files are refused by our check; what mlx writes passes it."""

import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.loading.weight_file import check_file

TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def written(path: Path, header: Any, body: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def test_what_mlx_writes_passes(tmp_path: Path) -> None:
    arrays = {f"t{index}": mx.zeros((3, 2)).astype(dtype) for index, dtype in enumerate(MLX_DTYPES)}
    mx.save_safetensors(str(tmp_path / "m.safetensors"), arrays | {"empty": mx.zeros((0, 4)), "scalar": mx.array(1.0)})
    check_file(tmp_path / "m.safetensors")


MLX_DTYPES = [
    mx.float32,
    mx.float16,
    mx.bfloat16,
    mx.bool_,
    mx.uint8,
    mx.int8,
    mx.uint16,
    mx.int16,
    mx.uint32,
    mx.int32,
    mx.uint64,
    mx.int64,
    mx.complex64,
]


@pytest.mark.parametrize(
    ("header", "options", "says"),
    [
        ({"w": TENSOR}, {"length": 2**62}, "header claims"),
        ({"w": TENSOR}, {"length": 4}, "Expecting"),
        ({"w": TENSOR}, {"body": bytes(15)}, "cut short"),
        (b"\xff\xfe{}", {}, "utf-8"),
        (b"{", {}, "Expecting"),
        ([], {}, "not a JSON object"),
        ({"w": TENSOR | {"dtype": "F33"}}, {}, "unknown dtype"),
        ({"w": TENSOR | {"dtype": None}}, {}, "unknown dtype"),
        ({"w": TENSOR | {"shape": [2, 3]}}, {}, "shape and type"),
        ({"w": TENSOR | {"shape": [-2, -2]}}, {}, "no proper shape"),
        ({"w": TENSOR | {"shape": "2"}}, {}, "no proper shape"),
        ({"w": TENSOR | {"data_offsets": [16, 0]}}, {}, "data_offsets"),
        ({"w": TENSOR | {"data_offsets": [-16, 0]}}, {}, "data_offsets"),
        ({"w": TENSOR | {"data_offsets": [0]}}, {}, "data_offsets"),
        ({"w": TENSOR | {"data_offsets": [0, 2**62]}}, {}, "cut short"),
        ({"w": {"dtype": "F32"}}, {}, "data_offsets"),
        ({"w": 3}, {}, "data_offsets"),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, header: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_file(written(tmp_path / "m.safetensors", header, **options))


@pytest.mark.parametrize("content", [b"", b"1234567", b"\x80\x04\x95" + bytes(40), b"PK\x03\x04" + bytes(60)])
def test_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"no safetensors file|header claims|Expecting"):
        check_file(tmp_path / "m.safetensors")


@given(content=st.binary(max_size=200), length=st.integers(0, 300))
def test_any_bytes_are_refused_with_a_value_error_or_pass(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(struct.pack("<Q", length) + content)
    try:
        check_file(path)
    except ValueError:
        return
    assert json.loads(content[:length]) is not None


@given(cut=st.integers(1, 300))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = written(tmp_path_factory.getbasetemp() / "cut.safetensors", {"w": TENSOR})
    whole = path.read_bytes()
    path.write_bytes(whole[: -min(cut, len(whole))])
    with pytest.raises(ValueError, match=r"."):
        check_file(path)
