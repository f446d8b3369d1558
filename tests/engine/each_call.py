"""A fault at call 1, 2, 3 and on until a run ends without one: who may fail has, with a fault of ours, all others are
exact, nothing is left, and the same questions are answered exactly afterwards."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig, SamplerBackend
from backend.core.errors import InternalFault
from backend.core.logline import logline
from backend.core.request import Conversation, Grammar, Message, Sampling
from backend.engine.batching.session import Session
from backend.engine.handle import EngineHandle
from backend.engine.loading import LoadedModel, load_model
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.engine.planted import FaultAtCall

log = logging.getLogger(__name__)

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
MOST = 2000
AGAIN = " again"


async def ask(handle: EngineHandle) -> dict[str, Answer]:
    """All of them together, then two of them again, which may hit."""
    answers = list(await asyncio.gather(*(read(handle, wanted) for wanted in WANTED)))
    seen = {wanted.request_id: answer for wanted, answer in zip(WANTED, answers, strict=True)}
    for wanted in WANTED[:2]:
        seen[f"{wanted.request_id}{AGAIN}"] = await read(handle, wanted)
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
    handle: EngineHandle,
    fault: FaultAtCall,
    first: int,
    stride: int,
    may_fail: Callable[[str, list[str]], bool],
    fresh: Callable[[Session], None] = lambda _: None,
) -> None:
    """Arm, ask, look; until a run is over before its fault is due.

    Args:
        may_fail: Of a place and the names of those who ended with a fault of ours: whether they may have.
        fresh: Called before each run: nothing of the one before is left after it.
    """
    fault.arm(0)
    right = await ask(handle)
    for faults, n in enumerate(range(first, MOST, stride)):
        await settled(handle)
        session = handle._thread.session
        assert session is not None
        session.prefix._store.clear(None)  # in memory; a directory below has it yet
        fresh(session)
        fault.arm(n)
        lost = failed(await ask(handle), right)
        happened = fault.happened
        fault.arm(0)
        assert may_fail(happened, lost) if happened else not lost, (n, happened, lost)
        queue = await settled(handle)
        assert queue["live_kv_bytes"] == 0 and handle.alive
        assert not failed(await ask(handle), right), (n, happened)
        if not happened:
            say(fault, first, stride, faults, clean_at=n)
            return
    raise AssertionError("no run came to its end without a fault")


def say(fault: FaultAtCall, first: int, stride: int, faults: int, *, clean_at: int) -> None:
    """How many faults a loop had, for `--log-cli-level info`."""
    counts = {"first": first, "stride": stride, "faults": faults, "clean_at": clean_at, "places": len(fault.seen)}
    log.info(logline("fault_at_each_call", **counts))


def own(happened: str, lost: list[str]) -> bool:
    """Its own request ends, and no other; what the last token did to a grammar no draw asks any more."""
    return len(lost) == 1 or (happened == "GrammarConstraint.advance" and not lost)


def nobody(happened: str, lost: list[str]) -> bool:
    """No request ends."""
    return not lost


def cases(first: int, stride: int, *every: int) -> list[Any]:
    """A few calls with every change, each one among the slow tests."""
    return [(first, stride), *(pytest.param(n, len(every), marks=pytest.mark.slow) for n in every)]


def run(
    path: Path,
    body: Callable[[EngineHandle], Any],
    directory: str = "",
    *,
    sampler: SamplerBackend = "auto",
    load: Callable[..., LoadedModel] = load_model,
    **options: Any,
) -> None:
    """An engine for such a loop; `options` are those of `model_config`."""
    engine = EngineConfig(prefill_chunk=32, sampler=sampler)
    cache = CacheConfig(directory=directory)
    with_engine(model_config(path, engine=engine, cache=cache, as_served=True, **options), body, load=load)
