"""What OpenBLAS brings on a CPU of Linux: MLX's matrix products and a model's steps, with it and with reference BLAS.

    python -m benchmarks.blas [--rounds 3] [--prompt 256]

A process keeps the BLAS that it loaded first, so each figure is taken in a process of its own; the two kinds take
turns, so that other load hits both alike. Figures are the best of all rounds. The model is a Llama of random
float32 weights with 51 million parameters (8 layers of width 512, vocabulary of 32,000).
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import Report, arguments, parse

WIDTH, DEPTH = 1024, 4096
ROWS = (1, 16, 512)
DTYPES = ("float32", "float16", "bfloat16")


def best_seconds(call: Callable[[], Any], best_of: int) -> float:
    """The shortest of a few calls, after one that does not count."""
    call()
    times: list[float] = []
    for _ in range(best_of):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(option: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one BLAS, in this process: GFLOP/s of products, milliseconds of a model's steps."""
    from backend.engine.loading.blas import load_blas

    name = load_blas(option)
    import mlx.core as mx

    from backend.config import ModelConfig
    from backend.engine.loading import load_model

    figures: dict[str, float] = {}
    best = functools.partial(best_seconds, best_of=options.best_of)
    for dtype in DTYPES:
        weights = mx.random.normal((WIDTH, DEPTH)).astype(getattr(mx, dtype))
        for rows in ROWS:
            rows_in = mx.random.normal((rows, WIDTH)).astype(getattr(mx, dtype))
            mx.eval(weights, rows_in)
            seconds = best(lambda a=rows_in, b=weights: mx.eval(a @ b))
            figures[f"{dtype}, {rows} rows (GFLOP/s)"] = 2 * rows * WIDTH * DEPTH / seconds / 1e9
    loaded = load_model(ModelConfig(identity="benchmark", candidates=(str(options.model),)))
    tokens = mx.arange(options.prompt)[None]
    prefill = best(lambda: mx.eval(loaded.model(tokens, cache=loaded.new_cache())))
    figures[f"prefill of {options.prompt} tokens (ms)"] = 1000 * prefill
    caches = loaded.new_cache()
    loaded.model(tokens, cache=caches)
    figures["decode step, 1 row (ms)"] = 1000 * best(lambda: mx.eval(loaded.model(mx.array([[1]]), cache=caches)))
    merged = [layer.merge([layer] * 16) for layer in caches]
    figures["decode step, 16 rows (ms)"] = 1000 * best(
        lambda: mx.eval(loaded.model(mx.ones((16, 1), dtype=mx.int32), cache=merged))
    )
    return {"blas": name, "figures": figures}


def measure_apart(option: str, model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a new process."""
    sizes = ["--prompt", str(options.prompt), "--best-of", str(options.best_of)]
    command = [sys.executable, "-m", "benchmarks.blas", "--measure", option, "--model", str(model), *sizes]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Best figures of reference and of auto, in this order."""
    from tests.models import plain_kv_model

    best: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = plain_kv_model(Path(folder) / "model")
        for _ in range(options.rounds):
            for option in ("reference", "auto"):
                result = measure_apart(option, model, options)
                known = best.setdefault(option, result)["figures"]
                for name, value in result["figures"].items():
                    known[name] = min(known[name], value) if name.endswith("(ms)") else max(known[name], value)
    return list(best.values())


def show(report: Report, reference: dict[str, Any], auto: dict[str, Any]) -> None:
    """Both sides and how many times faster the second is."""
    rows: list[list[object]] = []
    for name, value in reference["figures"].items():
        other = auto["figures"][name]
        rows.append([name, value, other, value / other if name.endswith("(ms)") else other / value])
    report.table(["", reference["blas"], auto["blas"], "ratio"], rows)


def main() -> None:
    """Compare and report."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="tokens that are prefilled")
    parser.add_argument("--best-of", type=int, default=5, help="calls in each process")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parse(parser, rounds=1, prompt=16, best_of=1)
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    report = Report(options)
    report.note(f"best of {options.rounds} processes of each kind")
    show(report, *compare(options))


if __name__ == "__main__":
    main()
