"""What a request says of the prompt cache: whose it is, which conversation it continues, which name it stays under."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from backend.core.errors import InvalidRequest
from backend.core.utf8 import utf8_size

MAX_SALT_BYTES = 1024
MAX_ID_BYTES = 256
MAX_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*(/[A-Za-z0-9_][A-Za-z0-9_.:@-]*)*")


def tenant_of(metadata: Mapping[str, str]) -> str:
    """The tenant of a request: 32 hex digits made of `cache_salt`, empty without one. The salt itself goes no further.

    Raises:
        InvalidRequest: The salt is too long.
    """
    salt = _bounded(metadata, "cache_salt", MAX_SALT_BYTES)
    return hashlib.blake2b(salt.encode(), digest_size=16, person=b"tenant").hexdigest() if salt else ""


def conversation_id_of(metadata: Mapping[str, str]) -> str:
    """The conversation that the request is a turn of; empty for none.

    Raises:
        InvalidRequest: The id is too long.
    """
    return _bounded(metadata, "conversation_id", MAX_ID_BYTES)


def checked_name(field: str, name: str) -> str:
    """A prefix's name.

    Raises:
        InvalidRequest: It is no name: letters, digits and `_.:@-` in parts joined by `/`, no part of which begins with
            a dot.
    """
    if not name or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidRequest(
            field,
            f"must be a name of at most {MAX_NAME} letters, digits and _.:@- in parts joined by /, "
            "each beginning with a letter, digit or _",
        )
    return name


def name_of_path(path: str, model_path: str) -> str:
    """The name that `PromptCachePath` gives: the path below the directory of models, where hosts put it.

    Nothing is ever opened by it.

    Raises:
        InvalidRequest: It is outside that directory, or no name.
    """
    if not path:
        return ""
    asked = PurePosixPath(path)
    if asked.is_absolute():
        if not model_path or not asked.is_relative_to(model_path):
            raise InvalidRequest("PromptCachePath", "must be a name, or a path below the directory of models")
        asked = asked.relative_to(model_path)
    return checked_name("PromptCachePath", str(asked))


def _bounded(metadata: Mapping[str, str], key: str, limit: int) -> str:
    text = metadata.get(key, "")
    if utf8_size(text) > limit:
        raise InvalidRequest(f"Metadata[{key}]", f"has {utf8_size(text)} bytes, limit {limit}")
    return text
