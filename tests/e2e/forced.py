"""Models of random weights that write calls in a given format, and what is right of a call they were forced to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from backend.check.random_tokenizer import LEAST_VOCAB
from tests.grammar.json_prefix import is_json_prefix
from tests.models import write_model
from tests.output.golden import format_named

_VOCAB = LEAST_VOCAB + 32
# Tools would be most of the prompt, and the grammar leaves the model no need of them.
_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def write_model_of(folder: Path, name: str, *, special: bool) -> Path:
    """A model whose tokenizer has the format's markers: as control tokens, or as text like any other."""
    write_model(folder, vocab=_VOCAB)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    there = {each["content"]: each for each in added}
    for marker in dict.fromkeys(format_named(name).markers):
        if marker in there:
            there[marker]["special"] = special
            continue
        filler, index = list(vocabulary.items())[len(added) + 256]
        del vocabulary[filler]
        vocabulary[marker] = index
        added.append({**added[0], "id": index, "content": marker, "special": special})
        vocabulary = tokenizer["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    file.write_text(json.dumps(tokenizer))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": _TEMPLATE}))
    return folder


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI tool object."""
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def check_whole(arguments: str, parameters: dict[str, Any]) -> None:
    """The arguments fit their schema."""
    jsonschema.validate(json.loads(arguments), parameters, jsonschema.Draft202012Validator)


def check_so_far(arguments: str, parameters: dict[str, Any]) -> None:
    """Arguments that were cut begin JSON, and those that are whole fit their schemas."""
    assert is_json_prefix(arguments or "{"), arguments
    jsonschema.validate(_whole_members(arguments), _without_required(parameters), jsonschema.Draft202012Validator)


def _without_required(parameters: dict[str, Any]) -> dict[str, Any]:
    """The schema of arguments of which any may be missing."""
    root = parameters
    while "$ref" in root:
        root = parameters["$defs"][root["$ref"].removeprefix("#/$defs/").replace("~1", "/")]
    return {**{key: root[key] for key in root if key != "required"}, "$defs": parameters.get("$defs", {})}


def _whole_members(arguments: str) -> dict[str, Any]:
    """The members that a comma follows."""
    for at in range(len(arguments) - 1, -1, -1):
        if arguments[at] == ",":
            try:
                return json.loads(arguments[:at] + "}")
            except ValueError:
                continue  # within a value
    return {}


def joined(deltas: Sequence[Any]) -> list[tuple[str, str]]:
    """Calls as a client puts them together of the engine's or the wire's deltas; name first, and once."""
    calls: list[list[str]] = []
    for delta in deltas:
        if delta.index == len(calls):
            assert delta.id and delta.name
            calls.append([delta.name, delta.arguments])
        else:
            assert delta.index == len(calls) - 1 and not delta.name
            calls[-1][1] += delta.arguments
    return [(name, arguments) for name, arguments in calls]
