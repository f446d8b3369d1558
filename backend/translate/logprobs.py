"""Logprobs as JSON of OpenAI's shape."""

import json
import math
from collections.abc import Iterable
from typing import Any

from backend.core.events import TokenLogprob

# What OpenAI writes for a token that cannot occur; JSON has no infinity.
IMPOSSIBLE = -9999.0


def logprobs_json(tokens: Iterable[TokenLogprob]) -> bytes:
    """`{"content": [{"id", "token", "bytes", "logprob", "top_logprobs": [...]}, ...]}`, one entry a token."""
    content = [{**_entry(token), "top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    return json.dumps({"content": content}, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {
        "id": token.id,
        # A token may be a part of a character; `bytes` has it exactly.
        "token": token.token.decode("utf-8", "replace"),
        "bytes": list(token.token),
        "logprob": token.logprob if math.isfinite(token.logprob) else IMPOSSIBLE,
    }
