"""What is fuzzed: a function over bytes, what it may do with them, and inputs to begin with."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.fuzz.changing import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One function and its contract.

    Attributes:
        run: Takes any bytes. What it raises, but for `refusals`, is a find.
        seeds: Sound inputs and odd ones, small.
        change: Makes an input of another.
        refusals: Errors that the function documents.
        seconds: That one input may take.
        memory: Bytes that the process may grow by for one input.
        repeatable: An input does the same each time, so that a find can be made smaller.
        close: Ends what `run` uses.
    """

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    change: Change
    refusals: tuple[type[Exception], ...] = ()
    seconds: float = 2.0
    memory: int = 128 << 20
    repeatable: bool = True
    close: Callable[[], None] = lambda: None


class Broken(Exception):
    """A contract does not hold.

    Args:
        what: In a few words, without the input: finds of the same words are one.
        seen: What it was with this input.
    """

    def __init__(self, what: str, seen: object = "") -> None:
        super().__init__(f"{what}: {seen!r:.500}")
        self.what = what


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a target is.

    Attributes:
        module: Of `tests.fuzz.targets`; a function of the target's name makes it.
        aims: Files and folders of the product that it is to reach.
        slice: It is quick enough, and needs no other process, so that some of it runs with every change.
    """

    module: str
    aims: tuple[str, ...]
    slice: bool = True


_SAMPLING = ("backend/translate/sampling.py", "backend/core/request.py")
_CONVERSATION = ("backend/translate/conversation.py", "backend/translate/strict_json.py")
_COMPILING = tuple(
    f"backend/grammar/{name}.py"
    for name in ("compiler", "constraints", "dialects", "llguidance_engine", "trial", "trials")
)
_PROMPT = tuple(
    f"backend/prompt/{name}.py" for name in ("chat_template", "frames", "messages", "renderer", "template_needs")
)
_RENDERING = ("backend/prompt/template_environment.py", "backend/prompt/rendering.py")
_LOADING = tuple(
    f"backend/engine/loading/{name}.py" for name in ("checkpoint", "context", "files", "permitted", "sentence")
)
_FILES = tuple(f"mlx_cache/disk/{name}.py" for name in ("arrays", "catalog", "directory", "files", "format", "reading"))
_SMALL = tuple(f"backend/engine/{name}.py" for name in ("conversation_files", "name_files", "small_files"))

TARGETS: Final[Mapping[str, Entry]] = {
    "requests": Entry("translating", ("backend/translate", "backend/core/request.py")),
    "logit_bias": Entry("fields", (*_SAMPLING, "backend/translate/strict_json.py")),
    "tools": Entry("tools", (*_CONVERSATION, "backend/output/calls", "backend/grammar/tools.py")),
    "messages": Entry("fields", (*_CONVERSATION, "backend/prompt/messages.py", "backend/prompt/agent_header.py")),
    "metadata": Entry("fields", ("backend/translate",)),
    "load_options": Entry("fields", ("backend/translate/options.py", "backend/translate/option_values.py")),
    "calls": Entry("calls", ("backend/output",)),
    "gbnf": Entry("grammars", _COMPILING, slice=False),
    "json_schema": Entry("grammars", _COMPILING, slice=False),
    "regex": Entry("grammars", _COMPILING, slice=False),
    "lark": Entry("grammars", _COMPILING, slice=False),
    "gbnf_converter": Entry("converter", ("backend/grammar/gbnf",)),
    "templates": Entry("templates", _PROMPT, slice=False),
    "template_environment": Entry("environment", _RENDERING),
    "tokenizers": Entry(
        "tokenizers",
        ("backend/engine/loading/tokenizer.py", "backend/output/text", "backend/prompt/encoder.py",
         "backend/grammar/vocabulary.py", "backend/output/choice.py"),
        slice=False,
    ),
    "model_files": Entry("model_files", _LOADING, slice=False),
    "sentence_files": Entry("model_files", ("backend/engine/loading/sentence.py",)),
    "weights": Entry("weights", ("backend/engine/loading/checkpoint.py",)),
    "cache_header": Entry("cache_files", ("mlx_cache/disk/format.py",)),
    "cache_files": Entry("cache_files", _FILES, slice=False),
    "small_files": Entry("small_files", _SMALL),
    "loads": Entry("loads", (), slice=False),
    "wire_bytes": Entry("worker", (), slice=False),
    "wire_frames": Entry("worker", (), slice=False),
    "metrics_bytes": Entry("metrics", ("backend/metrics/endpoint.py",), slice=False),
}  # fmt: skip
# For the tests of the fuzzer itself.
PLANTED: Final[Mapping[str, Entry]] = {
    name: Entry("planted", ("tests/fuzz/targets/planted_code.py",), slice=False)
    for name in ("planted", "planted_ends", "planted_death", "planted_hang")
}
QUICK: Final = tuple(name for name, entry in TARGETS.items() if entry.slice)


def entry(name: str) -> Entry:
    """Where a target is."""
    return TARGETS.get(name) or PLANTED[name]


def make(name: str) -> Target:
    """A target, ready to run."""
    module = importlib.import_module(f"tests.fuzz.targets.{entry(name).module}")
    return getattr(module, name)()
