"""A model directory's files, looked at before anything is loaded from them, so that a failure names its file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import safe_open

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.failures import guarded
from backend.engine.loading.plausible import Shapes, check_eos_ids, check_numbers
from backend.engine.loading.sizes import check_size

WEIGHTS_PATTERN = "model*.safetensors"  # what mlx-lm reads


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        optional: A file that is missing, not JSON or null is an empty object: mlx-lm goes on without it, too.

    Raises:
        ModelLoadFailed: The file is missing, larger than any of its kind, not UTF-8, not JSON or not an object; names
            it.
    """
    if not path.is_file():
        if optional:
            return {}
        raise ModelLoadFailed(f"{path}: no such file")
    value = _parsed(path, optional=optional)
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise ModelLoadFailed(f"{path}: is not a JSON object")
    return value


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """The objects in a JSON file that is a list of them.

    Raises:
        ModelLoadFailed: The file is larger than any of its kind, not UTF-8, not JSON or not such a list; names it.
    """
    value = _parsed(path)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ModelLoadFailed(f"{path}: is not a list of JSON objects")
    return value


def _parsed(path: Path, *, optional: bool = False) -> Any:
    def parse() -> Any:
        check_size(path)
        text = path.read_text(encoding="utf-8")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if optional:
                return None
            raise

    return guarded(str(path), parse)


def check_config(directory: Path, *, trust_remote_code: bool) -> None:
    """Refuse a directory whose config.json cannot name a model, or names code that may not run.

    Raises:
        ModelLoadFailed: Naming config.json, or generation_config.json.
    """
    file = directory / "config.json"
    config = read_json(file)
    if not isinstance(config.get("model_type"), str):
        raise ModelLoadFailed(f"{file}: has no model_type")
    _check_architectures(file, config.get("architectures"))
    check_eos_ids(file, config.get("eos_token_id"))
    generation = directory / "generation_config.json"
    check_eos_ids(generation, read_json(generation, optional=True).get("eos_token_id"))
    code = config.get("model_file")
    if code is None:
        return
    if not trust_remote_code:
        raise ModelLoadFailed(f"{file}: model_file {code!r} needs trust_remote_code")
    # Trust covers the files of this directory, wherever their bytes are kept, and no others.
    if not isinstance(code, str) or Path(code).name != code or not (directory / code).is_file():
        raise ModelLoadFailed(f"{file}: model_file {code!r} is not a file of the model's directory")


def _check_architectures(file: Path, named: object) -> None:
    listed = named if isinstance(named, list) else [named]
    if named is not None and not all(isinstance(one, str) for one in listed):
        raise ModelLoadFailed(f"{file}: architectures is not a list of names")


def check_numbers_of(directory: Path, files: Iterable[Path]) -> None:
    """Refuse numbers of config.json that the weights' headers cannot bear out.

    Raises:
        ModelLoadFailed: Naming config.json and the number, or a weight file.
    """
    shapes, config = Shapes(), directory / "config.json"
    for file in files:
        guarded(str(file), partial(_add_shapes, file, shapes))
    check_numbers(config, read_json(config), shapes)


def _add_shapes(file: Path, shapes: Shapes) -> None:
    with safe_open(file, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118  it is no mapping
            shapes.add(name, opened.get_slice(name).get_shape())


def check_weights(directory: Path) -> list[Path]:
    """The weight files, each with a sane header and none missing.

    Raises:
        ModelLoadFailed: Naming the file or the directory.
    """
    files = sorted(directory.glob(WEIGHTS_PATTERN))
    if not files:
        raise ModelLoadFailed(f"{directory}: has no {WEIGHTS_PATTERN}{_found_instead(directory)}")
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        _check_shards(index, read_json(index), {file.name for file in files})
    for file in files:
        check_weight_file(file)
    return files


def check_weight_file(file: Path) -> None:
    """Compare a safetensors file's header with its size, by the format's own library. MLX checks less of it.

    Raises:
        ModelLoadFailed: Naming the file.
    """

    def check() -> None:
        with safe_open(file, framework="numpy"):
            pass

    guarded(str(file), check)


def _check_shards(index: Path, content: Mapping[str, Any], present: set[str]) -> None:
    shards = content.get("weight_map")
    if not isinstance(shards, dict):
        raise ModelLoadFailed(f"{index}: has no weight_map")
    missing = sorted({str(shard) for shard in shards.values()} - present)
    # mlx-lm reads by pattern: an index that names other files belongs to another layout of the same weights.
    missing = [shard for shard in missing if Path(shard).match(WEIGHTS_PATTERN)]
    if missing:
        raise ModelLoadFailed(f"{index.parent / missing[0]}: no such file, but {index.name} lists it")


def _found_instead(directory: Path) -> str:
    others = sorted(file.name for file in _foreign_weights(directory))
    return f"; {others[0]} is not in a format that is read here" if others else ""


def _foreign_weights(directory: Path) -> Iterator[Path]:
    for pattern in ("*.gguf", "*.bin", "*.pt", "*.pth", "*.npz", "*.safetensors"):
        yield from directory.glob(pattern)
