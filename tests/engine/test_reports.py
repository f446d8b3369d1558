"""Memory as Status tells it, with and without /proc; who guesses as Info tells it."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.config import CacheConfig, Drafter, EngineConfig
from backend.engine.reports import STATUS_FILE, drafters_in_words, peak_bytes, resident_bytes, status
from tests import observed


@pytest.mark.skipif(not STATUS_FILE.exists(), reason="no /proc")
def test_resident_bytes_are_those_of_this_process() -> None:
    assert resident_bytes() == pytest.approx(observed.resident_bytes(os.getpid()), rel=0.1)


def test_without_proc_the_peak_stands_for_a_process_that_has_no_model(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "none") == 0
    told = status("uninitialized", None, tmp_path / "none").total_bytes
    # The peak is never less than what is there, and was not many times that either: the unit is right.
    resident = observed.resident_bytes(os.getpid())
    assert 0.9 * resident < told <= peak_bytes() and told < 100 * resident


@pytest.mark.parametrize(
    ("engine", "cache", "facts", "told"),
    [
        ({}, {}, {}, "ngram, cache, grammar; up to 16 tokens"),
        ({"max_draft": 12, "drafters": {Drafter.GRAMMAR, Drafter.TEXT}}, {}, {}, "ngram, grammar; up to 12 tokens"),
        ({"drafters": frozenset()}, {}, {}, "off"),
        ({"isolation": "strict"}, {}, {}, "ngram, grammar; up to 16 tokens"),
        ({}, {"max_sequences": 0}, {}, "ngram, grammar; up to 16 tokens"),
        ({"drafters": {Drafter.CACHE}}, {"max_bytes": 0}, {}, "off"),
        ({}, {}, {"uncached_reason": "its state"}, "ngram, grammar; up to 16 tokens"),
        ({}, {}, {"speculation_reason": "its cache"}, "off: its cache"),
        ({}, {}, {"drafts": True}, "ngram, cache, grammar, draft; up to 16 tokens"),
        ({"drafters": {Drafter.MODEL}}, {}, {}, "off"),
    ],
)
def test_who_guesses_is_told_or_why_nobody_does(
    engine: dict[str, Any], cache: dict[str, Any], facts: dict[str, Any], told: str
) -> None:
    config = SimpleNamespace(engine=replace(EngineConfig(), **engine), cache=replace(CacheConfig(), **cache))
    reasons = {"speculation_reason": "", "uncached_reason": "", "drafts": False} | facts
    model = SimpleNamespace(config=config, facts=SimpleNamespace(**reasons))
    assert drafters_in_words(cast(Any, model), None) == told
