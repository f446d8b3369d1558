"""What `pin` is given to keep: a text, or messages and tools as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FIELDS: Final = ("role", "content", "name", "tool_call_id", "reasoning_content", "tool_calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A text, or messages by the wire's fields with the JSON of their tools."""

    prompt: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    tools: str = ""


def read_text(path: str) -> str:
    """A file's text as it is.

    Raises:
        ValueError: It cannot be read, or is no UTF-8; the message names it.
    """
    try:
        # newline="": a carriage return is part of a prompt.
        with Path(path).open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise ValueError(f"{path}: not UTF-8") from None


def read_line(path: str) -> str:
    """A file's text without the space around it, for a secret.

    Raises:
        ValueError: As `read_text`, and where nothing is left.
    """
    text = read_text(path).strip()
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def read_messages(path: str) -> tuple[Mapping[str, str], ...]:
    """The messages of a JSON file: an array of objects as OpenAI's API has them, each content a text.

    Raises:
        ValueError: It cannot be read, or is something else; the message names the file.
    """
    try:
        found = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path}: must be an array of messages")
    return tuple(_message(f"{path}: message {place}", one) for place, one in enumerate(found))


def _message(what: str, message: Any) -> Mapping[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f"{what}: must be an object")
    given = {str(key): value for key, value in message.items() if value is not None}
    if "tool_calls" in given and not isinstance(given["tool_calls"], str):
        given["tool_calls"] = json.dumps(given["tool_calls"])
    for key, value in given.items():
        if key not in FIELDS:
            raise ValueError(f"{what}: {key!r} is none of {', '.join(FIELDS)}")
        if not isinstance(value, str):
            raise ValueError(f"{what}: {key} must be text")
    return given
