"""Every YAML of examples/localai as LocalAI would send it, into a worker with tiny-chat in the model's place."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backend.pb import backend_pb2 as pb
from backend.translate.options import OPTIONS, LoadDefaults, load_request
from tests.e2e import localai
from tests.e2e.chatting import CAPITAL, TOOLS, WEATHER_QUESTION, Turn, ask
from tests.e2e.oracle import as_good_as_new
from tests.e2e.worker import ROOT, TINY_CHAT, Worker
from tests.grammar.host_grammars import JSON_OBJECT

FILES = sorted((ROOT / "examples" / "localai").glob("*.yaml"))
PAGE = (ROOT / "docs" / "localai.md").read_text()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Path]]:
    """A worker, and a models path in which every model that the files name is tiny-chat."""
    models = tmp_path_factory.mktemp("models")
    for path in FILES:
        config = localai.read(path)
        for name in filter(None, (config["parameters"]["model"], config.get("draft_model"))):
            place = models / name
            place.parent.mkdir(exist_ok=True)
            if not place.exists():
                place.symlink_to(TINY_CHAT)
    with Worker() as worker, as_good_as_new(worker):
        yield worker, models


def answers(turn: Turn, _: pb.InfoResponse) -> None:
    assert "Paris" in turn.text and not turn.reasoning


def thinks(turn: Turn, _: pb.InfoResponse) -> None:
    assert "Paris" in turn.text and "France" in turn.reasoning


def calls(turn: Turn, _: pb.InfoResponse) -> None:
    assert [call.name for call in turn.calls] == ["get_weather"]


def is_json(turn: Turn, _: pb.InfoResponse) -> None:
    assert turn.answer.reason == "stop"
    jsonschema.validate(json.loads(turn.text), {"type": "object"})


def has(**details: str) -> Callable[[Turn, pb.InfoResponse], None]:
    def check(turn: Turn, info: pb.InfoResponse) -> None:
        answers(turn, info)
        assert {key: info.details[key] for key in details} == details

    return check


def has_the_models_context(turn: Turn, info: pb.InfoResponse) -> None:
    """Not 4096, and of 32,768 what tiny-chat was trained for."""
    answers(turn, info)
    assert info.context == 8192


Check = Callable[[Turn, pb.InfoResponse], None]
# What is asked beside the question, and what must come of it.
PROOFS: dict[str, tuple[str, dict[str, Any], Check]] = {
    "chat": (CAPITAL, {}, has_the_models_context),
    "tools": (WEATHER_QUESTION, {"Tools": TOOLS, "ToolChoice": '"auto"'}, calls),
    "json": ("Give me JSON about Anna.", {"Grammar": JSON_OBJECT, "Tokens": 400}, is_json),
    "thinking": (CAPITAL, {}, thinks),
    "no-thinking": (CAPITAL, {}, answers),
    "long-context": (CAPITAL, {}, has_the_models_context),
    "disk-cache": (CAPITAL, {}, has(prompt_cache_disk="on")),
    "quantised-kv": (CAPITAL, {}, has(kv_bits="8", kv_group_size="32")),
    "speculation": (CAPITAL, {}, answers),
    "draft-model": (CAPITAL, {}, has(speculation="ngram, cache, grammar, draft; up to 16 tokens")),
    "embeddings": (CAPITAL, {}, has(embedding="pooling last, width 192, length 1", rerank="cosine")),
    # tiny-chat has no token for yes.
    "rerank": (CAPITAL, {}, has(rerank="cosine")),
    "tenants": (CAPITAL, {"Metadata": {"cache_salt": "of one user"}}, has(isolation="balanced")),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_files_options_are_understood_without_a_warning(path: Path) -> None:
    config = localai.read(path)
    # LocalAI refuses absolute paths, and ways out of the models' directory, before it asks any backend.
    for name in filter(None, (config["parameters"]["model"], config.get("draft_model"))):
        assert not name.startswith("/") and ".." not in name.split("/")
    load = load_request(localai.model_options(config, Path("/models")), LoadDefaults())
    assert load.warnings == ()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_loads_without_a_warning_and_does_what_it_is_for(path: Path, host: tuple[Worker, Path]) -> None:
    worker, models = host
    config = localai.read(path)
    assert config["backend"] == "mlx" and config["name"] == path.stem
    question, fields, check = PROOFS[path.stem]
    before = len(worker.log.lines)
    result = worker.stub.LoadModel(localai.model_options(config, models), timeout=60)
    assert result.success, result.message
    # Greedy: what tiny-chat draws at a temperature is not what is looked at.
    turn = ask(worker, localai.request(config, question, **{"Temperature": 0.0, **fields}))
    check(turn, worker.info.Get(pb.InfoRequest(), timeout=60))
    warnings = [line for line in worker.log.lines[before:] if "level=warning" in line and "context_capped" not in line]
    assert warnings == []


def test_every_option_is_in_a_file_or_in_the_pages_table() -> None:
    in_files = {option.partition(":")[0] for path in FILES for option in localai.read(path).get("options", [])}
    assert in_files <= set(OPTIONS)
    rows = re.findall(r"^\| (`.+?) \|", PAGE.split("## Options")[1].split("\n## ")[0], re.MULTILINE)
    in_table = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert in_files | in_table == set(OPTIONS)


def test_the_readme_names_every_file() -> None:
    readme = (ROOT / "examples" / "localai" / "README.md").read_text()
    assert set(re.findall(r"`([\w-]+\.yaml)`", readme)) == {path.name for path in FILES}
