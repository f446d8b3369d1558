"""Logprobs as JSON of OpenAI's shape."""

import json
import math
from collections.abc import Sequence

from backend.core.events import TokenLogprob

# What OpenAI writes for a token that cannot occur; JSON has no infinity.
IMPOSSIBLE = -9999.0
# Of one token with its bytes, roughly: what the cost of writing them is reckoned by.
_BYTES_AN_ENTRY = 100


def written_size(tokens: Sequence[TokenLogprob]) -> int:
    """About how many bytes `logprobs_json` will write."""
    return len(tokens) * (1 + len(tokens[0].top)) * _BYTES_AN_ENTRY if tokens else 0


def logprobs_json(tokens: Sequence[TokenLogprob]) -> bytes:
    """`{"content": [{"id", "token", "bytes", "logprob", "top_logprobs": [...]}, ...]}`, one entry a token.

    Written by hand: dictionaries for `json` would take ten times the memory of the text.
    """
    beginnings: dict[int, str] = {}  # a token comes again and again, above all among the alternatives

    def entry(token: TokenLogprob) -> str:
        if token.id not in beginnings:
            beginnings[token.id] = _beginning(token)
        logprob = token.logprob if math.isfinite(token.logprob) else IMPOSSIBLE
        return f"{beginnings[token.id]}{float(logprob)!r}"

    content = (f'{entry(token)},"top_logprobs":[{",".join([entry(o) + "}" for o in token.top])}]}}' for token in tokens)
    return f'{{"content":[{",".join(content)}]}}'.encode()


def _beginning(token: TokenLogprob) -> str:
    """The entry up to its logprob."""
    # A token may be a part of a character; `bytes` has it exactly.
    text = json.dumps(token.token.decode("utf-8", "replace"), ensure_ascii=False)
    return f'{{"id":{token.id},"token":{text},"bytes":[{",".join(map(str, token.token))}],"logprob":'
