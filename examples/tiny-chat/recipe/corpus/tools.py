"""Tools in the OpenAI form, known and made up, and requests that need one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from corpus.words import THINGS, city, lower_word, made_up, name, place

Tool = dict[str, Any]
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Need:
    """A tool as offered, a request that needs it, and the arguments that answer the request."""

    tool: Tool
    request: str
    arguments: Arguments

    @property
    def name(self) -> str:
        return self.tool["function"]["name"]


def make_tool(
    name: str,
    description: str,
    properties: dict[str, Any],
    required: list[str] | None = None,
) -> Tool:
    """One tool; some hosts leave out `required`, so None leaves it out."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required is not None:
        parameters["required"] = required
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": parameters,
        },
    }


def _property(rng: Random, kind: str, description: str) -> dict[str, Any]:
    return {"type": kind, "description": description} if rng.random() < 0.4 else {"type": kind}


def _required(rng: Random, names: list[str]) -> list[str] | None:
    return names if rng.random() < 0.75 else None


_WEATHER = (
    "What's the weather like in {0}?", "What is the weather like in {0}?", "What is the weather in {0}?",
    "What's the weather in {0}?", "How is the weather in {0}?", "Weather in {0}?", "Is it raining in {0}?",
    "Tell me the weather in {0}.", "What's the weather like in {0} today?", "Get the weather for {0}.",
)  # fmt: skip


def weather(rng: Random) -> Need:
    where = place(rng)
    key = rng.choice(("location", "location", "city", "city", "place"))
    properties: dict[str, Any] = {key: _property(rng, "string", rng.choice(("The city", "City name", "The place")))}
    arguments: Arguments = {key: where}
    request = rng.choice(_WEATHER).format(where)
    if rng.random() < 0.3:
        unit = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        properties["unit"] = unit
        if rng.random() < 0.5:
            wanted = rng.choice(("celsius", "fahrenheit"))
            request = f"{request.rstrip('.?')} in {wanted}?"
            arguments["unit"] = wanted
    tool_name = rng.choice(("get_weather", "get_weather", "get_weather", "get_current_weather", "weather"))
    told = rng.choice(
        (
            "Get the weather",
            "Get the current weather",
            "Get the weather in a city",
            "Weather of a place",
        )
    )
    return Need(
        make_tool(tool_name, told, properties, _required(rng, [key])),
        request,
        arguments,
    )


def clock(rng: Random) -> Need:
    where = place(rng)
    key = rng.choice(("city", "location", "timezone"))
    tool = make_tool(
        "get_time",
        "Get the local time",
        {key: _property(rng, "string", "The city")},
        _required(rng, [key]),
    )
    asked = rng.choice(
        (
            "What time is it in {0}?",
            "Tell me the time in {0}.",
            "What's the time in {0}?",
        )
    )
    return Need(tool, asked.format(where), {key: where})


def search(rng: Random) -> Need:
    what = rng.choice((lower_word, city, name))(rng)
    tool_name = rng.choice(("search", "search_web", "web_search"))
    tool = make_tool(
        tool_name,
        "Search the web",
        {"query": {"type": "string"}},
        _required(rng, ["query"]),
    )
    asked = rng.choice(
        (
            "Search for {0}.",
            "Search the web for {0}.",
            "Look up {0}.",
            "Find something about {0}.",
        )
    )
    return Need(tool, asked.format(what), {"query": what})


def message(rng: Random) -> Need:
    who, text = (
        name(rng),
        rng.choice(("hello", "good morning", "see you soon", lower_word(rng))),
    )
    tool_name = rng.choice(("send_message", "send_email", "send_text"))
    properties = {"to": {"type": "string"}, "text": {"type": "string"}}
    tool = make_tool(tool_name, "Send a message", properties, _required(rng, ["to", "text"]))
    asked = rng.choice(('Send "{1}" to {0}.', 'Write to {0}: "{1}"', 'Tell {0} "{1}".'))
    return Need(tool, asked.format(who, text), {"to": who, "text": text})


def sum_of_two(rng: Random) -> Need:
    a, b = rng.randint(0, 999), rng.randint(0, 999)
    properties = {"a": {"type": "integer"}, "b": {"type": "integer"}}
    tool_name, sign = rng.choice((("add", "+"), ("multiply", "*")))
    tool = make_tool(tool_name, f"Compute a {sign} b", properties, _required(rng, ["a", "b"]))
    word = {
        "add": ("Add {0} and {1}.", "What is {0} + {1}?"),
        "multiply": ("Multiply {0} by {1}.", "What is {0} * {1}?"),
    }
    return Need(tool, rng.choice(word[tool_name]).format(a, b), {"a": a, "b": b})


def timer(rng: Random) -> Need:
    n = rng.randint(1, 60)
    tool = make_tool(
        "set_timer",
        "Set a timer",
        {"minutes": {"type": "integer"}},
        _required(rng, ["minutes"]),
    )
    asked = rng.choice(
        (
            "Set a timer for {0} minutes.",
            "Wake me in {0} minutes.",
            "Timer: {0} minutes.",
        )
    )
    return Need(tool, asked.format(n), {"minutes": n})


def no_arguments(rng: Random) -> Need:
    tool_name, told, asked = rng.choice(
        (
            ("get_date", "Get today's date", "What day is it today?"),
            ("list_files", "List the files", "Which files are there?"),
            ("get_news", "Get the news", "What is in the news?"),
        )
    )
    return Need(make_tool(tool_name, told, {}, _required(rng, [])), asked, {})


def invented(rng: Random) -> Need:
    """A tool with a name and a parameter that are new each time, so that both must be read from the list."""
    verb, noun = (
        rng.choice(("get", "find", "open", "show", "check", "read")),
        rng.choice((lower_word, _thing))(rng),
    )
    key = rng.choice(("name", "id", "query", "value", "key", "place", lower_word(rng)))
    subject = rng.choice((name, city, lower_word))(rng)
    tool_name = f"{verb}_{noun}"
    tool = make_tool(
        tool_name,
        f"{verb.capitalize()} the {noun}",
        {key: {"type": "string"}},
        _required(rng, [key]),
    )
    asked = rng.choice(("{0} the {1} of {2}.", "{0} the {1} for {2}.", "Please {3} the {1} of {2}."))
    return Need(tool, asked.format(verb.capitalize(), noun, subject, verb), {key: subject})


def _thing(rng: Random) -> str:
    return rng.choice(THINGS) if rng.random() < 0.5 else made_up(rng).lower()


KINDS: tuple[Callable[[Random], Need], ...] = (
    *(weather,) * 8, clock, clock, search, search, message, message, sum_of_two, timer, no_arguments, *(invented,) * 6
)  # fmt: skip


def need(rng: Random) -> tuple[Need, tuple[Tool, ...]]:
    """A request and the tools offered with it: the one needed, among up to two others."""
    wanted = rng.choice(KINDS)(rng)
    offered = [wanted.tool]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        other = rng.choice(KINDS)(rng)
        if other.name not in {t["function"]["name"] for t in offered} and not _alike(other.name, wanted.name):
            offered.insert(rng.randrange(len(offered) + 1), other.tool)
    return wanted, tuple(offered)


def _alike(one: str, other: str) -> bool:
    return any(word in one and word in other for word in ("weather", "search", "send"))
