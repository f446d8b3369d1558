"""The small files beside the prompt cache, written by somebody who knows how: never an error to whoever reads them."""

import json
import tempfile
from pathlib import Path

import numpy as np

from backend.core.reports import PrefixFacts
from backend.engine.conversation_files import ConversationFiles, KeptConversation
from backend.engine.name_files import KeptName, NameFiles
from backend.engine.small_files import _check as check_of
from backend.engine.small_files import digest
from backend.translate.prefixes import named_prefix
from mlx_cache.disk import Place
from tests.fuzz.structures import change_json
from tests.fuzz.target import Target

_TOKENS = np.arange(3, dtype=np.int32)


def small_files() -> Target:
    """The body of a file, as JSON; its hash is made right."""
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    return Target(run=lambda data: _read(root, data), seeds=_seeds(root), change=change_json, close=folder.cleanup)


def _seeds(root: Path) -> list[bytes]:
    NameFiles(Place(root)).write("m", KeptName("t", "n", _TOKENS, 1.5))
    ConversationFiles(Place(root), digest).write("m", KeptConversation("t", digest("k"), (_TOKENS, _TOKENS), 2.5))
    files = sorted(root.glob("*/*.json"))
    bodies = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    return bodies


def _read(root: Path, data: bytes) -> None:
    try:
        body = json.loads(data)
        if isinstance(body, dict) and "check" in body:
            body["check"] = check_of({key: value for key, value in body.items() if key != "check"})
        data = json.dumps(body).encode()
    except (ValueError, RecursionError):
        pass
    for folder in ("names", "conversations"):
        (root / folder / "x.json").write_bytes(data)
    names, conversations = NameFiles(Place(root)), ConversationFiles(Place(root), digest)
    for files in (names, conversations):
        files.read()
        files.known("m")
        list(files.bad())
    for namespace, kept in names.everything():
        names.remove(namespace, kept.tenant, kept.name + "?")
        named_prefix(
            PrefixFacts(name=kept.name, tokens=1, nbytes=1, hits=0, age_s=kept.made_at, idle_s=None, where="disk")
        )
    for kept in conversations.known("m"):
        conversations.remove("m", kept.key + "?")
        conversations.write("m", kept)
        conversations.remove("m", kept.key)
    names.clear(lambda namespace, tenant: False)
    conversations.clear(lambda namespace, tenant: False)
