"""A rank that dies or stalls: the others end within ten seconds and say why, and ranks that start anew serve."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.process.exit_codes import ExitCode
from tests.e2e.asking import predict, prompt
from tests.e2e.worker import wait_until
from tests.models import write_model
from tests.ranks.world import Ranks

WITHIN = 10.0
LONG = "the quick brown fox jumps over the lazy dog "
Phase = Callable[[Ranks, Path], None]


def idle(ranks: Ranks, model: Path) -> None:
    """Nothing runs."""
    assert ranks.load(model).success
    ranks.worker.rest()


def loading(ranks: Ranks, model: Path) -> None:
    """The weights are there, the trial runs."""
    threading.Thread(target=_try, args=(lambda: ranks.load(model),), daemon=True).start()
    ranks.worker.log.wait_for("model_weights_done")


def prefill(ranks: Ranks, model: Path) -> None:
    """A long prompt is on its way."""
    assert ranks.load(model).success
    request = prompt(LONG * 80, 100)
    threading.Thread(target=_try, args=(lambda: predict(ranks.worker.stub, request),), daemon=True).start()
    ranks.worker.wait_for_queue(lambda queue: queue["prefilling"] > 0)


def decode(ranks: Ranks, model: Path) -> None:
    """Three answers are on their way."""
    assert ranks.load(model).success
    for place in range(3):
        call = ranks.worker.stub.PredictStream(prompt(f"{place} once upon a time", 3000), timeout=60)
        next(call)
        threading.Thread(target=_try, args=(lambda call=call: list(call),), daemon=True).start()


def _try(call: Callable[[], object]) -> None:
    with contextlib.suppress(grpc.RpcError):
        call()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3", layers=4)


def check_loss(folder: Path, model: Path, phase: Phase, lose: Callable[[Ranks], int]) -> None:
    """Bring two ranks into a phase and lose one of them, whose number `lose` returns."""
    with Ranks(folder, 2) as ranks:
        phase(ranks, model)
        ranks.worker.expected_code = -signal.SIGKILL
        lost, at = lose(ranks), time.monotonic()
        left = 1 - lost
        code = ranks.ended(left, WITHIN)
        assert time.monotonic() - at < WITHIN
        assert code == (ExitCode.ENGINE_DEAD if left == 0 else ExitCode.RANK_LOST), ranks.logs[left].lines[-10:]
        assert f"rank {lost}" in ranks.logs[left].whole()[-1]
        ranks.worker.expected_code = ExitCode.ENGINE_DEAD if left == 0 else -signal.SIGKILL
        ranks.end(lost)


def killed(rank: int) -> Callable[[Ranks], int]:
    """Kill -9 of a rank."""

    def kill(ranks: Ranks) -> int:
        os.kill(ranks.pid(rank), signal.SIGKILL)
        return rank

    return kill


def stopped(rank: int) -> Callable[[Ranks], int]:
    """A rank that goes on living, and does nothing."""

    def stop(ranks: Ranks) -> int:
        os.kill(ranks.pid(rank), signal.SIGSTOP)
        return rank

    return stop


@pytest.mark.slow
def test_the_rank_that_serves_ends_when_another_is_killed_and_new_ones_serve(tmp_path: Path, model: Path) -> None:
    check_loss(tmp_path, model, decode, killed(1))
    with Ranks(tmp_path, 2) as ranks:
        assert ranks.load(model).success
        assert predict(ranks.worker.stub, prompt("once", 4)).code is grpc.StatusCode.OK


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", [idle, loading, prefill, decode])
def test_a_rank_that_is_killed_ends_the_other(tmp_path: Path, model: Path, phase: Phase, rank: int) -> None:
    check_loss(tmp_path, model, phase, killed(rank))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", [idle, decode])
def test_a_rank_that_stalls_ends_the_other(tmp_path: Path, model: Path, phase: Phase, rank: int) -> None:
    check_loss(tmp_path, model, phase, stopped(rank))


@pytest.mark.slow
def test_a_rank_that_never_comes_fails_the_load_by_its_number(tmp_path: Path, model: Path) -> None:
    with Ranks(tmp_path, 3, absent=(2,)) as ranks:
        result = ranks.load(model)
        assert not result.success
        assert result.message.startswith("rank 2: not there within")


@pytest.mark.slow
def test_health_says_why_until_the_process_ends(tmp_path: Path, model: Path) -> None:
    with Ranks(tmp_path, 2) as ranks:
        decode(ranks, model)
        told: list[str] = []
        os.kill(ranks.pid(1), signal.SIGKILL)

        def unhealthy() -> bool:
            try:
                ranks.worker.stub.Health(pb.HealthMessage(), timeout=2)
            except grpc.RpcError as error:
                told.append(str(error.details()))
            return ranks.ended_already(0)

        wait_until(unhealthy, "the end of rank 0", WITHIN)
        ranks.worker.expected_code = ExitCode.ENGINE_DEAD
        assert any("rank 1 is gone" in words for words in told), told
