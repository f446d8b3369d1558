"""The files of a model's directory, weights and tokenizer aside, through the part of a load that needs no MLX."""

import json
import shutil
import struct
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.loading.context import served_context
from backend.engine.loading.files import open_files
from backend.engine.loading.permitted import PermittedFiles
from backend.engine.loading.sentence import read_sentence_config
from tests.fuzz.structures import change_json
from tests.fuzz.target import Target
from tests.fuzz.targets.model_texts import CONFIG, INDEX, SENTENCE, SETTINGS, TOKENIZERS, WORDS

_HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WEIGHTS = struct.pack("<Q", len(_HEADER)) + _HEADER + b"\0" * 4
_SEEDS: tuple[dict[str, Any], ...] = (
    {"config.json": CONFIG, "tokenizer_config.json": SETTINGS},
    {
        "config.json": CONFIG,
        "model.safetensors.index.json": INDEX,
        "generation_config.json": {"eos_token_id": [129, 0]},
    },
    {"config.json": {"model_type": "x", "text_config": CONFIG}, "special_tokens_map.json": {"eos_token": "<|im_end|>"}},
    {
        "config.json": CONFIG,
        "added_tokens.json": {"<a>": 140},
        "chat_template.json": {"chat_template": "{{ messages }}"},
    },
    *({"config.json": CONFIG, **files} for files in SENTENCE),
)


def model_files() -> Target:
    """A JSON object of files by name; the tokenizer and the weights are sound."""
    return _target(_SEEDS, _open)


def sentence_files() -> Target:
    """The same of what says how embeddings are pooled: broken, it is no reason not to load."""
    return _target(SENTENCE, _sentence, refusals=())


def _target(seeds: Any, work: Any, refusals: tuple[type[Exception], ...] = (ModelLoadFailed,)) -> Target:
    folder = tempfile.TemporaryDirectory()
    return Target(
        run=partial(work, Path(folder.name) / "m"),
        seeds=[json.dumps(seed).encode() for seed in seeds],
        change=lambda rng, data, words: change_json(rng, data, [*words, *WORDS]),
        refusals=refusals,
        seconds=20.0,
        close=folder.cleanup,
    )


def write_files(folder: Path, data: bytes) -> None:
    """A directory of the files that the data has; nothing outside of it, and nothing where the data is none."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZERS[0]))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    try:
        files = json.loads(data)
    except (ValueError, RecursionError):
        files = {"config.json": data.decode("utf-8", "replace")}
    known = {name for seed in _SEEDS for name in seed}
    for name, content in files.items() if isinstance(files, dict) else ():
        if name in known:
            (folder / name).write_text(json.dumps(content))


def _open(folder: Path, data: bytes) -> None:
    write_files(folder, data)
    open_files(ModelConfig(identity="m", candidates=(str(folder),)))
    served_context(json.loads((folder / "config.json").read_text()), None)


def _sentence(folder: Path, data: bytes) -> None:
    write_files(folder, data)
    permitted = PermittedFiles.below((folder,))
    read_sentence_config(folder, partial(permitted.check_regular, "modules.json"))
