"""The choice of BLAS, each in a process of its own: it is made once, before MLX loads."""

import ctypes
import json
import subprocess
import sys
from typing import Any

import pytest

from backend.engine.loading.blas import BlasNotFound, load_blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is nothing to choose")

PROGRAM = """
import json, resource, sys, time
from backend.engine.loading.blas import load_blas
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
name = load_blas(sys.argv[1])
import mlx.core as mx
a = mx.random.normal((768, 768)); mx.eval(a @ a)
times = []
for _ in range(3):
    start = time.perf_counter(); mx.eval(a @ a); times.append(time.perf_counter() - start)
kept = limits == resource.getrlimit(resource.RLIMIT_NOFILE)
print(json.dumps({"name": name, "seconds": min(times), "limits_kept": kept}))
"""


def _ran(option: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, option], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _has_openblas() -> bool:
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        return False
    return True


@pytest.mark.slow
@linux
def test_reference_is_what_the_wheel_carries() -> None:
    assert _ran("reference")["name"] == "reference"


@pytest.mark.slow
@linux
@pytest.mark.skipif(not _has_openblas(), reason="OpenBLAS is not installed")
def test_openblas_is_taken_where_it_is_found_and_mlx_really_computes_with_it() -> None:
    auto, named, reference = _ran("auto"), _ran("libopenblas.so.0"), _ran("reference")
    assert auto["name"].startswith("OpenBLAS 0.")
    assert named["name"] == auto["name"]
    assert auto["seconds"] * 4 < reference["seconds"]  # 30 times and more, on an idle machine


@pytest.mark.slow
@linux
@pytest.mark.skipif(not _has_openblas(), reason="OpenBLAS is not installed")
def test_the_first_choice_stands_where_a_later_one_takes_what_there_is() -> None:
    program = (
        "from backend.engine.loading.blas import adds_in_order, load_blas\n"
        "print(load_blas('auto') == load_blas('reference'), adds_in_order())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "False"]


@linux
def test_a_named_library_that_cannot_be_loaded_is_an_error_with_its_name() -> None:
    with pytest.raises(BlasNotFound, match="blas: cannot load /nonexistent/libblas.so"):
        load_blas("/nonexistent/libblas.so")


@pytest.mark.slow
def test_the_limit_of_open_files_is_left_alone() -> None:
    assert _ran("reference")["limits_kept"]
