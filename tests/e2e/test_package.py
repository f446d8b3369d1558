"""The package as a host has it: copied, started by its base name, its environment made by itself."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import chat, stream
from tests.e2e.worker import ROOT, TINY_CHAT, Worker

pytestmark = pytest.mark.slow

# Go's exec.Command with a directory: the kernel gets the base name, and the folder is the working directory.
BY_BASE_NAME = "import os, sys; os.chdir(sys.argv[1]); os.execv('run.sh', ['run.sh', *sys.argv[2:]])"
FROM_ELSEWHERE = (
    "import os, sys; os.chdir('/'); os.execv(sys.argv[1] + '/run.sh', [sys.argv[1] + '/run.sh', *sys.argv[2:]])"
)
MARK = "0.0.0+copied"
FIRST_START_SECONDS = 600


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """A copy whose code can be told from the checkout's; pytest would keep its environment for three runs."""
    package = runpy.run_path(str(ROOT / "scripts" / "package.py"))["write"](tmp_path / "built")
    folder = Path(shutil.copytree(package, tmp_path / "backends" / "mlx-worker"))
    (folder / "backend" / "__init__.py").write_text(f'__version__ = "{MARK}"\n')
    yield folder
    shutil.rmtree(folder.parent)


@contextmanager
def started(folder: Path, how: str, environment: Mapping[str, str]) -> Iterator[Worker]:
    with Worker(command=("-c", how, str(folder)), environment=environment) as worker:
        yield worker


def serves(worker: Worker) -> None:
    """Health, LoadModel and a streamed chat, by the copied code."""
    assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
    assert worker.info.Get(pb.InfoRequest(), timeout=60).version == MARK
    worker.must_load(TINY_CHAT)
    answer = stream(worker.stub, chat("What is the capital of France?"))
    assert "Paris" in answer.text and len(answer.replies) > 2


@pytest.mark.parametrize("how", [BY_BASE_NAME, FROM_ELSEWHERE], ids=["by-base-name", "from-elsewhere"])
def test_a_copy_serves_a_chat_with_an_environment_that_is_named(installed: Path, how: str) -> None:
    with started(installed, how, {"MLX_WORKER_PYTHON": sys.executable}) as worker:
        serves(worker)
    assert not (installed / ".venv").exists()


@pytest.mark.timeout(FIRST_START_SECONDS)
def test_the_first_start_makes_its_environment_which_outlives_a_move(installed: Path) -> None:
    """Through a host that gives up and starts it again."""
    environment = {"MLX_WORKER_PYTHON": "", "PYTHON": sys.executable}
    impatient = subprocess.Popen(
        ["./run.sh", "--addr", "127.0.0.1:0"],
        cwd=installed,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert impatient.stderr is not None
    assert "first start" in impatient.stderr.readline()
    os.killpg(impatient.pid, signal.SIGTERM)
    assert impatient.wait(60) == -signal.SIGTERM
    impatient.stderr.close()
    again = subprocess.run(
        ["./run.sh", "--setup-only"],
        cwd=installed,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=FIRST_START_SECONDS,
    )
    assert again.returncode == 0, again.stderr
    moved = installed.rename(installed.parent / "elsewhere")
    with started(moved, BY_BASE_NAME, environment) as worker:
        serves(worker)
