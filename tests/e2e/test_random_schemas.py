"""Random JSON schemas on a random-weight model at temperature 1, through the real engine, many at once.

Everything a grammar can get wrong shows here: an answer that does not validate, one that is no JSON so far when its
budget ends, one that ends in an error, a keyword that is taken without being held.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backend.config import EngineConfig
from backend.core.errors import InvalidRequest
from backend.core.events import FinishReason
from backend.core.request import Grammar, Sampling
from backend.engine.handle import EngineHandle
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.grammar.json_prefix import is_json_prefix
from tests.grammar.schemas import random_schema, unsupported_schema

SCHEMAS = 500
DEEPEST = 5
UNSUPPORTED = 50
AT_ONCE = 32
# About one answer in 25 is longer.
BUDGET = 250


async def answers_to(engine: EngineHandle, schemas: list[dict[str, Any]]) -> list[Answer]:
    """One answer to each schema, each from its own seed, at most `AT_ONCE` at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, schema: dict[str, Any]) -> Answer:
        grammar = Grammar(kind="json_schema", text=json.dumps(schema))
        sampling = Sampling(temperature=1.0, seed=number)
        async with room:
            return await read(engine, request("JSON:", n=BUDGET, name=str(number), sampling=sampling, grammar=grammar))

    return list(await asyncio.gather(*(one(number, schema) for number, schema in enumerate(schemas))))


def outcome(answer: Answer, schema: dict[str, Any]) -> str:
    """`valid` or `cut`; fails on anything else."""
    assert answer.end is not None, (answer.error, schema)
    assert is_json_prefix(answer.text), (answer.text, schema)
    if answer.end.reason is FinishReason.LENGTH:
        assert answer.end.usage.completion_tokens == BUDGET
        return "cut"
    assert answer.end.reason is FinishReason.STOP
    jsonschema.validate(json.loads(answer.text), schema, jsonschema.Draft202012Validator)
    return "valid"


@pytest.mark.slow
def test_answers_to_500_random_schemas_validate(random_model: Callable[..., Path]) -> None:
    schemas = [random_schema(random.Random(n), n * (DEEPEST + 1) // SCHEMAS) for n in range(SCHEMAS)]

    async def body(engine: EngineHandle) -> list[Answer]:
        return await answers_to(engine, schemas)

    config = model_config(random_model(), engine=EngineConfig(max_rows=AT_ONCE))
    answers = with_engine(config, body)
    found = Counter(outcome(answer, schema) for answer, schema in zip(answers, schemas, strict=True))
    assert found["valid"] >= 400, found
    assert found["cut"] > 0, found  # else nothing has shown that what is cut is right so far
    assert len({answer.text for answer in answers}) > SCHEMAS // 2


def test_schemas_that_cannot_be_held_are_refused_with_their_keyword(random_model: Callable[..., Path]) -> None:
    made = [unsupported_schema(random.Random(n), n % DEEPEST) for n in range(UNSUPPORTED)]

    async def body(engine: EngineHandle) -> list[Answer]:
        return await answers_to(engine, [schema for schema, _ in made])

    answers = with_engine(model_config(random_model()), body)
    refused: Counter[str] = Counter()
    for answer, (schema, keyword) in zip(answers, made, strict=True):
        assert isinstance(answer.error, InvalidRequest), (schema, answer.text)
        assert repr(keyword) in str(answer.error) or f'"{keyword}"' in str(answer.error), answer.error
        refused[keyword] += 1
    assert refused.total() == UNSUPPORTED
    assert len(refused) == 6, refused
