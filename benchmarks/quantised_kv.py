"""Quantised keys and values: what a decode step costs, what they weigh, and what answers lose.

    python -m benchmarks.quantised_kv

The step is one of a random Llama with heads of 64 features, for rows of equal length in one batch, each format in turn
so that all see the same machine, the quickest of several; beside it what leaving and joining cost: one row of the batch
leaves and comes back. Bytes are those of the arrays, of keys and values of 16 bits; on a CPU the worker computes in
float32, where a scale and a bias take twice as much.

Quality is that of two texts read by the small model of this repository, one of a kind that it knows and one that it
does not: the divergence (KL, in nats) of each next-token distribution from that of full precision, how often the most
likely token is the same, and the perplexity. `kv_bits` quantises from the first token on; `cache_kv_bits` is the
second half of a text whose first half came back from the prompt cache.
"""

import importlib
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# First: the BLAS must be chosen before MLX is loaded.
from backend.engine.loading.blas import load_blas
from benchmarks.report import Report, arguments, parse

ROOT = Path(__file__).parents[1]
TINY_CHAT = ROOT / "examples" / "tiny-chat" / "model"
RECIPE = ROOT / "examples" / "tiny-chat" / "recipe"
TEXT = ROOT / "docs" / "architecture.md"
FORMATS = ((8, 64), (8, 32), (4, 64), (4, 32))
CHUNK = 32


def step_prices(rows: int, tokens: int, layers: int, rounds: int, dtype: str) -> list[list[object]]:
    """Milliseconds of a step and of a row's leaving and coming back, of full precision and of each format."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache
    from mlx_lm.utils import load_model

    from backend.engine.kv.merging import merged
    from backend.engine.quantized.conversion import to_codes
    from backend.engine.quantized.kv_format import KVFormat
    from tests.models import write_model

    with TemporaryDirectory() as folder:
        path = write_model(
            Path(folder) / "llama", "llama", hidden=512, layers=layers, context=2 * tokens, dtype=dtype,
            extra={"head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 4},
        )  # fmt: skip
        model, _ = load_model(path)

    def row(seed: int) -> list[Any]:
        made = [KVCache() for _ in range(layers)]
        for place, cache in enumerate(made):
            drawn = mx.random.normal((2, 1, 4, tokens, 64), key=mx.random.key(100 * seed + place))
            cache.update_and_fetch(*drawn.astype(getattr(mx, dtype)))
        return made

    kinds: list[tuple[str, KVFormat | None]] = [(dtype, None), ("8/64", KVFormat(8, 64)), ("4/64", KVFormat(4, 64))]
    batches: dict[str, list[Any]] = {}
    for name, kv in kinds:
        each = [row(seed) if kv is None else to_codes(row(seed), kv) for seed in range(rows)]
        batches[name] = [merged(layer) for layer in zip(*each, strict=True)]
        mx.eval([cache.state for cache in batches[name]])
    steps: dict[str, list[float]] = {name: [] for name, _ in kinds}
    moves: dict[str, list[float]] = {name: [] for name, _ in kinds}
    inputs = mx.ones((rows, 1), dtype=mx.int32)
    for _ in range(rounds):
        for name, caches in batches.items():
            steps[name].append(seconds(lambda caches=caches: [model(inputs, cache=caches), caches]))
    for _ in range(max(1, rounds // 4)):
        for name, caches in batches.items():
            moves[name].append(seconds(lambda caches=caches: leave_and_come_back(caches, rows)))
    full = min(steps[dtype])
    return [
        [name, rows, tokens, 1e3 * min(steps[name]), min(steps[name]) / full,
         1e3 * min(moves[name])]
        for name, _ in kinds
    ]  # fmt: skip


def leave_and_come_back(caches: list[Any], rows: int) -> list[Any]:
    """The last row goes and joins again, in arrays of their own."""
    from backend.engine.kv.merging import merged
    from backend.engine.kv.row_caches import copied

    grown = [copied(cache) for cache in caches]
    gone = [merged([cache.extract(rows - 1)]) for cache in grown]
    for cache, other in zip(grown, gone, strict=True):
        cache.filter(list(range(rows - 1)))
        cache.extend(other)
    return [None, grown]


def seconds(run: Callable[[], list[Any]]) -> float:
    """What a run takes with all that it makes: something, and caches."""
    import mlx.core as mx

    started = time.perf_counter()
    made, caches = run()
    mx.eval([] if made is None else made, [cache.state for cache in caches])
    return time.perf_counter() - started


def bytes_of() -> list[list[object]]:
    """What 1,024 tokens of a head take in each format, of 16-bit and of float32 keys."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

    from backend.engine.kv.row_caches import nbytes
    from backend.engine.quantized.conversion import to_codes
    from backend.engine.quantized.kv_format import KVFormat

    told: list[list[object]] = []
    for bits, group in FORMATS:
        shares: list[float] = []
        for dtype in (mx.float16, mx.float32):
            row = KVCache()
            row.update_and_fetch(*mx.random.normal((2, 1, 4, 1024, 64)).astype(dtype))
            shares.append(nbytes(to_codes([row], KVFormat(bits, group))) / nbytes([row]) * (dtype.size / 2))
        told.append([f"{bits}/{group}", *(f"{100 * share:.1f} %" for share in shares)])
    return told


