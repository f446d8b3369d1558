"""What grows with one request or one answer is not done by the event loop, which answers everybody else."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from backend.core.events import Finished, TokenLogprob
from backend.pb import backend_pb2 as pb
from backend.rpc import answers, methods, servicer
from tests.rpc.conftest import Worker
from tests.rpc.fake_engine import answer

Run = Callable[..., None]
LARGE = "a word " * 10_000
TOOLS = f'[{{"type":"function","function":{{"name":"f","description":"{LARGE}"}}}}]'


@pytest.fixture
def done_by(monkeypatch: pytest.MonkeyPatch) -> dict[str, threading.Thread]:
    """The thread that did what grows, by what it is; the loop's is the main one."""
    seen: dict[str, threading.Thread] = {}

    def watch(module: Any, name: str) -> None:
        work = getattr(module, name)

        def watched(*args: Any, **options: Any) -> Any:
            seen[name] = threading.current_thread()
            return work(*args, **options)

        monkeypatch.setattr(module, name, watched)

    for module, name in (
        (methods, "parse"),
        (answers, "_asked"),
        (answers, "logprobs_json"),
        (servicer, "load_request"),
        (servicer, "_text_to_tokenize"),
    ):
        watch(module, name)
    return seen


def with_logprobs(tokens: int) -> list[Any]:
    """The script of an answer of so many tokens with 20 alternatives each."""
    *deltas, end = answer("Hello")
    assert isinstance(end, Finished)
    others = tuple(TokenLogprob(id=i, token=b"x", logprob=-1.0) for i in range(20))
    return [*deltas, replace(end, logprobs=(TokenLogprob(id=1, token=b"x", logprob=-1.0, top=others),) * tokens)]


@pytest.mark.parametrize("streamed", [False, True])
def test_large_requests_and_logprobs_are_read_and_written_beside_the_loop(
    scenario: Run, done_by: dict[str, threading.Thread], streamed: bool
) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = with_logprobs(100)
        request = pb.PredictOptions(Prompt="hi", Tools=TOOLS, Logprobs=1)
        if streamed:
            assert [reply async for reply in worker.backend.PredictStream(request)][-1].logprobs
        else:
            assert (await worker.backend.Predict(request)).logprobs
        assert {"parse", "_asked", "logprobs_json"} <= done_by.keys()
        assert threading.main_thread() not in [done_by[name] for name in ("parse", "_asked", "logprobs_json")]

    scenario(test)


def test_so_are_those_of_loads_and_texts_to_tokenize(scenario: Run, done_by: dict[str, threading.Thread]) -> None:
    async def test(worker: Worker) -> None:
        await worker.backend.LoadModel(pb.ModelOptions(Model="m", Options=[f"some_key:{LARGE}"]))
        assert done_by["parse"] is not threading.main_thread()
        await worker.backend.TokenizeString(pb.PredictOptions(Prompt=LARGE))
        assert {"load_request", "_text_to_tokenize"} <= done_by.keys()
        assert threading.main_thread() not in done_by.values()

    scenario(test)


def test_what_is_small_is_done_by_the_loop_at_once(scenario: Run, done_by: dict[str, threading.Thread]) -> None:
    async def test(worker: Worker) -> None:
        worker.engine.script = with_logprobs(2)
        await worker.backend.Predict(pb.PredictOptions(Prompt="hi", Logprobs=1))
        assert set(done_by.values()) == {threading.main_thread()}

    scenario(test)
