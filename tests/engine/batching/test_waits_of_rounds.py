"""A draft model's round and the pass that looks at its guesses wait once each on a device, however deep they are."""

import numpy as np
import pytest

from backend.check.counting import counting
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.row import Row
from backend.engine.loading import LoadedModel, load_model
from backend.engine.sampling.row_sampling import RowSampling
from tests.engine.batching.test_batch import new_batch, prefilled
from tests.engine.batching.test_model_drafter import drafter, read_all, row
from tests.engine.harness import model_config
from tests.engine.sampling.building import OnlyThese
from tests.models import write_model

DEPTHS = (1, 4, 8)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(model_config(write_model(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")))


def batch_of(loaded: LoadedModel, *, grammar: bool = False) -> DecodeBatch:
    batch = new_batch(loaded, "device")
    rows = [prefilled(loaded, index) for index in range(3)]
    if grammar:
        allowed = OnlyThese(list(range(3, 250)), loaded.vocab_size)
        rows[1].sampling = RowSampling(
            rows[1].sampling.sampling,
            prompt=np.zeros(1, np.int32),
            eos_ids=loaded.eos_ids,
            top_logprobs=None,
            constraint=allowed,
        )
    batch.join(rows)
    batch.settle()
    return batch


def answers(loaded: LoadedModel, count: int, *, grammar: bool = False) -> list[list[int]]:
    """What each row draws token by token."""
    batch = batch_of(loaded, grammar=grammar)
    told: list[list[int]] = [[] for _ in batch.rows]
    place = {id(one): index for index, one in enumerate(batch.rows)}
    while min(map(len, told)) < count:
        for item in batch.step():
            told[place[id(item.row)]].append(item.token)
    return told


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("grammar", [False, True])
def test_a_pass_waits_once_for_all_its_places_but_for_those_of_a_grammar(
    loaded: LoadedModel, depth: int, grammar: bool
) -> None:
    coming = answers(loaded, depth + 1, grammar=grammar)
    batch = batch_of(loaded, grammar=grammar)
    with counting() as counts:
        verification = batch.verify([tokens[:depth] for tokens in coming])
        drawn = [[item.token for item in emitted] for emitted in iter(verification.next, [])]
        verification.close()
    assert [list(tokens) for tokens in zip(*drawn, strict=True)] == [tokens[: depth + 1] for tokens in coming]
    assert counts.waits == 1 + (depth + 1 if grammar else 0)


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_a_draft_model_guesses_in_a_round_is_waited_for_once(loaded: LoadedModel, depth: int) -> None:
    made, rows = drafter(loaded, device=True), list[Row]()
    for first in (5, 9):
        rows.append(row([first, 7, 30, 8]))
        rows[-1].generated.append(11)
    read_all(made, rows)
    with counting() as counts:
        guesses = made.draft(rows, depth)
    assert {len(guess.tokens) for guess in guesses.values()} == {depth}
    assert counts.waits == 1
