"""What holds for all tool-call formats together."""

import pkgutil
import re
from pathlib import Path

import mlx_lm.tool_parsers
import pytest

from backend.output.calls.call_format import CallSender
from backend.output.choice import FORMAT_ALIASES
from backend.output.formats import formats
from tests.output.cutting import run
from tests.output.golden import format_named

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


def test_every_parser_of_mlx_lm_has_a_format_here():
    theirs = {module.name for module in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__)}
    assert len(theirs) >= 14
    assert theirs <= set(formats())


def test_every_format_has_a_test_of_its_own():
    here = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(formats()) <= here


@pytest.mark.parametrize("name", sorted(formats()))
def test_a_format_is_called_what_its_file_is_called_and_lists_its_markers(name: str):
    call_format = formats()[name]
    assert type(call_format).__module__.rpartition(".")[2] in (
        name,
        "glm47",
        "gemma4",
        "qwen3_coder",
        "json_tools",
        "llama3_json",
    )
    for text in (*call_format.starts, call_format.call_start, call_format.call_end):
        assert any(marker.startswith(text) or marker in text for marker in (*call_format.markers, ""))


def test_the_page_lists_every_format_with_the_names_it_answers_to():
    rows: dict[str, set[str]] = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) == 7 and cells[1].strip("`") in formats():
            rows[cells[1].strip("`")] = set(filter(None, cells[4].split(", ")))
    names = {name: {alias for alias, meant in FORMAT_ALIASES.items() if meant == name} for name in formats()}
    assert rows == names


@pytest.mark.parametrize("name", sorted(formats()))
def test_text_without_markers_is_content(name: str):
    whole = run(format_named(name), ["Gr\u00fc\u00dfe, 1 < 2 and [a] {b}.\n"])
    assert whole.content == "Gr\u00fc\u00dfe, 1 < 2 and [a] {b}.\n"
    assert not whole.tool_calls


def test_call_ids_are_unique_and_mistrals_have_nine_letters_or_digits():
    ids = {formats()["json_tools"].new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(i.startswith("call_") for i in ids)
    mistral = formats()["mistral"].new_id()
    assert len(mistral) == 9
    assert mistral.isalnum()


def test_a_models_own_call_id_is_kept_once():
    text = "<|tool_calls_section_begin|>" + 2 * (
        "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    )
    whole = run(format_named("kimi_k2"), [text])
    assert [delta.id for delta in whole.tool_calls if delta.name] == ["functions.now:0", "id0"]


def test_a_fresh_id_that_is_taken_is_made_again():
    ids = iter(["a", "a", "b"])
    sender = CallSender(lambda: next(ids))
    call = type("Call", (), {"id": "", "name": "f", "arguments": "{}"})()
    assert [sender.deltas(call)[0].id for _ in range(2)] == ["a", "b"]
