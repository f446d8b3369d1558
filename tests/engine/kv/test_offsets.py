"""Layers share the arrays that they need alike, and nothing is shared that came after something else."""

import threading

import mlx.core as mx

from backend.check.counting import launches_of
from backend.engine.kv.offsets import Offsets, offsets
from backend.engine.kv.ragged import RaggedKVCache


def fed(layers: list[RaggedKVCache], count: int = 1) -> None:
    keys = mx.zeros((len(layers[0].counts), 2, count, 4))
    for layer in layers:
        layer.update_and_fetch(keys, keys)


def test_a_step_moves_all_layers_by_one_addition() -> None:
    layers = [RaggedKVCache([0, 0, 0]) for _ in range(5)]
    fed(layers, 4)
    mx.eval([layer.state for layer in layers])
    fed(layers)
    assert launches_of([layer.offset for layer in layers])["Add"] == 1
    for layer in layers:
        layer.rewind([1, 0, 2])
    for layer in layers:
        layer.filter([0, 2])
    assert len({id(layer.offset) for layer in layers}) == 1
    assert layers[0].offset.tolist() == layers[0].counts == [4, 3]


def test_what_was_computed_from_equal_numbers_before_is_not_given_again() -> None:
    shared = Offsets()
    lost = shared.after(shared.of([5, 7]), 1)
    again = shared.of([5, 7])
    assert shared.after(again, 1) is not lost
    assert shared.after(again, 1) is shared.after(again, 1)
    assert shared.after(again, 2).tolist() == [7, 9]


def test_equal_counts_after_other_calls_are_right() -> None:
    shared = Offsets()
    first = shared.of([1])
    assert shared.of([2]).tolist() == [2]
    assert shared.after(first, 3).tolist() == [4]
    assert shared.columns([3, 9], 2).reshape(2, 2).tolist() == [[3, 4], [9, 10]]
    assert shared.columns([3, 9], 1).reshape(2).tolist() == [3, 9]
    assert shared.rows([2, 0]).tolist() == [2, 0]


def test_threads_share_nothing() -> None:
    mine = offsets.of([3, 3])
    theirs: list[mx.array] = []
    thread = threading.Thread(target=lambda: theirs.append(offsets.of([3, 3])))
    thread.start()
    thread.join()
    assert theirs[0] is not mine
