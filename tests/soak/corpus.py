"""Requests, and what each is answered alone by a worker that keeps nothing and guesses nothing."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, stream
from tests.e2e.worker import TINY_CHAT, Worker
from tests.models import write_model

# Plain KV of a trained model, a window, recurrent states beside KV, experts.
FAMILIES = ("gemma3_text", "qwen3_next", "qwen3_moe")
WORDS = (
    *("the", "cat", "sat", "on", "a", "red", "mat", "and", "told", "it"),
    *("of", "many", "small", "birds", "over", "there", "in", "cold", "rain"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the text and the reason that it ends with."""

    request: pb.PredictOptions
    text: str
    reason: str
    tokens: int

    def is_answered_by(self, answer: Answer, *, whole: bool) -> bool:
        """The same text to its end; of an answer cut short, its beginning."""
        if whole:
            return (answer.text, answer.reason, answer.last.tokens) == (self.text, self.reason, self.tokens)
        return self.text.startswith(answer.text)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A model's requests."""

    name: str
    model: Path
    asked: tuple[Asked, ...]


def models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Models of several cache families, by name."""
    yield "tiny-chat", TINY_CHAT
    for family in FAMILIES:
        yield family, write_model(folder / family, family)


def learn(worker: Worker, name: str, model: Path, *, count: int, seed: int) -> Corpus:
    """Ask each request alone."""
    worker.must_load(model)
    asked: list[Asked] = []
    for request in requests(random.Random(f"{seed} {name}"), count):
        request.ModelIdentity = str(model)
        answer = stream(worker.stub, request)
        assert answer.replies, (answer.code, answer.details, request)
        asked.append(Asked(request, answer.text, answer.reason, answer.last.tokens))
    return Corpus(name, model, tuple(asked))


def requests(drawn: random.Random, count: int) -> list[pb.PredictOptions]:
    """Some that share beginnings, some longer than a chunk, drawn in every way."""
    prefixes = [text(drawn, drawn.choice((20, 60, 150))) for _ in range(max(1, count // 5))]
    return [_request(drawn, prefixes, index) for index in range(count)]


def text(drawn: random.Random, words: int) -> str:
    """Words that any tokenizer has."""
    return " ".join(drawn.choices(WORDS, k=words))


def _request(drawn: random.Random, prefixes: Sequence[str], index: int) -> pb.PredictOptions:
    fields: dict[str, Any] = {"Tokens": drawn.randrange(4, 40)}
    if drawn.random() < 0.5:
        fields |= {"Temperature": 0.9, "TopP": 0.95, "TopK": drawn.choice((0, 20)), "Seed": index + 1}
    match drawn.randrange(6):
        case 0:
            fields |= {"Penalty": 1.2, "Repeat": 32}
        case 1:
            fields |= {"StopPrompts": [drawn.choice(WORDS)]}
        case 2:
            fields |= {"Grammar": 'root ::= ("yes " | "no ")+', "Tokens": 12}
        case 3:
            fields |= {"IgnoreEOS": True, "Tokens": 60}
        case _:
            pass
    body = f"{drawn.choice(prefixes)} {text(drawn, drawn.randrange(1, 30))}"
    if drawn.random() < 0.2:
        # What is copied is guessed.
        body = f"{body} {body}"
    return pb.PredictOptions(Prompt=body, **fields)
