"""Faults at each call in turn: in an answer's output, its grammar, the processors of its logits, the prompt cache, the
disk below it, and the processes for templates and grammars.

On the engine without a process around it: the same faults would take a load each over the wire.
"""

import errno
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.engine.handle import EngineHandle
from backend.engine.sampling.host import sampler as host_sampler
from backend.grammar import trials
from backend.grammar.constraints import GrammarConstraint
from backend.output.marker_parser import MarkerParser
from backend.output.stream import OutputStream
from backend.output.text.decoding import TableDecoder
from backend.output.text.stops import StopScanner
from backend.output.text.token_table import TokenTable
from backend.prompt import renderer
from mlx_cache import PromptCache
from mlx_cache.disk.system import System
from mlx_cache.payload import MlxPayload
from tests.engine.each_call import MOST, ask, at_each_call, cases, failed, nobody, own, run, say
from tests.engine.harness import Answer, settled
from tests.engine.planted import FaultAtCall, failing
from tests.models import write_model
from tests.tiers import slow

OUTPUT = (
    (OutputStream, "push"), (OutputStream, "finish"), (TableDecoder, "push"), (TableDecoder, "finish"),
    (StopScanner, "push"), (StopScanner, "finish"), (MarkerParser, "feed"), (TokenTable, "text_of"),
)  # fmt: skip
PROCESSORS = ((host_sampler, "processed"),)
GRAMMAR = ((GrammarConstraint, "mask"), (GrammarConstraint, "advance"))
CACHE = (
    *((PromptCache, name) for name in ("fetch", "insert", "match_length", "pin", "unpin")),
    *((PromptCache, name) for name in ("match_disk_at_most", "fetch_from_disk", "forget_on_disk", "hold_on_disk")),
    *((PromptCache, name) for name in ("forget", "trim_to", "stats", "continuation")),
    *((MlxPayload, name) for name in ("layout", "copy_blocks", "copy_state", "restore", "cut")),
)
DISK = tuple((System, name) for name in vars(System) if not name.startswith("_") and name != "close")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


@pytest.mark.parametrize(("first", "stride"), cases(5, 37, 1, 2))
@pytest.mark.parametrize("places", [OUTPUT, GRAMMAR, slow(PROCESSORS)], ids=["output", "grammar", "processors"])
def test_whichever_call_fails_its_own_request_ends_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, places: Sequence[tuple[Any, str]], first: int, stride: int
) -> None:
    fault = FaultAtCall(monkeypatch, places, failing())
    sampler = "host" if places is PROCESSORS else "auto"
    run(path, lambda handle: at_each_call(handle, fault, first, stride, own), sampler=sampler)
    assert {f"{owner.__name__}.{name}" for owner, name in places} == fault.seen


@pytest.mark.parametrize(("first", "stride"), cases(3, 17, 1, 2))
@pytest.mark.parametrize("below", [pytest.param("", marks=pytest.mark.slow), "kv"])
def test_whichever_call_of_the_prompt_cache_fails_no_request_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, stride: int, below: str
) -> None:
    """In memory alone, and with a directory below it, which has what the memory has forgotten."""
    fault = FaultAtCall(monkeypatch, CACHE, failing())
    directory = str(tmp_path / below) if below else ""
    run(path, ask, directory)  # at its end it writes what it has
    run(path, lambda handle: at_each_call(handle, fault, first, stride, nobody), directory)
    assert {"PromptCache.fetch", "PromptCache.insert", "MlxPayload.restore", "MlxPayload.copy_blocks"} <= fault.seen
    assert not below or {"PromptCache.match_disk_at_most", "PromptCache.fetch_from_disk"} <= fault.seen


@pytest.mark.parametrize(
    ("first", "stride"),
    [
        (41, MOST),
        pytest.param(1, 17, marks=pytest.mark.slow),
        pytest.param(2, 2, marks=[pytest.mark.exhaustive, pytest.mark.timeout(600)]),
    ],
)
def test_whichever_call_of_the_disk_fails_no_request_does_and_nothing_half_written_stays(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, stride: int
) -> None:
    """Two engines in turn over one directory: the first writes, the second reads; then one that has no faults."""
    fault = FaultAtCall(monkeypatch, DISK, failing(lambda: OSError(errno.EIO, "planted")))
    right: dict[str, Answer] = {}
    lost: list[str] = []
    hits: list[float] = []

    async def learn(handle: EngineHandle) -> None:
        right.update(await ask(handle))

    async def use(handle: EngineHandle) -> None:
        lost.extend(failed(await ask(handle), right))
        await settled(handle)
        hits.append(handle.info().cache.get("disk.hits", 0))

    run(path, learn)
    for n in range(first, MOST, stride):
        folder = tmp_path / str(n)
        fault.arm(n)
        for _ in range(2):
            run(path, use, str(folder))
        happened = fault.happened
        fault.arm(0)
        assert not lost, (n, happened, lost)
        run(path, use, str(folder))
        assert not lost and hits[-1] > 0, (n, happened, lost)
        assert not list(folder.rglob(".tmp*")) + list(folder.rglob("*.tmp")), (n, happened)
        if not happened:
            say(fault, first, stride, (n - first) // stride, clean_at=n)
            return
    assert stride == MOST  # one fault, and never a run to its end
    assert {"System.write", "System.read", "System.rename", "System.sync"} <= fault.seen


@pytest.mark.parametrize(
    "places",
    [
        pytest.param([(renderer, "_exchange")], id="template", marks=pytest.mark.slow),
        pytest.param([(trials, "_write_all")], id="grammar"),
    ],
)
def test_whichever_time_a_process_dies_it_is_made_anew_and_no_request_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, places: Sequence[tuple[Any, str]]
) -> None:
    """Killed as it is about to be given its n-th piece of work."""

    def kill(process: "subprocess.Popen[bytes]", *_: Any) -> None:
        process.kill()
        process.wait(60)

    fault = FaultAtCall(monkeypatch, places, kill)
    killed: list[str] = []

    def harmed(happened: str, lost: list[str]) -> bool:
        killed.append(happened)
        return not lost

    async def body(handle: EngineHandle) -> None:
        current = handle._loads.current
        assert current is not None
        # A grammar that is known needs no process.
        await at_each_call(handle, fault, 1, 1, harmed, fresh=lambda _: current.compiler._cache.clear())

    run(path, body)
    assert killed and len(fault.seen) == 1
