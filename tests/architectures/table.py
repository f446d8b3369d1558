"""Writes docs/models.md: every model module of mlx-lm, and what this worker does with it.

`python -m tests.architectures.table` surveys them all (some minutes) and writes the page.
"""

import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

# First: the BLAS must be chosen before MLX is loaded.
from backend.engine.loading.blas import load_blas

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROW = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)

_INTRODUCTION = """\
# Models

What each of the {count} model modules of mlx-lm 0.32.2 does in this worker. `make models-table` writes this page: it
makes a small model of random weights for each (`tests/architectures`, in float32, on a CPU with the reference BLAS),
loads it as any other, and compares with mlx-lm's own `stream_generate`: answers alone, answers among other rows that
join and leave, and answers from the prompt cache. Other names that mlx-lm maps onto these (`mistral`, `kimi_k2`,
`minimax_m2` and the like) are as the module that reads them.

{loading} of {count} load ({loading_share:.1f} %). {wrong} answer otherwise than mlx-lm alone, in company or from the
cache (a difference of a log-probability over {within:g}). Of the {known} whose layer classes the prompt cache knows,
{hitting} take all but the last token of a repeated prompt from it ({hitting_share:.1f} %).

**Served.** *Batched*: rows decode together. *One at a time*: the load's trial found that mlx-lm does not batch this
model, or not rightly; `backend.Info` says so as `mode: serial` with the reason.

**Cache hits.** *Anywhere*: any common prefix, up to all but the last token. *At snapshots*: where a state was kept: the
ends of prompts, of system prompts and of answers, and every 4,096 tokens. *None*: with the reason, which `backend.Info`
has as `uncached_reason`.

**Guesses.** Whether a step may look at [guessed tokens](speculation.md#in-the-batch) of a row: the load tries it, and
`backend.Info` has the reason against it as `speculation`. {guessing} of the {loading} may.

{unguessed}

The last ones may on a GPU, or with a BLAS that adds in another order anyway: there roundings are allowed.

{undrafting}

The columns *alone*, *company* and *hits* are the largest difference of a log-probability.

| module | layer caches | served | alone | company | hits | cache hits | guesses |
|---|---|---|---|---|---|---|---|
"""


def rows_of(page: str) -> list[str]:
    """The modules that have a row."""
    return ROW.findall(page)


def main() -> None:
    """Survey everything and write the page; exit code 1 if something is not as it should be."""
    load_blas("reference")
    from tests.architectures import catalogue
    from tests.architectures.findings import faults, finding

    found = []
    for module in catalogue.modules():
        found.append(finding(module))
        sys.stderr.write(f"{module} {'; '.join(faults(found[-1])) or 'ok'}\n")
    PAGE.write_text(_page(found))
    sys.exit(1 if any(faults(one) for one in found) else 0)


def _page(found: Iterable) -> str:
    from tests.architectures.findings import totals_of
    from tests.architectures.survey import WITHIN

    found = sorted(found, key=lambda one: one.module.lower())
    totals = totals_of(found)
    head = _INTRODUCTION.format(
        count=totals.count,
        loading=totals.loading,
        loading_share=100 * totals.loading_share,
        wrong=totals.wrong or "None",
        within=WITHIN,
        known=totals.known,
        hitting=totals.hitting,
        hitting_share=100 * totals.hitting_share,
        guessing=totals.guessing,
        unguessed="\n".join(
            _list(said, (one.module for one in found if one.speculation_reason and one.rounds == rounds))
            for said, rounds in (("Not these:", False), ("Nor these, by what may be roundings:", True))
        ),
        undrafting=_list(
            "A [draft model](speculation.md#a-draft-model) is batched, of layers that go back to before a wrong guess. "
            "These cannot be one:",
            (one.module for one in found if not one.refusal and not one.drafts),
        ),
    )
    return head + "".join(map(_row, found))


def _row(one) -> str:
    if one.refusal:
        return f"| `{one.module}` | | refused: {one.refusal} | | | | | |\n"
    served = f"one at a time: {one.serial_reason}" if one.serial_reason else "batched"
    numbers = (f"{value:.0e}" for value in (one.alone, one.company, one.hits))
    caches = ", ".join(one.caches)
    guesses = f"no: {one.speculation_reason}" if one.speculation_reason else "yes"
    return f"| `{one.module}` | {caches} | {served} | {' | '.join(numbers)} | {_cache(one)} | {guesses} |\n"


def _list(said: str, modules: Iterable[str]) -> str:
    names = ", ".join(f"`{module}`" for module in modules) or "none"
    return textwrap.fill(f"{said} {names}.", 120, break_long_words=False, break_on_hyphens=False)


def _cache(one) -> str:
    if one.uncached_reason:
        return f"none: {one.uncached_reason}"
    if not one.hit:
        return f"none: {one.repeated} of {one.repeatable} tokens"
    if one.cut:
        return "anywhere"
    return "at snapshots" if one.known else "at snapshots, as copies of the whole state"


if __name__ == "__main__":
    main()