def known_text() -> str:
    """Stories of the kind that the small model has learnt."""
    sys.path.insert(0, str(RECIPE))
    stories = importlib.import_module("corpus.stories")
    drawn = random.Random(1)
    tales = [stories.story_text(drawn) for _ in range(120)]
    return "\n".join(tale.prompt + tale.answer for tale in tales)


def quality(text: str, windows: int, length: int) -> list[list[object]]:
    """KL, agreement and perplexity of every format over the second halves of windows of the text."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load

    from backend.engine.quantized.conversion import to_codes
    from backend.engine.quantized.kv_format import KVFormat

    model, tokenizer = load(str(TINY_CHAT))[:2]
    model.set_dtype(mx.float32)
    ids = [token for line in text.splitlines(keepends=True) for token in tokenizer.encode(line)]
    texts = [ids[place : place + length] for place in range(0, min(len(ids) - length, windows * length), length)]
    formats = [KVFormat(bits, 32) for bits in (8, 4)]

    def read(text: Sequence[int], live: KVFormat | None, stored: KVFormat | None) -> mx.array:
        caches = make_prompt_cache(model)
        if live is not None:
            caches = to_codes(caches, live)
        half, out = length // 2, []
        for start in range(0, length, CHUNK):
            if start == half and stored is not None:
                for cache in caches:
                    cache.keys, cache.values = (through(array, stored) for array in (cache.keys, cache.values))
            logits = model(mx.array([text[start : start + CHUNK]]), cache=caches)[0]
            out.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            mx.eval(out[-1], [cache.state for cache in caches])
        return mx.concatenate(out)[half - 1 : -1]

    cases: list[tuple[str, KVFormat | None, KVFormat | None]] = [("full precision", None, None)]
    cases += [(f"kv_bits {kv}", kv, None) for kv in formats] + [(f"cache_kv_bits {kv}", None, kv) for kv in formats]
    sums = {name: [0.0, 0.0, 0.0, 0] for name, _, _ in cases}
    for text in texts:
        targets = mx.array(text[length // 2 :])[:, None]
        full = read(text, None, None)
        for name, live, stored in cases:
            ours = read(text, live, stored)
            chosen = mx.take_along_axis(ours, targets, axis=-1)
            kl = mx.sum(mx.exp(full) * (full - ours))
            same = mx.sum(mx.argmax(full, axis=-1) == mx.argmax(ours, axis=-1))
            for place, value in enumerate((kl, same, -mx.sum(chosen), mx.array(len(targets)))):
                sums[name][place] += value.item()
    return [
        [name, count, kl / count, f"{100 * same / count:.2f} %", float(mx.exp(mx.array(loss / count)).item())]
        for name, (kl, same, loss, count) in sums.items()
    ]


def through(array: Any, kv: Any) -> Any:
    """What codes of the array stand for."""
    import mlx.core as mx

    codes = mx.quantize(array, group_size=kv.group_size, bits=kv.bits)
    return mx.dequantize(*codes, group_size=kv.group_size, bits=kv.bits)


def main() -> None:
    """Measure and tell."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=8, help="of the batch")
    parser.add_argument("--tokens", type=int, default=2048, help="of each row")
    parser.add_argument("--layers", type=int, default=4, help="of the random model")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each format")
    parser.add_argument("--windows", type=int, default=12, help="parts of the text")
    parser.add_argument("--dtype", default="float32", help="of the random model: float32, float16, bfloat16")
    options = parse(parser, rows=2, tokens=256, layers=2, rounds=2, windows=1)
    report = Report(options)
    report.note(f"BLAS: {load_blas()}")
    report.table(
        ["keys and values", "rows", "tokens", "step, ms", "of full precision", "leave and join, ms"],
        step_prices(options.rows, options.tokens, options.layers, options.rounds, options.dtype),
    )
    report.table(["bits/group", "of 16-bit keys", "of 16-bit keys, computed in float32"], bytes_of())
    for name, text in (
        ("stories as it has learnt them", known_text()),
        (str(TEXT.relative_to(ROOT)), TEXT.read_text()),
    ):
        report.note(f"{name}, read by {TINY_CHAT.parent.name}: the second halves of windows of 512 tokens")
        report.table(["", "tokens", "KL, nats", "same first token", "perplexity"], quality(text, options.windows, 512))


if __name__ == "__main__":
    main()
