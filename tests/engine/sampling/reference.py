"""The slow, plain float64 statement of what a row's settings mean, to test the fast ones against."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from backend.core.request import Sampling

Floats = NDArray[np.float64]


def log_softmax(logits: Floats) -> Floats:
    finite = logits[np.isfinite(logits)]
    return logits - (finite.max() + np.log(np.exp(finite - finite.max()).sum()))


def edit(
    logits: Floats,
    s: Sampling,
    history: list[int],
    eos: set[int],
    allowed: set[int] | None,
) -> Floats:
    out = logits.astype(np.float64).copy()
    for token, bias in s.logit_bias:
        out[token] += bias
    window = history if s.penalty_window is None else history[max(0, len(history) - s.penalty_window) :]
    for token in set(window):
        out[token] = out[token] * s.repetition_penalty if out[token] < 0 else out[token] / s.repetition_penalty
        out[token] -= s.presence_penalty + s.frequency_penalty * window.count(token)
    for token in range(len(out)):
        if (s.ignore_eos and token in eos) or (allowed is not None and token not in allowed):
            out[token] = -np.inf
    return out


def by_rank(scores: Floats, ids: list[int]) -> list[int]:
    return sorted(ids, key=lambda token: (-scores[token], token))


def nucleus(scores: Floats, probs: Floats, ids: list[int], mass: float) -> list[int]:
    total, cut = 0.0, -np.inf
    for token in by_rank(scores, ids):
        if total >= mass:
            break
        cut, total = scores[token], total + probs[token]
    return [token for token in ids if scores[token] >= cut]


def keep_top_p(logits: Floats, ids: list[int], s: Sampling) -> list[int]:
    if s.top_p >= 1.0:
        return ids
    return nucleus(logits, np.exp(log_softmax(logits)), ids, s.top_p)


def keep_min_p(logits: Floats, ids: list[int], s: Sampling) -> list[int]:
    if s.min_p == 0.0:
        return ids
    return [token for token in ids if np.exp(logits[token] - logits.max()) >= s.min_p]


def among(logits: Floats, ids: list[int]) -> Floats:
    left = np.full_like(logits, -np.inf)
    left[ids] = logits[ids]
    return np.exp(log_softmax(left))


def keep_typical(logits: Floats, ids: list[int], s: Sampling) -> list[int]:
    if s.typical_p >= 1.0:
        return ids
    probs = among(logits, ids)
    entropy = -sum(probs[token] * np.log(probs[token]) for token in ids if probs[token] > 0)
    nearness = np.full_like(logits, -np.inf)
    nearness[ids] = -np.abs(-np.log(probs[ids]) - entropy)
    return nucleus(nearness, probs, ids, s.typical_p)


def keep_xtc(logits: Floats, ids: list[int], s: Sampling, exempt: set[int]) -> list[int]:
    probs = among(logits, ids)
    over = [token for token in ids if probs[token] > s.xtc_threshold]
    if not over:
        return ids
    least = min(probs[token] for token in over)
    return [token for token in ids if probs[token] <= least or token in exempt]


def keep_top_k(logits: Floats, ids: list[int], s: Sampling) -> list[int]:
    return ids if s.top_k is None else sorted(by_rank(logits, ids)[: s.top_k])


def restrict(logits: Floats, s: Sampling, exempt: set[int], *, xtc: bool) -> list[int]:
    """Ids that may be drawn, ascending, from processed logits."""
    ids = np.flatnonzero(logits > -np.inf).tolist()
    ids = keep_top_p(logits, ids, s)
    ids = keep_min_p(logits, ids, s)
    ids = keep_typical(logits, ids, s)
    ids = keep_xtc(logits, ids, s, exempt) if xtc else ids
    return keep_top_k(logits, ids, s)


def probabilities(logits: Floats, s: Sampling, ids: list[int]) -> Floats:
    """Of each id being drawn, `[vocab]`."""
    out = np.zeros(len(logits))
    scaled = logits[ids] / s.temperature
    out[ids] = np.exp(scaled - scaled.max())
    return out / out.sum()


def restrict_give_or_take(logits: Floats, s: Sampling, exempt: set[int], *, xtc: bool) -> Iterator[list[int]]:
    """`restrict` with the thresholds as given, then with each a hair lower or higher, for float32's roundings."""
    yield restrict(logits, s, exempt, xtc=xtc)
    names = [name for name in ("top_p", "min_p", "typical_p", "xtc_threshold") if getattr(s, name) not in (0.0, 1.0)]
    for hairs in product((-1e-5, 0.0, 1e-5), repeat=len(names)):
        changed = {name: getattr(s, name) * (1 + hair) for name, hair in zip(names, hairs, strict=True)}
        yield restrict(logits, replace(s, **changed), exempt, xtc=xtc)
