"""What a draw costs a GPU, counted in the graph: nothing is computed, so that no compiler is needed."""

import mlx.core as mx
import pytest

from backend.check.counting import launches_of
from backend.engine.sampling.device.sampler import DeviceSampler
from benchmarks.launches import KINDS, counts_of, mlx_lm_step, our_step, table_model
from tests.engine.sampling.building import random_logits, row

VOCAB = 4096
# Those of mlx-lm, from its logits on: the normaliser, its subtraction and the draw.
MLX_LM_GREEDY = 3
MOST = {
    "greedy": MLX_LM_GREEDY,
    "temperature": 20,
    "top-k and top-p": 39,
    "top-p and min-p": 30,
    "repetition penalty": 23,
    "eight different": 88,
}


def drawn(kind: str, rows: int) -> int:
    settings = [KINDS[kind][index % len(KINDS[kind])] for index in range(rows)]
    several = [row([1, 2, 3]) for _ in settings]
    for one, sampling in zip(several, settings, strict=True):
        one.sampling = sampling
    logits = mx.array(random_logits(rows, VOCAB))
    return launches_of(DeviceSampler(fused=True).sample_lazy(logits, several).arrays()).total()


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_launches_no_more_than_it_did(kind: str, rows: int) -> None:
    assert 0 < drawn(kind, rows) <= MOST[kind]


@pytest.mark.parametrize("rows", [1, 8])
def test_a_greedy_step_launches_and_waits_as_mlx_lms_does(rows: int) -> None:
    settings = KINDS["greedy"] * rows
    theirs = counts_of(mlx_lm_step(settings, VOCAB))
    ours = counts_of(our_step(settings, VOCAB, fused=False))
    assert ours.waits == theirs.waits == 1
    model = launches_of(table_model(VOCAB)(mx.array([[0]] * rows), None)).total()
    assert theirs.launches.total() - model == MLX_LM_GREEDY
    assert drawn("greedy", rows) <= MLX_LM_GREEDY + 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_once_whatever_is_drawn(kind: str) -> None:
    assert counts_of(our_step(KINDS[kind], VOCAB, fused=False)).waits == 1


def test_views_are_no_launches_and_a_concatenation_is_one_an_input() -> None:
    array = mx.zeros((4, 4))
    mx.eval(array)
    assert launches_of(array[1:].T.reshape(-1, 2)).total() <= 1
    assert launches_of(mx.concatenate([array, array + 1, array])) == {"Add": 1, "Concatenate": 3}
    assert launches_of(mx.pad(array, 1)) == {"Pad": 2}
