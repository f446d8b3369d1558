"""LoadModel of a real worker, of directories whose files are wrong somewhere."""

import itertools
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import grpc

from backend.pb import backend_pb2 as pb
from backend.rpc.status import MAX_DETAILS_BYTES
from tests.e2e.test_odd_requests import ALLOWED
from tests.fuzz.structures import change_json
from tests.fuzz.target import Broken, Target
from tests.fuzz.targets.model_texts import CONFIG, SENTENCE, SETTINGS, TOKENIZERS, WORDS
from tests.fuzz.targets.standing import Standing
from tests.models import write_checkpoint

LOAD_SECONDS = 60.0
HEADER = "header of model.safetensors"
_NAMES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "modules.json",
          "1_Pooling/config.json", "special_tokens_map.json", "model.safetensors.index.json")  # fmt: skip
# A model that was read wrongly may well compute what is no number: that is told, and its own.
_NO_NUMBER = "not finite"


def loads() -> Target:
    """A JSON object of files by name, with the header of the weights."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    write_checkpoint(root / "sound", CONFIG)
    weights = (root / "sound" / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", weights)
    files = {"config.json": CONFIG, "tokenizer.json": TOKENIZERS[0], "tokenizer_config.json": SETTINGS}
    seed = {**files, HEADER: json.loads(weights[8 : 8 + size])}
    others = [{**seed, "tokenizer.json": tokenizer} for tokenizer in TOKENIZERS[1:]] + [
        {**seed, **more} for more in SENTENCE
    ]
    standing = Standing()

    numbers = itertools.count()

    def run(data: bytes) -> None:
        # Under a name of its own each time: the same load again is none.
        directory = root / f"m{next(numbers)}"
        try:
            _write(directory, data, weights[8 + size :])
            _load_and_use(standing, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        standing.look(checks=False)

    def close() -> None:
        standing.check()
        standing.close()
        folder.cleanup()

    return Target(
        run=run,
        seeds=[json.dumps(one).encode() for one in (seed, *others)],
        change=lambda rng, data, words: change_json(rng, data, [*words, *WORDS]),
        seconds=LOAD_SECONDS + 60,
        repeatable=False,
        close=close,
    )


def _write(folder: Path, data: bytes, body: bytes) -> None:
    (folder / "1_Pooling").mkdir(parents=True)
    try:
        files: Any = json.loads(data)
    except (ValueError, RecursionError):
        files = None
    files = files if isinstance(files, dict) else {"config.json": data.decode("utf-8", "replace")}
    for name in _NAMES:
        if name in files:
            (folder / name).write_text(json.dumps(files[name]))
    header = json.dumps(files.get(HEADER, {})).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + body)


def _load_and_use(standing: Standing, folder: Path) -> None:
    stub = standing.worker.stub
    try:
        result = stub.LoadModel(pb.ModelOptions(Model=str(folder), Options=["warm_up:off"]), timeout=LOAD_SECONDS)
    except grpc.RpcError as error:
        raise _broken("LoadModel", error) from error
    if "\n" in result.message or len(result.message.encode()) > MAX_DETAILS_BYTES:
        raise Broken("a reason of several lines", result.message)
    if not result.success:
        return
    chat = pb.PredictOptions(Messages=[pb.Message(role="user", content="hello")], UseTokenizerTemplate=True, Tokens=2)
    for name in ("Predict", "TokenizeString", "Embedding"):
        for request in (pb.PredictOptions(Prompt="Once upon", Embeddings="Once", Tokens=2), chat):
            try:
                getattr(stub, name)(request, timeout=LOAD_SECONDS)
            except grpc.RpcError as error:
                if error.code() not in ALLOWED:  # type: ignore[attr-defined]
                    raise _broken(name, error) from error


def _broken(name: str, error: Any) -> Broken:
    return Broken(f"{name} ends with {error.code().name}", error.details())
