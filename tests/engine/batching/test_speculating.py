"""What the next pass looks at: never beyond a row's limit, its change into codes, or the memory that is spare."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backend.config import Drafter
from backend.engine.batching import batch as batch_module
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.row import Row
from backend.engine.batching.speculating import Plan, Speculating, pass_bytes
from backend.engine.batching.standing import Standing
from backend.engine.kv.ragged import RaggedKVCache
from backend.engine.loading import load_model
from backend.engine.loading.kv_cost import leaves
from backend.engine.picture import Counters
from backend.engine.speculation.depth import Depths
from backend.engine.speculation.proposal import Proposal
from tests.engine.batching.test_batch import Steps, new_batch, prefilled, run
from tests.engine.harness import model_config
from tests.engine.sampling import building
from tests.models import write_model

MOST = 8
LOOP = np.tile(np.arange(10, 22, dtype=np.int32), 8)
AMPLE = 1 << 30


def speculating(*, start: int = 0, apart: bool = False, asked: list[tuple[str, int]] | None = None) -> Speculating:
    """One for which passes cost next to nothing, as was measured."""
    depths = Depths(MOST)
    for rows in (1, 2):
        for depth in (0, *depths.options):
            depths.calibrated(rows, depth, 1.0 + depth / 1000)

    def donor(prompt: Any, tenant: str, most: int) -> None:
        if asked is not None:
            asked.append((tenant, most))

    return Speculating(
        kinds=frozenset({Drafter.TEXT, Drafter.CACHE}),
        depths=depths,
        donor=donor,
        counters=Counters(),
        bytes_of=lambda rows, depth: 100 * rows * depth,
        start=start,
        apart=apart,
    )


def row(speculates: Speculating, *, limit: int = 1000, generated: int = 24, most: int | None = None) -> Row:
    """One that says again and again what its prompt says."""
    submit = SimpleNamespace(
        max_tokens=limit,
        constraint=None,
        prompt=SimpleNamespace(tokens=LOOP),
        request=SimpleNamespace(tenant="a", max_draft=most),
    )
    made = Row(cast(Any, submit), building.row(), LOOP, Standing.of(0.0, 0))
    speculates.begin(made)
    for token in LOOP[:generated]:
        if made.drafts is not None:
            made.drafts.told(int(token))
    made.completion_tokens, made.covered = generated, len(LOOP) + generated - 1
    return made


def lengths(plan: Plan | None) -> list[int]:
    return [] if plan is None else [0 if proposal is None else len(proposal.tokens) for proposal in plan]


def test_a_row_that_repeats_itself_is_asked_for_as_many_tokens_as_there_may_be() -> None:
    made = speculating()
    plan = made.plan([row(made)], spare=lambda: AMPLE)
    assert lengths(plan) == [MOST] and plan is not None and plan[0] is not None
    assert list(plan[0].tokens) == LOOP[:MOST].tolist()


@pytest.mark.parametrize(("left", "most"), [(1, []), (2, [1]), (4, [3]), (9, [MOST]), (10, [MOST])])
def test_nothing_is_guessed_that_would_be_beyond_the_limit_of_tokens(left: int, most: list[int]) -> None:
    """A pass gives one token more than it was given guesses."""
    made = speculating()
    assert lengths(made.plan([row(made, limit=24 + left)], spare=lambda: AMPLE)) == most


def test_a_request_may_have_fewer_of_its_tokens_guessed() -> None:
    made = speculating()
    assert lengths(made.plan([row(made, most=2), row(made, most=MOST + 1)], spare=lambda: AMPLE)) == [2, MOST]


@pytest.mark.parametrize(("left", "most"), [(1, []), (2, [1]), (5, [4]), (9, [MOST]), (0, [MOST]), (-3, [MOST])])
def test_no_pass_goes_across_the_length_from_which_on_a_row_holds_codes(left: int, most: list[int]) -> None:
    covered = len(LOOP) + 24 - 1
    made = speculating(start=covered + left)
    assert lengths(made.plan([row(made)], spare=lambda: AMPLE)) == most


def test_a_row_at_its_limit_goes_along_with_one_that_is_not() -> None:
    made = speculating()
    plan = made.plan([row(made, limit=25), row(made)], spare=lambda: AMPLE)
    assert lengths(plan)[0] == 0 and lengths(plan)[1] > 0


def test_a_pass_takes_no_memory_but_what_is_spare() -> None:
    made = speculating()
    rows = [row(made)]
    assert lengths(made.plan(rows, spare=lambda: 100 * MOST)) == [MOST]
    assert made.plan(rows, spare=lambda: 100 * MOST - 1) is None
    assert pass_bytes(1000, 64, 2, 4) == 2 * (2 * 4 * 4 * 1000 + 2 * 64)


def test_a_request_for_one_token_has_nothing_that_guesses() -> None:
    asked: list[tuple[str, int]] = []
    made = speculating(asked=asked)
    assert row(made, limit=1).drafts is None and not asked
    assert row(made, limit=7).drafts is not None and asked == [("a", 7)]


def test_rows_that_are_apart_learn_nothing_of_each_other_and_tell_nothing() -> None:
    together, apart = speculating(), speculating(apart=True)
    for made in (together, apart):
        told = row(made)
        before = [list(chances.of) for chances in (made.experience.text, made.experience.forced)]
        assert made.plan([told], spare=lambda: AMPLE) is not None
        after = [list(chances.of) for chances in (made.experience.text, made.experience.forced)]
        assert (before == after) == made.apart
        assert told.drafted == (None if made.apart else 0)


@pytest.mark.parametrize("sampler", ["host", "device"])
def test_rows_that_stray_are_moved_to_end_together_and_draw_what_they_would_have(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "MOST_STRAY", 10)
    monkeypatch.setattr(batch_module, "ALIGN_AFTER_STEPS", 4)
    loaded = load_model(model_config(write_model(tmp_path / "qwen3", "qwen3")))
    alone: Steps = {}
    for index in (0, 2):
        batch, only = new_batch(loaded, sampler), Steps()
        batch.join([prefilled(loaded, index)])
        run(batch, list(batch.rows), 40, only)
        alone[index] = only[0]
    batch, seen = new_batch(loaded, sampler), {0: [], 2: []}
    rows = {index: prefilled(loaded, index) for index in (0, 2)}
    batch.join(list(rows.values()))
    strayed: list[int] = []
    rows[2].drafted = 0
    for passes in range(1, 6):
        known = len(seen[2])
        # The shorter row goes ahead of the longer one, four columns a pass.
        coming = [token for token, _ in alone[2][known : known + 4]]
        verification = batch.verify([(), coming])
        while emitted := verification.next():
            for item in emitted:
                seen[0 if item.row is rows[0] else 2].append((item.token, item.logprobs))
        # Before it is over: a row that ends in it tells its client at once.
        assert (rows[0].drafted, rows[2].drafted, rows[2].accepted) == (None, 4 * passes, 4 * passes)
        verification.close()
        batch.settle()
        strayed.append(stray(batch))
    assert (len(seen[0]), len(seen[2])) == (5, 25)
    assert strayed == [4, 8, 12, 4, 8]
    for step in range(5):
        assert level(batch) == (step == 4)
        for item in [*batch.step(), *batch.collect()]:
            seen[0 if item.row is rows[0] else 2].append((item.token, item.logprobs))
    for index in (0, 2):
        assert seen[index] == alone[index][: len(seen[index])] and len(seen[index]) >= 10


def caches(batch: DecodeBatch) -> list[RaggedKVCache]:
    return [leaf for leaf in leaves(batch._caches) if isinstance(leaf, RaggedKVCache)]


def stray(batch: DecodeBatch) -> int:
    (found,) = {cache.stray for cache in caches(batch)}
    return found


def level(batch: DecodeBatch) -> bool:
    (found,) = {cache.level for cache in caches(batch)}
    return found


def test_guesses_are_counted_by_who_guessed() -> None:
    made = speculating()
    counted = made.counters
    guesses = [Proposal((1, 2, 3), Drafter.TEXT, (1.0,) * 3), None]
    rows = [row(made), row(made)]
    verification = SimpleNamespace(drawn=[3, 1], accepted=lambda index: (2, 0)[index])
    made.verified(rows, guesses, cast(Any, verification), 1.0)
    assert (counted.verify_passes, counted.drafted_tokens, counted.accepted_tokens) == (1, {"ngram": 3}, {"ngram": 2})
    assert made.figures()["pass_tokens"] == 4
