"""Forced calls of a model with random weights at temperature 1, in every format, many at once, in pieces.

Each call has a schema of its own. What a grammar or a parser gets wrong shows here: a call that does not fit, one that
is not wholly read, markup in the text, arguments whose beginning was wrong.
"""

import asyncio
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.config import EngineConfig
from backend.core.events import FinishReason
from backend.core.request import Conversation, Message, Sampling, ToolChoice
from backend.engine.handle import EngineHandle
from backend.output.formats import formats
from tests.e2e.asking import chat, stream
from tests.e2e.forced import check_so_far, check_whole, joined, tool, write_model_of
from tests.e2e.oracle import as_good_as_new
from tests.e2e.worker import Worker
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.grammar.schemas import linked_parameters, random_parameters

AT_ONCE = 24
BUDGET = 400
FORMATS = sorted(formats())
NAMED = ToolChoice(mode="function", function="f")
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
# A turn of theirs ends with its call.
ONE_CALL = ("harmony",)


def cases(quick: tuple[str, ...] = ()) -> list[Any]:
    """Parameters `(name, count)`: six calls in every format, for `make check` but for the quick ones, and a hundred."""
    return [
        *(pytest.param(name, 6, marks=[] if name in quick else [pytest.mark.slow]) for name in FORMATS),
        *(pytest.param(name, 100, marks=pytest.mark.exhaustive) for name in FORMATS),
    ]


def parameters_of(number: int) -> dict[str, Any]:
    """The schema of the call with this number."""
    make = linked_parameters if number % 2 else random_parameters
    return make(random.Random(number), number // 2 % 4)


async def forced_answers(engine: EngineHandle, count: int, choice: ToolChoice = NAMED) -> list[Answer]:
    """Answers that must call, each with a schema of `f` and a seed of its own, at most `AT_ONCE` at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Answer:
        tools = (tool("f", parameters_of(number)), tool("g", NOTHING))
        conversation = Conversation(messages=(Message(role="user", content="Hi"),), tools=tools, tool_choice=choice)
        sampling = Sampling(temperature=1.0, seed=number)
        async with room:
            wanted = request(conversation, n=BUDGET, name=str(number), sampling=sampling, streamed=True)
            return await read(engine, replace(wanted, logprobs=None))

    return list(await asyncio.gather(*(one(number) for number in range(count))))


def outcome(calls: list[tuple[str, str]], text: str, cut: bool, number: int) -> str:
    """`valid` or `cut`; fails on anything else."""
    assert not text.strip(), (number, text)
    if cut and not calls:
        return "cut"
    ((name, arguments),) = calls
    assert name == "f"
    if cut:
        check_so_far(arguments, parameters_of(number))
        return "cut"
    check_whole(arguments, parameters_of(number))
    return "valid"


def calls_of(answer: Answer, number: int) -> tuple[list[tuple[str, str]], str, bool]:
    """The calls and the text of an answer of the engine's, and whether its limit ended it."""
    assert answer.end is not None, (number, answer.error)
    pieces = [*(delta.piece for delta in answer.deltas), answer.end.piece]
    calls = joined([each for piece in pieces for each in piece.tool_calls])
    text = "".join(piece.content + piece.reasoning for piece in pieces)
    cut = answer.end.reason is FinishReason.LENGTH
    assert cut or answer.end.reason is FinishReason.TOOL_CALLS, (number, answer.end.reason)
    return calls, text, cut


def check_several(calls: list[tuple[str, str]], text: str, cut: bool, number: int) -> int:
    """All calls fit, but that the last may be cut; how many are whole."""
    assert not text.strip(), (number, text)
    whole = calls if not cut else calls[:-1]
    for name, arguments in whole:
        check_whole(arguments, parameters_of(number) if name == "f" else NOTHING)
    for name, arguments in calls[len(whole) :]:
        check_so_far(arguments, parameters_of(number) if name == "f" else NOTHING)
    assert whole or cut
    return len(whole)


@pytest.mark.parametrize(("name", "count"), cases(quick=("qwen3_coder",)))
def test_forced_calls_of_a_random_model_fit_their_schemas(name: str, count: int, tmp_path: Path) -> None:
    special = len(name) % 2 == 0
    folder = write_model_of(tmp_path / "model", name, special=special)

    async def body(engine: EngineHandle) -> list[Answer]:
        return await forced_answers(engine, count)

    answers = with_engine(
        model_config(folder, engine=EngineConfig(max_rows=AT_ONCE), tool_parser=name, reasoning_parser="none"), body
    )
    found = Counter(outcome(*calls_of(answer, number), number) for number, answer in enumerate(answers))
    # Where calls are required, further ones may come until the budget is at its end.
    assert found["valid"] >= count // 3, found


@pytest.mark.parametrize(("name", "count"), cases())
def test_required_calls_of_a_random_model_are_one_or_more_and_fit(name: str, count: int, tmp_path: Path) -> None:
    folder = write_model_of(tmp_path / "model", name, special=len(name) % 2 == 1)

    async def body(engine: EngineHandle) -> list[Answer]:
        return await forced_answers(engine, count, ToolChoice(mode="required"))

    answers = with_engine(
        model_config(folder, engine=EngineConfig(max_rows=AT_ONCE), tool_parser=name, reasoning_parser="none"), body
    )
    numbers = [check_several(*calls_of(answer, number), number) for number, answer in enumerate(answers)]
    assert sum(map(bool, numbers)) > count // 2, numbers
    if name in ONE_CALL:
        assert max(numbers) == 1, numbers
    elif count > 50:  # a few may all have ended after one
        assert max(numbers) > 1, numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minimax_m2", "deepseek_v3", "function_gemma", "harmony", "glm47"])
def test_forced_calls_of_many_clients_fit_their_schemas(name: str, tmp_path: Path) -> None:
    """Over the socket, from a worker of its own."""
    folder = write_model_of(tmp_path / "model", name, special=True)
    requests = [
        chat(
            "Hi",
            BUDGET,
            Tools=json.dumps([tool("f", parameters_of(number)), tool("g", {"type": "object", "properties": {}})]),
            ToolChoice="f",
            Temperature=1.0,
            Seed=number,
        )
        for number in range(16)
    ]
    with Worker() as worker, as_good_as_new(worker), ThreadPoolExecutor(len(requests)) as clients:
        worker.must_load(folder, f"tool_parser:{name}", "reasoning_parser:none")
        answers = list(clients.map(lambda wanted: stream(worker.stub, wanted), requests))
    found: Counter[str] = Counter()
    for number, answer in enumerate(answers):
        assert answer.reason in ("length", "tool_calls"), (number, answer.code, answer.details)
        deltas = [delta for reply in answer.replies for delta in reply.chat_deltas]
        calls = joined([each for delta in deltas for each in delta.tool_calls])
        text = answer.text + "".join(delta.content + delta.reasoning_content for delta in deltas)
        found[outcome(calls, text, answer.reason == "length", number)] += 1
    assert found["valid"] > len(requests) * 2 // 3, found
