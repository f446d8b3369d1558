"""Where compiled kernels are kept, and that no other user's are loaded."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from backend.engine.loading.kernel_cache import (
    SHAPES_CHECK,
    VARIABLE,
    allow_many_shapes,
    keep_kernels,
    why_no_cpu_kernels,
)

H100 = {"architecture": "sm_90", "total_memory": 1 << 36}


def test_cuda_kernels_are_kept_by_version_and_architecture(tmp_path: Path) -> None:
    named: set[str] = set()
    for architecture in ("sm_90", "sm_120"):
        environment = {"XDG_CACHE_HOME": str(tmp_path)}
        keep_kernels({"architecture": architecture}, environment)
        assert Path(environment[VARIABLE]).parent == tmp_path / "mlx-worker"
        named.add(environment[VARIABLE])
    assert len(named) == 2


def test_a_home_directory_is_enough(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    keep_kernels(H100, environment)
    assert environment[VARIABLE].startswith(f"{tmp_path}/.cache/mlx-worker/")


def test_no_number_of_shapes_makes_mlx_raise() -> None:
    """As MLX asks the C library, when it first computes on CUDA."""
    environment = {name: value for name, value in os.environ.items() if name != SHAPES_CHECK}
    program = "import ctypes; from backend.engine.loading.blas import load_blas; load_blas('reference'); "
    program += f"read = ctypes.CDLL(None).getenv; read.restype = ctypes.c_char_p; print(read({SHAPES_CHECK.encode()}))"
    ran = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "b'0'"


def test_who_wants_to_be_told_of_many_shapes_is() -> None:
    environment = {SHAPES_CHECK: "1"}
    allow_many_shapes(environment)
    assert environment == {SHAPES_CHECK: "1"}


@pytest.mark.parametrize(
    ("info", "environment"),
    [
        ({"architecture": "x86_64"}, {"HOME": "/tmp"}),
        ({"architecture": "applegpu_g13s"}, {"XDG_CACHE_HOME": "/tmp"}),
        (H100, {}),
        (H100, {"HOME": "/nowhere"}),
        (H100, {"XDG_CACHE_HOME": "/tmp", VARIABLE: "/elsewhere"}),
    ],
)
def test_elsewhere_nothing_is_changed(info: dict[str, object], environment: dict[str, str]) -> None:
    before = dict(environment)
    keep_kernels(info, environment)
    assert environment == before


def test_a_directory_of_ones_own_is_made_for_a_processors_kernels(tmp_path: Path) -> None:
    for _ in range(2):
        assert why_no_cpu_kernels({"TMPDIR": str(tmp_path)}) == ""
    made = tmp_path / "mlx" / version("mlx") / "cpu"
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent, made.parent.parent)] == [0o700] * 3


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("wrong", ["another's file", "a link", "a file"])
def test_a_directory_that_others_could_have_filled_is_not_used(tmp_path: Path, depth: int, wrong: str) -> None:
    """What lies there is loaded as code."""
    place = tmp_path.joinpath(*("mlx", version("mlx"), "cpu")[: depth + 1])
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if wrong == "another's file":
        if os.geteuid() != 0:
            pytest.skip("only root can make another's file")
        place.mkdir()
        place.chmod(0o770)
        (place / "kernel.so").touch()
        os.chown(place / "kernel.so", 1, 1)
    elif wrong == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.touch()
    assert why_no_cpu_kernels({"TMPDIR": str(tmp_path)}).startswith(f"{place}: ")


def test_a_directory_that_a_usual_umask_left_open_to_a_group_is_closed(tmp_path: Path) -> None:
    place = tmp_path / "mlx" / version("mlx") / "cpu"
    place.mkdir(parents=True)
    (place / "kernel.so").touch()
    for open_one in (place, place.parent, place.parent.parent):
        open_one.chmod(0o775)
    assert why_no_cpu_kernels({"TMPDIR": str(tmp_path)}) == ""
    assert place.stat().st_mode & 0o777 == 0o755


def test_a_directory_of_another_user_is_not_used(tmp_path: Path) -> None:
    why_no_cpu_kernels({"TMPDIR": str(tmp_path)})
    assert why_no_cpu_kernels({"TMPDIR": str(tmp_path)}, user=os.geteuid() + 1)
    tmp_path.chmod(0o777)
    assert "others" in why_no_cpu_kernels({"TMPDIR": str(tmp_path)})
    tmp_path.chmod(0o1777)
    assert why_no_cpu_kernels({"TMPDIR": str(tmp_path)}) == ""


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_without_a_directory_it_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    assert why_no_cpu_kernels({"TMPDIR": str(tmp_path / place)}).startswith(f"{tmp_path}/{place}")
