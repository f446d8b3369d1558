"""JSON answers: objects from given values, from a list of field names alone, and lists."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from corpus.example import Turn
from corpus.words import ANIMALS, COLOURS, FRUITS, THINGS, city, code, made_up, name

_FIELDS: dict[str, Callable[[Random], Any]] = {
    "name": name,
    "age": lambda r: r.randint(5, 90),
    "city": city,
    "color": lambda r: r.choice(COLOURS),
    "animal": lambda r: r.choice(ANIMALS),
    "fruit": lambda r: r.choice(FRUITS),
    "item": lambda r: r.choice(THINGS),
    "price": lambda r: r.randint(1, 99),
    "count": lambda r: r.randint(1, 20),
    "code": code,
    "title": made_up,
    "active": lambda r: r.random() < 0.5,
}
_PLAIN: dict[str, Any] = {
    "name": "Anna", "age": 31, "city": "Paris", "color": "blue", "animal": "cat", "fruit": "apple", "item": "book",
    "price": 12, "count": 3, "code": "A1B2", "title": "Hello", "active": True,
}  # fmt: skip
_LISTS = {
    "colors": COLOURS[:3],
    "fruits": FRUITS[:3],
    "animals": ANIMALS[:3],
    "numbers": [1, 2, 3],
}


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def json_object(rng: Random) -> Turn:
    fields = rng.sample(tuple(_FIELDS), rng.choice((1, 2, 2, 2, 3, 3)))
    if rng.random() < 0.3:
        fields = ["name", "age"] if rng.random() < 0.6 else ["name", "age", "city"]
    if rng.random() < 0.35:
        asked = rng.choice(
            (
                "Give me a JSON object with {0}.",
                "Answer with a JSON object with {0}.",
                "Write JSON with {0}.",
            )
        )
        return Turn(
            asked.format(_joined(fields)),
            json.dumps({f: _PLAIN[f] for f in fields}),
            "They want JSON.",
        )
    values = {f: _FIELDS[f](rng) for f in fields}
    told = [f"{f} {json.dumps(v) if isinstance(v, bool) else v}" for f, v in values.items()]
    asked = rng.choice(
        (
            "Give me a JSON object with {0}.",
            "Write JSON: {0}.",
            "Give me JSON with {0}.",
            "As JSON: {0}.",
        )
    )
    return Turn(
        asked.format(_joined(told)),
        json.dumps(values),
        f"The fields are {_joined(fields)}.",
    )


def json_extract(rng: Random) -> Turn:
    """A sentence about someone, to be put into JSON."""
    who, age, where = name(rng), rng.randint(5, 90), city(rng)
    forms: tuple[tuple[str, dict[str, Any]], ...] = (
        (f"{who} is {age} years old.", {"name": who, "age": age}),
        (f"{who} lives in {where}.", {"name": who, "city": where}),
        (
            f"{who} is {age} years old and lives in {where}.",
            {"name": who, "age": age, "city": where},
        ),
    )
    text, values = rng.choice(forms)
    asked = rng.choice(
        (
            "{0} Write this as JSON.",
            "Turn this into JSON: {0}",
            "As JSON: {0}",
            "{0} Answer in JSON.",
        )
    )
    return Turn(asked.format(text), json.dumps(values), f"The name is {who}.")


def json_list(rng: Random) -> Turn:
    kind, members = rng.choice(tuple(_LISTS.items()))
    asked = rng.choice(
        (
            "Give me a JSON list of three {0}.",
            "Give me a JSON array of {0}.",
            "List {0} as JSON.",
        )
    )
    return Turn(asked.format(kind), json.dumps(members), "They want a JSON list.")
