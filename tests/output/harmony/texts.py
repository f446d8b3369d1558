"""Texts in the harmony format, made up: messages with all kinds of headers."""

import json
from typing import Any

from hypothesis import strategies as st

MARKERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
NAMES = ("get_weather", "now", "a.b.c", "data_analysis", "mcp__files-read", "f", "functions.f", "final")
BUILT_IN = ("python", "browser.search", "container.exec")
TYPES = ("", " json", " <|constrain|>json", "<|constrain|>json", " code", " <|constrain|>application/json")

_pieces = st.sampled_from(
    ["Gr\u00fc\u00dfe", "\U0001f30d", " ", "\n", "\n\n", "<", "<|", "|>", "<|sta", "{", "}", '"', "to=functions.f",
     "analysis", "commentary", "assistant", "a", "1 < 2", "json", "\u4f60\u597d", ".", "**", "```\n", "\t"]
)  # fmt: skip
texts = st.lists(_pieces, max_size=8).map("".join).filter(lambda text: not any(each in text for each in MARKERS))
_scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts
_values = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
objects = st.dictionaries(texts, _values, max_size=4)


@st.composite
def arguments(draw: st.DrawFn) -> str:
    """JSON as models write it, or nothing."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(["", " ", "\n"]))
    space = draw(st.sampled_from(["", "", " ", "\n"]))
    indent, ascii_only = draw(st.sampled_from([None, None, 2])), draw(st.booleans())
    text = space + json.dumps(draw(objects), indent=indent, ensure_ascii=ascii_only) + space
    return text if not any(each in text for each in MARKERS) else "{}"


@st.composite
def calls(draw: st.DrawFn) -> str:
    """A message that calls a function, from the role on."""
    recipient = " to=" + draw(st.sampled_from([*(f"functions.{name}" for name in NAMES), *BUILT_IN]))
    channel = draw(st.sampled_from(["commentary", "commentary", "analysis", "final"]))
    header = draw(st.sampled_from([f"{recipient}<|channel|>{channel}", f"<|channel|>{channel}{recipient}", recipient]))
    if recipient.startswith(" to=functions.") and draw(st.integers(0, 9)) == 0:
        header = f"<|channel|>{channel} {recipient.removeprefix(' to=')}"
    return _message(
        draw, "assistant" + header + draw(st.sampled_from(TYPES)), draw(arguments()), ("<|call|>", "<|end|>")
    )


@st.composite
def spoken(draw: st.DrawFn) -> str:
    """A message that calls nothing, from the role on."""
    channel = draw(st.sampled_from(["analysis", "analysis", "commentary", "final", "final", "other", ""]))
    recipient = draw(st.sampled_from(["", "", "", " to=user", " to=assistant", " to=all"]))
    header = recipient + (f"<|channel|>{channel}" if channel else "")
    if channel and draw(st.booleans()):
        header = f"<|channel|>{channel}{recipient}"
    # Without a recipient their parser takes a type for one.
    kind = draw(st.sampled_from(TYPES)) if recipient else ""
    return _message(draw, "assistant" + header + kind, draw(texts), ("<|end|>", "<|return|>"))


@st.composite
def strangers(draw: st.DrawFn) -> str:
    """A message that is not the assistant's, which a model may make up."""
    header = draw(
        st.sampled_from(
            ["user", "system", "developer", "user to=assistant", "functions.now to=assistant<|channel|>commentary",
             "python to=assistant<|channel|>analysis", "browser.search to=assistant<|channel|>analysis"]
        )
    )  # fmt: skip
    return _message(draw, header, draw(texts), ("<|end|>",))


def _message(draw: st.DrawFn, header: str, body: str, ends: tuple[str, ...]) -> str:
    return f"{header}<|message|>{body}{draw(st.sampled_from(ends))}"


@st.composite
def answers(draw: st.DrawFn) -> str:
    """An answer of several messages; the prompt has begun the first one's header."""
    first = draw(calls() | spoken())
    rest = draw(st.lists(calls() | spoken() | strangers(), max_size=4))
    text = "".join([first.removeprefix("assistant"), *(f"<|start|>{each}" for each in rest)])
    bare = draw(st.booleans())
    return _without_end(text) if bare else text


def _without_end(text: str) -> str:
    """As hosts get it, whose models end an answer with a token that is no text."""
    return text.removesuffix("<|call|>").removesuffix("<|return|>")


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages of the assistant for their renderer."""
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        channel = draw(st.sampled_from(["analysis", "commentary", "final"]))
        message: dict[str, Any] = {"role": "assistant", "channel": channel, "content": draw(texts)}
        if draw(st.booleans()):
            message["recipient"] = "functions." + draw(st.sampled_from(NAMES))
            message["content"] = draw(arguments())
            kind = draw(st.sampled_from(["", "json", "<|constrain|>json", "code"]))
            message |= {"content_type": kind} if kind else {}
        found.append(message)
    return found
