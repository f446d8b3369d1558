"""A trace of requests that others have seen, made into a plan.

A line is a JSON object: `timestamp` (milliseconds from the start), `input_length` and `output_length` (tokens), and
`hash_ids`: one id for each block of 512 prompt tokens. Prompts with equal ids begin alike as far as those go, and no
prompt is longer than its ids.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from backend.bench.plan import Planned
from backend.bench.texts import Texts

BLOCK_TOKENS: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a trace is replayed.

    Attributes:
        scale: What all lengths are multiplied by.
        speed: What time is divided by; None sends each request as soon as a stream is free.
        context: Tokens of prompt and answer at most; longer requests are left out.
    """

    file: Path
    requests: int
    scale: float
    speed: float | None
    context: int


@dataclass(frozen=True, slots=True)
class _Request:
    at: float
    prompt_tokens: int
    answer_tokens: int
    blocks: tuple[str, ...]


def plan(replay: Replay, texts: Texts, run: str) -> list[Planned]:
    """The file's first requests that fit the context, by their time.

    Args:
        run: Other runs' texts are others, so that nothing of theirs is of use to this one.

    Raises:
        ValueError: The file is no trace, or nothing of it fits; one sentence.
    """
    fitting = (one for one in _requests(replay) if one.prompt_tokens + one.answer_tokens < replay.context)
    first = sorted(islice(fitting, replay.requests), key=lambda one: one.at)
    planned = [_planned(one, replay, texts, run) for one in first]
    if not planned:
        raise ValueError(
            f"{replay.file}: no request fits a context of {replay.context} tokens; a smaller --scale helps."
        )
    return planned


def _planned(one: _Request, replay: Replay, texts: Texts, run: str) -> Planned:
    block = BLOCK_TOKENS * replay.scale
    parts, left = list[str](), one.prompt_tokens
    for name in one.blocks:
        tokens = round(min(block, left))
        if tokens > 0:
            parts.append(texts.of(f"{run} block {name}", tokens))
        left -= tokens
    return Planned(
        prompt=" ".join(parts),
        prompt_tokens=one.prompt_tokens,
        answer_tokens=one.answer_tokens,
        at=None if replay.speed is None else one.at / replay.speed,
    )


def _requests(replay: Replay) -> Iterator[_Request]:
    try:
        with replay.file.open(encoding="utf-8") as lines:
            for number, line in enumerate(filter(str.strip, lines), 1):
                yield _request(line, replay, number)
    except OSError as error:
        raise ValueError(f"{replay.file} cannot be read: {error.strerror or error}.") from None


def _request(line: str, replay: Replay, number: int) -> _Request:
    try:
        found: Any = json.loads(line)
        at, blocks = float(found["timestamp"]) / 1000, found["hash_ids"]
        if not math.isfinite(at) or not isinstance(blocks, list) or not blocks:
            raise ValueError
        return _Request(
            at=at,
            prompt_tokens=max(1, round(int(found["input_length"]) * replay.scale)),
            answer_tokens=max(1, round(int(found["output_length"]) * replay.scale)),
            blocks=tuple(map(str, blocks)),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ValueError(
            f"{replay.file}, line {number}: no object with timestamp, input_length, output_length and hash_ids."
        ) from None
