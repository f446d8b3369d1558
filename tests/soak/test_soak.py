"""The mixed traffic finds what is wrong, and finds nothing wrong in the worker as it is."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tests.soak.__main__ as soak
from backend.engine.sampling.sampled import NOT_FINITE
from tests.e2e.worker import Worker
from tests.soak.__main__ import unplanted
from tests.soak.corpus import Corpus, learn
from tests.soak.growth import Growth, slope

OPTIONS = argparse.Namespace(minutes=0.4, clients=8, requests=10, seed=1)


def test_a_slope_is_that_of_the_line_through_all_samples() -> None:
    assert slope([0, 1, 2, 3], [5, 7, 9, 11]) == 2
    assert slope([1], [7]) == 0
    growth = Growth(0, [(minute, (100 + 3 * max(0, minute - 5)) << 20, 9, 20 - minute) for minute in range(20)])
    assert growth.slopes(after=5) == (pytest.approx(3), 0, pytest.approx(-1))
    assert growth.most() == (100 + 3 * 14, 9, 20)


def test_what_comes_and_goes_within_a_minute_neither_hides_a_leak_nor_is_one() -> None:
    for leak in (0.0, 2.0):
        samples = [(i / 8, int(100 + leak * (i // 8) + 40 * (i % 8) * (i % 17)) << 20, 1, 1) for i in range(8 * 30)]
        assert Growth(0, samples).slopes(after=5)[0] == pytest.approx(leak)


def test_an_internal_error_that_nobody_planted_is_told_apart() -> None:
    lines = [
        "x decode_failed request_id=a fault=01ab error=PlantedError",
        "x decode_failed fault=02cd error=ValueError",
    ]
    told = [
        "internal error in decode, fault 01ab",
        "internal error in decode, fault 02cd",
        NOT_FINITE,
        "internal error",
    ]
    assert unplanted(told, lines) == [told[1], told[3]]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_traffic_of_all_kinds_is_answered_as_it_is_alone(tmp_path: Path) -> None:
    told, right = soak.run(OPTIONS, tmp_path)
    assert right, (told["first wrong"], told)
    assert told["answers hit by one"] and told["requests refused in one"] and told["tokens served"]
    assert told["answers checked"] and told["prompt tokens from the cache"] and told["guessed tokens that were right"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_wrong_answer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn_wrongly(worker: Worker, name: str, model: Path, **options: Any) -> Corpus:
        corpus = learn(worker, name, model, **options)
        return replace(corpus, asked=tuple(replace(asked, text="?" + asked.text) for asked in corpus.asked))

    monkeypatch.setattr(soak, "learn", learn_wrongly)
    told, right = soak.run(OPTIONS, tmp_path)
    assert not right and told["first wrong"]
