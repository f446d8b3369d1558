"""Plans: drawn from a seed, or from a trace."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from backend.bench import trace
from backend.bench.plan import Lengths, Load, plan, rounds
from backend.bench.texts import WORDS, Texts, sample

TEXTS = Texts(tokens_a_word=2.0)


def load(requests: int = 200, **fields: object) -> Load:
    given = {"prompt": Lengths(40, 80), "answer": Lengths(4, 8), **fields}
    return Load(requests=requests, **given)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert plan(load(rate=3.0), TEXTS, "run") == plan(load(rate=3.0), TEXTS, "run")
    assert plan(load(seed=1), TEXTS, "") != plan(load(), TEXTS, "")


def test_lengths_are_within_their_bounds_and_texts_about_as_long() -> None:
    planned = plan(load(), TEXTS, "")
    assert {one.answer_tokens for one in planned} == {4, 5, 6, 7, 8}
    for one in planned:
        assert 40 <= one.prompt_tokens <= 80
        assert abs(len(one.prompt.split()) - one.prompt_tokens / 2) <= 1
    assert len({one.prompt for one in planned}) == len(planned)


def test_two_runs_ask_alike_but_for_every_text() -> None:
    first, second = plan(load(rate=2.0), TEXTS, "a"), plan(load(rate=2.0), TEXTS, "b")
    assert [(one.at, one.prompt_tokens) for one in first] == [(one.at, one.prompt_tokens) for one in second]
    assert all(a.prompt.split()[:5] != b.prompt.split()[:5] for a, b in zip(first, second, strict=True))


def test_those_that_share_begin_alike_and_no_others() -> None:
    planned = plan(load(shared_share=0.5, shared_tokens=30, shared_prefixes=2), TEXTS, "")
    beginnings = [" ".join(one.prompt.split()[:15]) for one in planned]
    shared = [text for text in set(beginnings) if beginnings.count(text) > 1]
    assert len(shared) == 2
    assert 0.35 < sum(beginnings.count(text) for text in shared) / len(planned) < 0.65


def test_arrivals_come_at_the_rate_and_not_evenly() -> None:
    planned = plan(load(1000, rate=10.0), TEXTS, "")
    moments = [one.at or 0.0 for one in planned]
    assert moments == sorted(moments) and 85 < moments[-1] < 115
    gaps = [after - before for before, after in pairwise(moments)]
    assert max(gaps) > 0.3 and min(gaps) < 0.01
    assert all(one.at is None for one in plan(load(), TEXTS, ""))


def test_rounds_have_every_request_once_and_begin_at_their_own_time() -> None:
    planned = plan(load(10, rate=5.0), TEXTS, "")
    parts = rounds(planned, 4)
    assert [one.prompt for part in parts for one in part] == [one.prompt for one in planned]
    assert [len(part) for part in parts] == [2, 3, 2, 3] and all(part[0].at == 0.0 for part in parts)
    assert rounds(planned[:2], 4) == [[replace(one, at=0.0)] for one in planned[:2]]


def test_a_shorter_text_is_the_beginning_of_a_longer_one() -> None:
    assert TEXTS.of("k", 100).startswith(TEXTS.of("k", 40))
    assert len(sample().split()) == 500 and len(set(WORDS)) == len(WORDS)


def written(path: Path, *requests: tuple[int, int, int, list[int]]) -> Path:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("".join(json.dumps(dict(zip(names, one, strict=True))) + "\n" for one in requests))
    return path


def replay(file: Path, **fields: object) -> trace.Replay:
    given = {"requests": 9, "scale": 0.1, "speed": 2.0, "context": 1000, **fields}
    return trace.Replay(file=file, **given)  # type: ignore[arg-type]


def test_a_trace_keeps_what_its_prompts_share_and_when_they_came(tmp_path: Path) -> None:
    requests = [(0, 1100, 300, [1, 2, 3]), (4000, 1100, 30, [1, 2, 4]), (6000, 90000, 1, [5]), (8000, 512, 10, [6])]
    planned = trace.plan(replay(written(tmp_path / "t", *requests)), TEXTS, "run")
    assert [one.at for one in planned] == [0.0, 2.0, 4.0]
    assert [one.answer_tokens for one in planned] == [30, 3, 1]
    assert [one.prompt_tokens for one in planned] == [110, 110, 51]
    first, second, _ = (one.prompt.split() for one in planned)
    # Two whole blocks of 51 tokens.
    assert first[:52] == second[:52] and first[52:] != second[52:]
    assert len(first) == 26 + 26 + 4
    timeless = trace.plan(replay(tmp_path / "t", speed=None, requests=1), TEXTS, "")
    assert len(timeless) == 1 and timeless[0].at is None


def test_a_trace_in_no_order_is_replayed_by_its_times(tmp_path: Path) -> None:
    file = written(tmp_path / "t", (4000, 512, 10, [1]), (0, 512, 20, [2]))
    planned = trace.plan(replay(file), TEXTS, "")
    assert [(one.at, one.answer_tokens) for one in planned] == [(0.0, 2), (2.0, 1)]


@pytest.mark.parametrize(
    "line",
    [
        '{"timestamp": NaN, "input_length": 9, "output_length": 9, "hash_ids": [1]}',
        '{"timestamp": "NaN", "input_length": 9, "output_length": 9, "hash_ids": [1]}',
        '{"timestamp": 0, "input_length": Infinity, "output_length": 9, "hash_ids": [1]}',
        '{"timestamp": 0, "input_length": 9, "output_length": 9, "hash_ids": []}',
        '{"timestamp": 0, "input_length": 9, "output_length": 9, "hash_ids": "ab"}',
    ],
)
def test_a_line_without_a_time_or_a_text_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(line)
    with pytest.raises(ValueError, match="line 1: no object with timestamp"):
        trace.plan(replay(tmp_path / "t"), TEXTS, "")


def test_what_is_no_trace_is_said_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path / "t", (0, 100, 1, [1]))
    with file.open("a") as more:
        more.write('{"timestamp": 1}\n')
    with pytest.raises(ValueError, match="line 2: no object with timestamp"):
        trace.plan(replay(file), TEXTS, "")
    with pytest.raises(ValueError, match="no request fits a context of 5 tokens"):
        trace.plan(replay(written(tmp_path / "u", (0, 100, 1, [1])), context=5), TEXTS, "")
    with pytest.raises(ValueError, match="cannot be read"):
        trace.plan(replay(tmp_path / "none"), TEXTS, "")
