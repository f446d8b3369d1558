"""What requests add up to."""

import pytest

from backend.bench.driving import Run
from backend.bench.figures import over_time, percentiles, ratios, summary
from backend.bench.measured import Measured
from backend.bench.report import data, lines
from backend.client.answers import Stopwatch


def measured(
    began: float, *moments: tuple[float, int], error: str = "", cut: bool = False, cached: int = 0
) -> Measured:
    """A request whose tokens were known at these seconds after it began."""
    one = Measured(watch=Stopwatch(began), prompt_tokens=10, cached_tokens=cached, error=error, cut=cut)
    before = 0
    for after, tokens in moments:
        now = began + after
        if before:
            one.gaps.append((now - one.watch.last, tokens - before))
        one.tokens_at.append((now, tokens - before))
        one.watch.saw(tokens, now)
        before = tokens
    if not error and not cut:
        one.ended = began + moments[-1][0]
    return one


def run(name: str = "a", *requests: Measured, seconds: float = 4.0) -> Run:
    return Run(name, list(requests), seconds, [0.0])


def test_percentiles_are_by_nearest_rank_and_count_weights() -> None:
    assert percentiles([(float(value), 1) for value in range(1, 101)]) == {50: 50, 90: 90, 99: 99}
    assert percentiles([(1.0, 98), (9.0, 2)]) == {50: 1.0, 90: 1.0, 99: 9.0}
    assert percentiles([(3.0, 1)]) == {50: 3.0, 90: 3.0, 99: 3.0}
    assert percentiles([]) == {}


def test_a_summary_counts_what_came_and_what_did_not() -> None:
    found = summary(
        run(
            "a",
            measured(0.0, (1.0, 1), (2.0, 3), cached=5),
            measured(1.0, (0.5, 2)),
            measured(1.0, (0.5, 1), error="No."),
            measured(3.0, (0.5, 1), cut=True),
        )
    )
    assert (found.requests, found.cut, found.errors) == (2, 1, {"No.": 1})
    assert found.tokens == 7 and found.tokens_a_second == 7 / 4 and found.requests_a_second == 0.5
    assert found.prompt_tokens == 20 and found.cached_share == 0.25
    assert found.first[50] == 0.5 and found.first[99] == 1.0
    # Two tokens in one second are two gaps of half a second.
    assert found.gap == {50: 0.5, 90: 0.5, 99: 0.5}
    assert found.whole == {50: 0.5, 90: 2.0, 99: 2.0}


def test_a_server_that_says_nothing_of_a_cache_has_no_share() -> None:
    one = measured(0.0, (1.0, 1))
    one.cached_tokens = None
    assert summary(run("a", one)).cached_share is None
    one.counted = 9
    assert summary(run("a", one)).tokens == 9


def test_guesses_are_added_up_where_a_server_tells_of_them() -> None:
    without = run("b", measured(0.0, (1.0, 1)))
    some = [measured(0.0, (1.0, 1)), measured(0.0, (1.0, 1)), measured(0.0, (1.0, 1), cut=True)]
    for one in some:
        one.drafted_tokens, one.accepted_tokens = 700, 350
    guessed = run("a", *some)
    told = lines([summary(guessed), summary(without)], [guessed, without], width=80)
    assert next(line for line in told if line.startswith("guessed right")).split() == [
        *("guessed", "right", "700", "of", "1,400", "-"),
    ]
    assert data({}, [summary(guessed)], [guessed])["servers"][0]["drafted_tokens"] == 1400


def test_what_arrived_and_was_never_begun_is_told_beside_the_times() -> None:
    late = run("a", measured(0.0, (1.0, 1)))
    late.not_begun = 289
    told = lines([summary(late)], [late], width=80)
    assert next(line for line in told if line.startswith("not begun")).split()[-1] == "289"
    assert "a: 289 that arrived were not begun, so these times are a lower bound" in told
    other = run("b", measured(0.0, (2.0, 1)))
    told = lines([summary(late), summary(other)], [late, other], width=80)
    assert next(line for line in told if line.startswith("first token p50")).endswith("0.50")
    assert data({}, [summary(late)], [late])["servers"][0]["not_begun"] == 289


def test_tokens_over_time_are_those_of_its_own_rounds() -> None:
    twice = Run("a", [measured(0.0, (0.5, 4)), measured(100.0, (1.5, 8))], 2.0, [0.0, 100.0])
    assert sum(over_time(twice, 4)) * 0.5 == 12
    assert over_time(Run("a"), 4) == []


def test_ratios_are_ours_over_theirs() -> None:
    ours = summary(run("a", measured(0.0, (1.0, 1), (2.0, 9))))
    theirs = summary(run("b", measured(0.0, (2.0, 1), (4.0, 3))))
    found = ratios(ours, theirs)
    assert found["tokens_a_second"] == 3.0 and found["first_p50"] == 0.5 and found["whole_p99"] == 0.5
    assert found["gap_p50"] == pytest.approx(0.125)


def test_the_report_has_a_column_a_server_and_their_ratio() -> None:
    runs = [run("worker", measured(0.0, (1.0, 1), (2.0, 9))), run("http", measured(0.0, (2.0, 1), error="Refused\n!"))]
    summaries = [summary(one) for one in runs]
    told = lines(summaries, runs, width=80)
    assert told[0].split() == ["worker", "http", "worker", "/", "http"]
    assert next(line for line in told if line.startswith("first token p50")).split()[-5:] == [
        "1.00", "s", "2.00", "s", "0.50",
    ]  # fmt: skip
    assert "http: 1 x Refused !" in told
    assert all(len(line) <= 80 for line in told)
    assert data({}, summaries, runs)["ratios"]["http"]["first_p50"] == 0.5
    assert data({}, summaries, runs)["servers"][1]["samples"][0]["outcome"] == "Refused\n!"
