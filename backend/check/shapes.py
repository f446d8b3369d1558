"""Named shapes of Llama models, written as checkpoints of random weights that load as real ones do. No MLX.

Weights come from one block of random numbers that is written over and over. Its length is a prime, so that no two rows
of a matrix are alike. Their scales keep activations near 1, and logits at a standard deviation of about 3.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from backend.check.random_tokenizer import BYTES, IM_END, LEAST_VOCAB, write_tokenizer

GROUP: Final = 64
BITS: Final = 4
LOGIT_SCALE: Final = 3.0
_PRIME: Final = 4_194_301
# Of 4 bits drawn evenly: their mean and standard deviation.
_MIDDLE, _SPREAD = 7.5, 4.61


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Dimensions of a Llama.

    Attributes:
        dtype: Of the weights, or of what goes with them where they are quantised.
        quantised: To 4 bits in groups of 64, embedding and output included.
        rope_factor: Of Llama 3's scaling; 0 for none.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    dtype: str = "bfloat16"
    quantised: bool = False
    tied: bool = False
    rope_factor: float = 0.0


SHAPES: Final = {
    "tiny": Shape(
        hidden=128, intermediate=256, layers=2, heads=2, kv_heads=1, head_dim=64, vocab=512, dtype="float32"
    ),
    "90m": Shape(hidden=768, intermediate=1536, layers=8, heads=12, kv_heads=4, head_dim=64, vocab=32_000),
    # Llama 3.2 1B
    "1b": Shape(
        hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, head_dim=64, vocab=128_256, tied=True,
        rope_factor=32.0,
    ),
    # Llama 3.1 8B
    "8b-4bit": Shape(
        hidden=4096, intermediate=14_336, layers=32, heads=32, kv_heads=8, head_dim=128, vocab=128_256, quantised=True,
        rope_factor=8.0,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A parameter of the model; `std` is that of its numbers, 0 for a norm's ones."""

    name: str
    dims: tuple[int, ...]
    std: float = 0.0
    looked_up: bool = False  # rows are tokens


def write_checkpoint(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write config.json, weights and a tokenizer, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(shape), indent=1))
    write_tokenizer(folder, shape.vocab)
    parts = parts_of(shape)
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for part in parts:
        header[part.name] = {"dtype": part.dtype, "shape": part.dims, "data_offsets": [at, at + part.nbytes]}
        at += part.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    source = _Blocks(shape, seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            source.write(file, part)
    return folder


def parts_of(shape: Shape) -> "list[Part]":
    """Every array of the checkpoint."""
    return [part for tensor in _tensors(shape) for part in _parts(tensor, shape)]


def config_of(shape: Shape) -> dict[str, Any]:
    """Its config.json."""
    config: dict[str, Any] = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "max_position_embeddings": 131_072 if shape.rope_factor else 32_768,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": shape.dtype,
        "eos_token_id": IM_END,
    }
    if shape.rope_factor:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": shape.rope_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    if shape.quantised:
        config["quantization"] = {"group_size": GROUP, "bits": BITS}
    return config


def _tensors(shape: Shape) -> Iterator[_Tensor]:
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    output = LOGIT_SCALE / hidden**0.5
    # A large embedding that is also the output would repeat the last token.
    yield _Tensor("model.embed_tokens", (shape.vocab, hidden), output if shape.tied else 1.0, looked_up=True)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        yield _Tensor(f"{at}.input_layernorm", (hidden,))
        yield _Tensor(f"{at}.post_attention_layernorm", (hidden,))
        for name, rows, width in (
            ("self_attn.q_proj", queries, hidden),
            ("self_attn.k_proj", keys, hidden),
            ("self_attn.v_proj", keys, hidden),
            ("self_attn.o_proj", hidden, queries),
            ("mlp.gate_proj", shape.intermediate, hidden),
            ("mlp.up_proj", shape.intermediate, hidden),
            ("mlp.down_proj", hidden, shape.intermediate),
        ):
            yield _Tensor(f"{at}.{name}", (rows, width), width**-0.5)
    yield _Tensor("model.norm", (hidden,))
    if not shape.tied:
        yield _Tensor("lm_head", (shape.vocab, hidden), output, looked_up=True)


@dataclass(frozen=True, slots=True)
class Part:
    """An array in the file: all one `value`, or random (None) with a standard deviation; `dtype` in the file's words.

    `looked_up` is whether its rows are tokens: those of the special ones are zero, so that no answer has them.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    value: float | None = None
    std: float = 1.0
    looked_up: bool = False

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.dims)) * (2 if self.dtype == "BF16" else 4)


def _parts(tensor: _Tensor, shape: Shape) -> Iterator[Part]:
    dtype = {"bfloat16": "BF16", "float32": "F32"}[shape.dtype]
    name = f"{tensor.name}.weight"
    if len(tensor.dims) == 1:
        yield Part(name, tensor.dims, dtype, 1.0)
    elif not shape.quantised:
        yield Part(name, tensor.dims, dtype, None, tensor.std, tensor.looked_up)
    else:
        rows, width = tensor.dims
        scale = tensor.std / _SPREAD
        yield Part(name, (rows, width * BITS // 32), "U32")
        yield Part(f"{tensor.name}.scales", (rows, width // GROUP), dtype, scale, looked_up=tensor.looked_up)
        yield Part(f"{tensor.name}.biases", (rows, width // GROUP), dtype, -_MIDDLE * scale, looked_up=tensor.looked_up)


class _Blocks:
    """The random numbers, and where in them the next array begins."""

    def __init__(self, shape: Shape, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._words = generator.integers(0, 1 << 32, _PRIME, dtype=np.uint32) if shape.quantised else None
        self._normal = None if shape.quantised else generator.standard_normal(_PRIME, dtype=np.float32)
        self._cast: dict[tuple[str, float], memoryview] = {}
        self._at = 0

    def write(self, file: BinaryIO, part: Part) -> None:
        began = file.tell()
        if part.value is not None:
            file.write(_as_stored(np.full(part.dims, part.value, np.float32), part.dtype).data.cast("B"))
        else:
            self._write_random(file, part)
        if part.looked_up:
            ended, width = file.tell(), part.nbytes // part.dims[0]
            file.seek(began + BYTES * width)
            file.write(bytes((LEAST_VOCAB - BYTES) * width))
            file.seek(ended)

    def _write_random(self, file: BinaryIO, part: Part) -> None:
        block = self._block(part)
        size = len(block) // _PRIME
        left = part.nbytes // size
        while left:
            count = min(left, _PRIME - self._at)
            file.write(block[self._at * size : (self._at + count) * size])
            self._at = (self._at + count) % _PRIME
            left -= count

    def _block(self, part: Part) -> memoryview:
        key = (part.dtype, part.std)
        if key not in self._cast:
            if self._normal is None:
                assert self._words is not None
                self._cast[key] = self._words.data.cast("B")
            else:
                self._cast[key] = _as_stored(self._normal * np.float32(part.std), part.dtype).data.cast("B")
        return self._cast[key]


def _as_stored(numbers: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "F32":
        return numbers
    # The upper half of a float32, rounded.
    return ((numbers.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)
