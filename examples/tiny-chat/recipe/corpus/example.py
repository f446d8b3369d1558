"""What the generators produce: a piece of plain text to continue, or a conversation to answer."""

from dataclasses import dataclass
from random import Random
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Completion:
    """Plain text without a chat template; the model learns `answer` after `prompt`."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Turn:
    """One answer to one user message.

    `thought` is what stands in <think> when thinking is on; None when the task has none of its own.
    """

    question: str
    answer: str
    thought: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation whose last message, by the assistant, is what the model learns."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    thinking: bool = False


Example = Completion | Chat


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, thought: str | None = None) -> Message:
    message: Message = {"role": "assistant", "content": text}
    if thought:
        message["reasoning_content"] = thought
    return message


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def varied(rng: Random, text: str) -> str:
    """`text` as people type it: now and then without its last mark, or in lower case at the start."""
    if rng.random() < 0.12 and text[-1] in "?.!":
        text = text[:-1]
    if rng.random() < 0.08 and len(text) > 1 and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    return text
