"""Figures as lines for people and as data for machines. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from backend.bench.driving import Run
from backend.bench.figures import PERCENTILES, Summary, over_time, ratios, samples
from backend.terminal.chart import histogram, milliseconds, spark
from backend.terminal.showing import count, one_line, percent, table

_MOST_ERRORS: Final = 3
_PARTS: Final = 60
_LATENCIES: Final = {"first": "first token", "gap": "token to token", "whole": "whole answer"}


def lines(summaries: Sequence[Summary], runs: Sequence[Run], *, width: int) -> list[str]:
    """A table with a column a server, and charts."""
    names = [summary.name for summary in summaries]
    headings, rows = ["", *names], _rows(summaries)
    if len(summaries) > 1:
        headings.append(f"{names[0]} / {names[1]}")
        rows = [[*row, shown] for row, shown in zip(rows, _ratio_cells(summaries), strict=True)]
    told = table(headings, rows, right=headings[1:])
    for summary in summaries:
        errors = list(summary.errors.items())
        told += [f"{summary.name}: {number} x {one_line(text)}" for text, number in errors[:_MOST_ERRORS]]
        if summary.not_begun:
            late = f"{count(summary.not_begun)} that arrived were not begun"
            told.append(f"{summary.name}: {late}, so these times are a lower bound")
    return [*told, *_charts(runs, width)]


def _rows(summaries: Sequence[Summary]) -> list[list[str]]:
    def row(name: str, cell: Any) -> list[str]:
        return [name, *(cell(summary) for summary in summaries)]

    late = [row("not begun", lambda s: count(s.not_begun))] if _any_late(summaries) else []
    rows = [
        row("requests", lambda s: count(s.requests)),
        row("errors", lambda s: count(sum(s.errors.values()))),
        row("cut by the end", lambda s: count(s.cut)),
        *late,
        row("seconds", lambda s: f"{s.seconds:.1f}"),
        row("tokens/s", lambda s: f"{s.tokens_a_second:.1f}"),
        row("requests/s", lambda s: f"{s.requests_a_second:.2f}"),
        row("prompt tokens", lambda s: count(s.prompt_tokens)),
        row("from the cache", lambda s: "-" if s.cached_share is None else percent(s.cached_share)),
        row("guessed right", _guessed),
    ]
    for name, label in _LATENCIES.items():
        rows += [row(f"{label} p{p}", lambda s, name=name, p=p: _time(getattr(s, name), p)) for p in PERCENTILES]
    return rows


def _any_late(summaries: Sequence[Summary]) -> bool:
    return any(summary.not_begun for summary in summaries)


def _time(found: Mapping[int, float], p: int) -> str:
    return milliseconds(found[p]) if p in found else "-"


def _guessed(summary: Summary) -> str:
    """`1,200 of 2,000`: of the tokens that were guessed."""
    right, guessed = summary.accepted_tokens, summary.drafted_tokens
    return f"{count(right)} of {count(guessed)}" if guessed else "-"


def _ratio_cells(summaries: Sequence[Summary]) -> list[str]:
    found = ratios(summaries[0], summaries[1])
    late = [""] if _any_late(summaries) else []
    names = [*late, "", "", "", "", "tokens_a_second", "requests_a_second", "", "", ""]
    names += [f"{name}_p{p}" for name in _LATENCIES for p in PERCENTILES]
    return [f"{found[name]:.2f}" if name in found else "" for name in names]


def _charts(runs: Sequence[Run], width: int) -> list[str]:
    firsts = {
        run.name: [seconds for one in run.measured if (seconds := one.watch.first_seconds) is not None] for run in runs
    }
    room = max(10, width - 34 - max(map(len, firsts)))
    told: list[str] = []
    if bars := histogram(firsts, width=room):
        told += ["", "time to the first token, requests", *bars]
    rates = {run.name: over_time(run, min(_PARTS, max(10, width - 24))) for run in runs}
    highest = max((rate for some in rates.values() for rate in some), default=0.0)
    if highest > 0:
        longest = max(map(len, rates))
        told += ["", f"tokens/s over time, up to {highest:.0f}"]
        told += [f"{name.ljust(longest)} {spark(some, highest)}" for name, some in rates.items()]
    return told


def data(asked: Mapping[str, Any], summaries: Sequence[Summary], runs: Sequence[Run]) -> dict[str, Any]:
    """All of it for machines."""
    servers = [
        _server(summary) | {"samples": samples(run.measured, run.began[0] if run.began else 0.0)}
        for summary, run in zip(summaries, runs, strict=True)
    ]
    beside = {other.name: ratios(summaries[0], other) for other in summaries[1:]}
    return {"asked": asked, "servers": servers, "ratios": beside}


def _server(summary: Summary) -> dict[str, Any]:
    latencies = {name: {f"p{p}": seconds for p, seconds in getattr(summary, name).items()} for name in _LATENCIES}
    return {
        "name": summary.name,
        "seconds": summary.seconds,
        "requests": summary.requests,
        "cut": summary.cut,
        "not_begun": summary.not_begun,
        "errors": summary.errors,
        "tokens": summary.tokens,
        "tokens_a_second": summary.tokens_a_second,
        "requests_a_second": summary.requests_a_second,
        "prompt_tokens": summary.prompt_tokens,
        "cached_share": summary.cached_share,
        "drafted_tokens": summary.drafted_tokens,
        "accepted_tokens": summary.accepted_tokens,
        **latencies,
    }
