from pathlib import Path

import pytest

from backend.engine.loading.kernel_cache import VARIABLE, keep_kernels

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
