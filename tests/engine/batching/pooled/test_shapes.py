"""Which texts run together, and that few shapes are all there are where each new one is dear."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.batching.group_cost import DeviceKind
from backend.engine.batching.pooled.shapes import MOST_LOOKED_AT, Shapes, plan_batch

SHAPES = st.builds(
    Shapes, most=st.integers(1, 2048), apart=st.integers(0, 300), few=st.booleans(), longest=st.integers(600, 4096)
)


def cost(shapes: Shapes, lengths: list[int], cuts: tuple[int, ...]) -> float:
    """Of texts in this order, in passes that end at the cuts."""
    total = 0.0
    for begin, end in zip((0, *cuts), (*cuts, len(lengths)), strict=True):
        longest = lengths[end - 1]
        total += shapes.apart + shapes.size(end - begin, longest) if shapes.fits(end - begin, longest) else float("inf")
    return total


@given(st.lists(st.integers(1, 600), min_size=1, max_size=90), SHAPES)
def test_the_first_text_always_runs_and_a_batch_is_bounded(lengths: list[int], shapes: Shapes) -> None:
    chosen = plan_batch(lengths, shapes)
    assert 0 in chosen and len(set(chosen)) == len(chosen) <= MOST_LOOKED_AT
    assert shapes.fits(len(chosen), max(lengths[index] for index in chosen))


@given(st.lists(st.integers(1, 600), min_size=1, max_size=8), SHAPES)
def test_no_division_into_passes_is_cheaper(lengths: list[int], shapes: Shapes) -> None:
    ordered = sorted(lengths)
    least = min(
        cost(shapes, ordered, cuts) for n in range(len(ordered)) for cuts in combinations(range(1, len(ordered)), n)
    )
    total, left = 0.0, list(lengths)
    while left:
        chosen = plan_batch(left, shapes)
        total += shapes.apart + shapes.size(len(chosen), max(left[index] for index in chosen))
        left = [length for index, length in enumerate(left) if index not in chosen]
    assert total <= least


def test_texts_of_like_length_run_together() -> None:
    shapes = Shapes(most=512, apart=48, longest=4096)
    assert plan_batch([100, 5, 101, 6, 99, 400], shapes) == [4, 0, 2]
    assert plan_batch([700, 5], shapes) == [0]
    assert plan_batch([20, 12, 8, 30], shapes) == [2, 1, 0, 3]


@pytest.mark.parametrize("chunk", [64, 512, 2048])
def test_where_a_shape_is_dear_there_are_few_and_none_is_beyond_the_context(chunk: int) -> None:
    shapes = Shapes.of("cuda", chunk=chunk, context=1000)
    seen: set[tuple[int, int]] = set()
    for longest in range(1, 1001):
        assert longest <= shapes.columns(longest) <= max(16, min(1000, longest * 3 // 2))
        count = 1
        while shapes.fits(count, longest):
            assert count <= shapes.rows(count) < 2 * count
            seen.add((shapes.rows(count), shapes.columns(longest)))
            count += 1
    assert len(seen) <= 64


def test_what_needs_no_padding_is_all_or_the_next_below() -> None:
    few, all_of_them = (Shapes(most=2048, apart=1, few=few, longest=4096) for few in (True, False))
    plain = [n for n in range(1, 2049) if few.columns(n) == n]
    assert plain[:7] == [16, 24, 32, 48, 64, 96, 128]
    for tokens in range(2049):
        assert few.whole(tokens) == max((n for n in plain if n <= tokens), default=0)
        assert all_of_them.whole(tokens) == tokens


@pytest.mark.parametrize("kind", ["cpu", "metal"])
def test_elsewhere_a_pass_has_the_shape_of_its_texts(kind: DeviceKind) -> None:
    shapes = Shapes.of(kind, chunk=512, context=4096)
    assert [(shapes.rows(n), shapes.columns(n)) for n in (1, 7, 100)] == [(1, 1), (7, 7), (100, 100)]
