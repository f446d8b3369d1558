"""OpenAI's own implementation of the harmony format, and what its messages mean to a client of ours."""

import codecs
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

from backend.core.events import Piece
from backend.output.trimming import BLANK
from tests.output.cutting import calls_in

FOLDER = Path(__file__).resolve().parents[3] / "build" / "harmony"
LIBRARY, VOCABULARY = FOLDER / "openai_harmony" / "openai_harmony.abi3.so", FOLDER / "o200k_base.tiktoken"

Message = dict[str, Any]
Calls = tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Meaning:
    """What a client gets of an answer."""

    reasoning: str = ""
    content: str = ""
    calls: Calls = ()


class Refused(Exception):
    """Their parser does not take the text."""


class Reference:
    """The library's extension module, without the Python around it, which needs pydantic."""

    def __init__(self) -> None:
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(FOLDER)
        spec = importlib.util.spec_from_loader("openai_harmony", ExtensionFileLoader("openai_harmony", str(LIBRARY)))
        assert spec and spec.loader
        self._module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        self._encoding = self._module.load_harmony_encoding("HarmonyGptOss")
        self._special = self._encoding.special_tokens()

    def tokens(self, text: str) -> list[int]:
        """Markers as the special tokens that they are."""
        return self._encoding.encode(text, self._special)

    def text(self, tokens: Sequence[int]) -> str:
        """Without the character of which the last bytes are missing."""
        return bytes(self._encoding.decode_bytes(list(tokens))).decode(errors="ignore")

    def parsed(self, tokens: Sequence[int], *, role: str | None = "assistant") -> list[Message]:
        """The messages of a whole answer.

        Args:
            role: Whose header the prompt has begun; None if it has begun none.

        Raises:
            Refused: It is not in the format.
        """
        try:
            return json.loads(self._encoding.parse_messages_from_completion_tokens(list(tokens), role, True))
        except self._module.HarmonyError as error:
            raise Refused(str(error)) from error

    def streamed(self, tokens: Sequence[int]) -> list[Message]:
        """The messages of an answer that was cut off, also the last one as far as it goes.

        Raises:
            Refused: It is not in the format.
        """
        parser = self._module.PyStreamableParser(self._encoding, "assistant", True)
        try:
            for token in tokens:
                parser.process(token)
            found = json.loads(parser.messages)
        except self._module.HarmonyError as error:
            raise Refused(str(error)) from error
        if json.loads(parser.state)["state"] == "Content":
            now = {"role": parser.current_role, "channel": parser.current_channel, "cut": True}
            found.append({**now, "recipient": parser.current_recipient, "content": parser.current_content})
        return found

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text."""
        decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        return [decoder.decode(bytes(self._encoding.decode_bytes([token]))) for token in tokens]

    def answer(self, history: Sequence[Message], turn: Sequence[Message]) -> str:
        """What a model has to write after `history` to say `turn`, by their renderer."""
        prompt = self._encoding.render_conversation_for_completion(
            json.dumps({"messages": history}), "assistant", {"auto_drop_analysis": False}
        )
        whole = self._encoding.render_conversation(
            json.dumps({"messages": [*history, *turn]}), {"auto_drop_analysis": False}
        )
        assert whole[: len(prompt)] == prompt
        return self.text(whole[len(prompt) :])


def meaning(messages: Sequence[Message], *, with_calls: bool = True) -> Meaning:
    """What messages mean to a client, by their channels and recipients."""
    texts: dict[str, list[str]] = {"reasoning": [], "content": []}
    calls: list[tuple[str, dict[str, Any]]] = []
    for message in messages:
        recipient = message.get("recipient") or "all"
        if message["role"] != "assistant":
            texts["reasoning"].append(message["content"])
        elif recipient in ("all", "user", "assistant") or not with_calls:
            texts["reasoning" if message.get("channel") == "analysis" else "content"].append(message["content"])
        else:
            arguments = _arguments(message["content"], cut=message.get("cut", False))
            if arguments is not None:
                calls.append((recipient.removeprefix("functions."), arguments))
    return Meaning(_joined(texts["reasoning"]), _joined(texts["content"]), tuple(calls))


def _arguments(text: str, *, cut: bool) -> dict[str, Any] | None:
    """None for a half call.

    Raises:
        ValueError: It is not the beginning of a call.
    """
    if not text.strip() and not cut:
        return {}
    try:
        return json.loads(text, strict=False)
    except ValueError:
        if not cut:
            raise
        return None


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join(text.strip(BLANK) for text in texts if text.strip(BLANK))


def ours(piece: Piece) -> Meaning:
    """What a parser of ours has made of a text. White space at the end of an answer does not count."""
    calls = tuple((name, json.loads(arguments)) for name, arguments in calls_in(piece))
    return Meaning(piece.reasoning.strip(BLANK), piece.content.strip(BLANK), calls)
