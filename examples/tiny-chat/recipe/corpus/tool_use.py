"""Conversations around tools: calling, answering from a result, and leaving them alone."""

import json
from random import Random
from typing import Any

from corpus.example import Chat, Message, Turn, assistant, system, user, varied
from corpus.tools import Arguments, Need, clock, invented, need, sum_of_two, weather
from corpus.words import city

_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy")
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are Tiny.",
    "Use tools when you need them.",
)


def _call(name: str, arguments: Arguments, thought: str | None) -> Message:
    function = {"name": name, "arguments": arguments}
    message: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }
    if thought:
        message["reasoning_content"] = thought
    return message


def _thought(wanted: Need) -> str:
    return f"I need the tool {wanted.name}."


def _opening(rng: Random) -> tuple[Message, ...]:
    return (system(rng.choice(_SYSTEMS)),) if rng.random() < 0.3 else ()


def tool_call(rng: Random) -> Chat:
    """One request, one call."""
    wanted, offered = need(rng)
    thinking = rng.random() < 0.3
    answer = _call(wanted.name, wanted.arguments, _thought(wanted) if thinking else None)
    return Chat((*_opening(rng), user(varied(rng, wanted.request)), answer), offered, thinking)


def two_calls(rng: Random) -> Chat:
    """The weather in two cities: two calls in one answer."""
    wanted = weather(rng)
    key = next(iter(wanted.arguments))
    cities = [city(rng), city(rng)]
    calls = [{"type": "function", "function": {"name": wanted.name, "arguments": {key: c}}} for c in cities]
    answer: Message = {"role": "assistant", "content": "", "tool_calls": calls}
    asked = rng.choice(
        (
            "What is the weather in {0} and {1}?",
            "What's the weather like in {0} and in {1}?",
        )
    )
    return Chat((*_opening(rng), user(asked.format(*cities)), answer), (wanted.tool,))


def tool_result(rng: Random) -> Chat:
    """The answer that follows a tool's result."""
    pick = rng.random()
    if pick < 0.6:
        wanted, result, answer = _weather_result(rng)
    elif pick < 0.8:
        wanted, result, answer = _time_result(rng)
    else:
        wanted, result, answer = _other_result(rng)
    thinking = rng.random() < 0.3
    call = _call(wanted.name, wanted.arguments, _thought(wanted) if thinking else None)
    reply = assistant(answer, "The tool has answered." if thinking else None)
    messages = (
        *_opening(rng),
        user(varied(rng, wanted.request)),
        call,
        {"role": "tool", "content": result},
        reply,
    )
    return Chat(messages, (wanted.tool,) if rng.random() < 0.9 else (), thinking)


def _weather_result(rng: Random) -> tuple[Need, str, str]:
    wanted = weather(rng)
    where = str(next(iter(wanted.arguments.values())))
    degrees, sky = rng.randint(-9, 39), rng.choice(_SKIES)
    answer = f"It is {sky} in {where}, with {degrees} degrees."
    if rng.random() < 0.35:
        return (
            wanted,
            rng.choice(
                (
                    f"{sky}, {degrees} C",
                    f"{degrees} degrees and {sky}",
                    f"{sky} {degrees}",
                )
            ),
            answer,
        )
    fields: list[tuple[str, Any]] = [
        (rng.choice(("temperature", "temp", "degrees", "celsius")), degrees),
        (rng.choice(("condition", "conditions", "sky", "weather")), sky),
    ]
    rng.shuffle(fields)
    if rng.random() < 0.3:
        fields.insert(0, (rng.choice(("city", "location")), where))
    if rng.random() < 0.15:
        return (
            wanted,
            json.dumps({k: v for k, v in fields if v != sky}),
            f"It is {degrees} degrees in {where}.",
        )
    return wanted, json.dumps(dict(fields)), answer


def _time_result(rng: Random) -> tuple[Need, str, str]:
    wanted = clock(rng)
    where = str(next(iter(wanted.arguments.values())))
    time = f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    return (
        wanted,
        rng.choice((time, json.dumps({"time": time}))),
        f"It is {time} in {where}.",
    )


def _other_result(rng: Random) -> tuple[Need, str, str]:
    if rng.random() < 0.5:
        wanted = sum_of_two(rng)
        n = rng.randint(0, 9999)
        return (
            wanted,
            rng.choice((str(n), json.dumps({"result": n}))),
            f"The result is {n}.",
        )
    wanted, found = invented(rng), city(rng)
    return (
        wanted,
        rng.choice((found, json.dumps({"result": found}))),
        f"The result is {found}.",
    )


def without_need(rng: Random, turn: Turn, thinking: bool) -> Chat:
    """Tools are offered, but the question needs none of them."""
    _, offered = need(rng)
    opening = (system(turn.system),) if turn.system else _opening(rng)
    return Chat(
        (
            *opening,
            user(turn.question),
            assistant(turn.answer, turn.thought if thinking else None),
        ),
        offered,
        thinking,
    )
