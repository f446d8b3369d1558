"""A fault at call 1, 2, 3 and on until a run ends without one: in an answer's output, its grammar, the prompt cache,
the disk below it, and the processes for templates and grammars.

On the engine without a process around it: the same faults would take a load each over the wire. The oracle is that of
the engine: who may fail has failed with a fault of ours, everybody else is exact, nothing is left, and the same
questions are answered exactly afterwards.
"""

import asyncio
import errno
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import InternalFault
from backend.core.request import Conversation, Grammar, Message, Sampling
from backend.engine.handle import EngineHandle
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
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.engine.planted import FaultAtCall, failing
from tests.models import write_model

SHARED = "what all of them begin with, for more than sixty-four characters: two chunks and a half. "
DRAWN = Sampling(temperature=1.0, seed=7, ignore_eos=True)
GREEDY = Sampling(ignore_eos=True)
HELD = Grammar(kind="regex", text="[a-z]{4}")
USER = Conversation(messages=(Message(role="user", content="hello"),))
WANTED = (
    request(SHARED + "the first", n=5, name="first", sampling=GREEDY, stop=("never said",)),
    request(SHARED + "another", n=6, name="drawn", sampling=DRAWN, stop=("never said",)),
    request("short", n=5, name="held", sampling=DRAWN, grammar=HELD),
    request(USER, n=4, name="chat", sampling=DRAWN),
)
OUTPUT = (
    (OutputStream, "push"), (OutputStream, "finish"), (TableDecoder, "push"), (TableDecoder, "finish"),
    (StopScanner, "push"), (StopScanner, "finish"), (MarkerParser, "feed"), (TokenTable, "text_of"),
)  # fmt: skip
GRAMMAR = ((GrammarConstraint, "mask"), (GrammarConstraint, "advance"))
CACHE = (
    *((PromptCache, name) for name in ("fetch", "insert", "match_length", "pin", "unpin")),
    *((PromptCache, name) for name in ("match_disk_at_most", "fetch_from_disk", "forget_on_disk", "hold_on_disk")),
    *((PromptCache, name) for name in ("forget", "trim_to", "stats", "continuation")),
    *((MlxPayload, name) for name in ("layout", "copy_blocks", "copy_state", "restore", "cut")),
)
DISK = tuple((System, name) for name in vars(System) if not name.startswith("_") and name != "close")
MOST = 2000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


async def ask(handle: EngineHandle) -> dict[str, Answer]:
    """All of them together, then two of them again, which may hit."""
    answers = list(await asyncio.gather(*(read(handle, wanted) for wanted in WANTED)))
    seen = {wanted.request_id: answer for wanted, answer in zip(WANTED, answers, strict=True)}
    for wanted in WANTED[:2]:
        seen[f"{wanted.request_id} again"] = await read(handle, wanted)
    return seen


def failed(seen: dict[str, Answer], right: dict[str, Answer]) -> list[str]:
    """Who ended with a fault of ours; all others are exact, and what was sent was right as far as it went."""
    found: list[str] = []
    for name, answer in seen.items():
        if answer.error is None:
            assert answer.logprobs == right[name].logprobs, name
            assert answer.text == right[name].text, name
        else:
            assert isinstance(answer.error, InternalFault), (name, answer.error)
            assert "planted" not in answer.error.message
            assert right[name].text.startswith(answer.text), name
            found.append(name)
    return found


async def at_each_call(
    handle: EngineHandle, fault: FaultAtCall, first: int, stride: int, may_fail: Callable[[str, list[str]], bool]
) -> None:
    """Arm, ask, look; until a run is over before its fault is due."""
    fault.arm(0)
    right = await ask(handle)
    for n in range(first, MOST, stride):
        await settled(handle)
        session = handle._thread.session
        assert session is not None
        session.prefix._store.clear(None)  # in memory; a directory below has it yet
        fault.arm(n)
        lost = failed(await ask(handle), right)
        happened = fault.happened
        fault.arm(0)
        assert may_fail(happened, lost) if happened else not lost, (n, happened, lost)
        queue = await settled(handle)
        assert queue["live_kv_bytes"] == 0 and handle.alive
        assert not failed(await ask(handle), right), (n, happened)
        if not happened:
            return
    raise AssertionError("no run came to its end without a fault")


def own(happened: str, lost: list[str]) -> bool:
    """Its own request ends, and no other; what the last token did to a grammar no draw asks any more."""
    return len(lost) == 1 or (happened == "GrammarConstraint.advance" and not lost)


def nobody(happened: str, lost: list[str]) -> bool:
    """No request ends."""
    return not lost


def cases(first: int, stride: int, *every: int) -> list[Any]:
    """A few calls with every change, each one among the slow tests."""
    return [(first, stride), *(pytest.param(n, len(every), marks=pytest.mark.slow) for n in every)]


def run(path: Path, body: Callable[[EngineHandle], Any], directory: str = "") -> None:
    cache = CacheConfig(directory=directory)
    with_engine(model_config(path, engine=EngineConfig(prefill_chunk=32), cache=cache, as_served=True), body)


@pytest.mark.parametrize(("first", "stride"), cases(5, 37, 1, 2))
@pytest.mark.parametrize("places", [OUTPUT, GRAMMAR], ids=["output", "grammar"])
def test_whichever_call_fails_its_own_request_ends_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, places: Sequence[tuple[Any, str]], first: int, stride: int
) -> None:
    fault = FaultAtCall(monkeypatch, places, failing())
    run(path, lambda handle: at_each_call(handle, fault, first, stride, own))
    assert {f"{owner.__name__}.{name}" for owner, name in places} == fault.seen


@pytest.mark.parametrize(("first", "stride"), cases(3, 17, 1, 2))
@pytest.mark.parametrize("below", ["", "kv"])
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
            return
    assert stride == MOST  # one fault, and never a run to its end
    assert {"System.write", "System.read", "System.rename", "System.sync"} <= fault.seen


@pytest.mark.parametrize("places", [[(renderer, "_exchange")], [(trials, "_write_all")]], ids=["template", "grammar"])
def test_whichever_time_a_process_dies_it_is_made_anew_and_no_request_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, places: Sequence[tuple[Any, str]]
) -> None:
    """Killed as it is about to be given its n-th piece of work."""

    def kill(process: "subprocess.Popen[bytes]", *_: Any) -> None:
        process.kill()
        process.wait(10)

    fault = FaultAtCall(monkeypatch, places, kill)
    run(path, lambda handle: at_each_call(handle, fault, 1, 1, nobody))
    assert len(fault.seen) == 1
