"""Names of a request: the model it is for, and its own."""

import re
import uuid

from backend.core.errors import IdentityMismatch

_UNSAFE = re.compile(r"[^A-Za-z0-9._:-]")
MAX_REQUEST_ID = 128


def check_identity(requested: str, loaded: str | None) -> None:
    """Refuse a request that was meant for another model; either side may leave its name out.

    Raises:
        IdentityMismatch: Both are named, and differ.
    """
    if requested and loaded and requested != loaded:
        raise IdentityMismatch(requested[:200], loaded[:200])


def request_id_of(correlation_id: str) -> str:
    """The client's id where it is fit for a header and a log, else a new one."""
    return _UNSAFE.sub("", correlation_id)[:MAX_REQUEST_ID] or uuid.uuid4().hex
