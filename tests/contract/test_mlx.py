"""MLX itself: streams and threads, random state, files, out-of-range sampling settings."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest


def on_a_thread(work: Callable[[], Any]) -> Any:
    """The result of `work` on a thread of its own, or its exception."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001 - handed to the caller
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def in_a_process(code: str) -> list[str]:
    """The lines that the code prints in a Python of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles kernels for a CPU with g++")
def test_kernels_for_a_cpu_are_kept_below_the_temporary_directory_and_not_when_compiling_is_off(tmp_path: Path) -> None:
    """`backend/engine/loading/kernel_cache.py` looks whether that directory is ours alone."""
    code = """
        import sys, mlx.core as mx
        mx.set_default_device(mx.cpu)
        if sys.argv[1:]:
            mx.disable_compile()
        print(mx.compile(lambda a: mx.exp(a) * 2 + 1)(mx.ones(8)).tolist()[0])
    """
    for off in (True, False):
        folder = tmp_path / str(off)
        folder.mkdir()
        command = [sys.executable, "-c", textwrap.dedent(code), *(["off"] if off else [])]
        subprocess.run(command, check=True, timeout=120, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True)
        kept = folder / "mlx" / version("mlx") / "cpu"
        assert any(kept.glob("*.so")) != off


def test_a_lazy_array_belongs_to_the_thread_that_made_it() -> None:
    def lazy() -> mx.array:
        return mx.ones(4) + mx.arange(4)

    made = on_a_thread(lazy)
    with pytest.raises(RuntimeError, match="Stream"):
        mx.eval(made)


def test_an_evaluated_array_may_be_used_by_any_thread() -> None:
    def evaluated() -> mx.array:
        array = mx.ones(4) + mx.arange(4)
        mx.eval(array)
        return array

    made = on_a_thread(evaluated)
    assert (made * 2).tolist() == [2, 4, 6, 8]
    assert np.asarray(made).tolist() == [1, 2, 3, 4]


def test_fresh_threads_draw_the_same_numbers() -> None:
    """Why every draw has a key of its own request."""

    def draw() -> Any:
        return mx.random.uniform(shape=(4,)).tolist()

    assert on_a_thread(draw) == on_a_thread(draw)


def test_keyed_draws_depend_on_nothing_but_the_key() -> None:
    first = mx.random.uniform(shape=(4,), key=mx.random.key(7)).tolist()
    mx.random.uniform(shape=(100,))
    assert mx.random.uniform(shape=(4,), key=mx.random.key(7)).tolist() == first


def test_save_safetensors_adds_its_suffix_to_any_other_name(tmp_path: Path) -> None:
    """A temporary name has to end in `.safetensors`, or the file is not where it is looked for."""
    mx.save_safetensors(str(tmp_path / "block.tmp"), {"a": mx.ones(2)}, {"key": "value"})
    assert [path.name for path in tmp_path.iterdir()] == ["block.tmp.safetensors"]
    loaded: Any = mx.load(str(tmp_path / "block.tmp.safetensors"), return_metadata=True)
    arrays, metadata = loaded
    assert (arrays["a"].tolist(), metadata["key"]) == ([1, 1], "value")


def test_numpy_sees_an_evaluated_float32_array_without_a_copy() -> None:
    """The host sampler reads logits in place, and must not write there."""
    array = mx.ones((2, 3))
    mx.eval(array)
    seen = np.asarray(array.astype(mx.float32))
    assert not seen.flags.owndata


@pytest.mark.slow
def test_top_k_of_the_vocabulary_raises_and_breaks_the_threads_random_state() -> None:
    """In mlx-lm's own sampler; why ranges are checked before a request reaches any batch."""
    lines = in_a_process(
        """
        import mlx.core as mx
        from mlx_lm.sample_utils import make_sampler
        logits = mx.zeros((1, 16))
        def attempt(name, sampler):
            try:
                mx.eval(sampler(logits))
                print(name, "works")
            except Exception as error:
                print(name, type(error).__name__)
        attempt("greedy", make_sampler(temp=0.0))
        attempt("sampled", make_sampler(temp=1.0))
        attempt("top_k", make_sampler(temp=1.0, top_k=16))
        attempt("min_p", make_sampler(temp=1.0, min_p=2.0))
        attempt("greedy", make_sampler(temp=0.0))
        attempt("sampled", make_sampler(temp=1.0))
        mx.random.seed(0)
        attempt("seeded", make_sampler(temp=1.0))
        """
    )
    assert lines[:3] == ["greedy works", "sampled works", "top_k ValueError"]
    # A greedy probe sees nothing of it.
    assert lines[-3:] == ["greedy works", "sampled RuntimeError", "seeded works"]
