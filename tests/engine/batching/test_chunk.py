"""A chunk in slices of layers gives the bits of the chunk in one piece, computes nothing twice, may stop anywhere."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from backend.engine.batching.chunk import Chunk
from backend.engine.batching.prefix_cache import needs_snapshots
from backend.engine.loading import LoadedModel, load_model
from benchmarks.launches import launches_of
from tests.engine.harness import model_config
from tests.models import FAMILIES, write_model
from tests.tiers import slow

Load = Callable[..., LoadedModel]
LAYERS = 4
# The tests' windows are 64 tokens long: they wrap, and a block of 256 fills up and grows.
ENDS = (0, 32, 64, 96, 200, 250, 300)
TOKENS = np.random.default_rng(0).integers(1, 250, ENDS[-1]).astype(np.int32)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a family's model, once: chunks leave models as they are."""

    @cache
    def load(family: str, hidden: int = 64) -> LoadedModel:
        folder = tmp_path_factory.mktemp(family)
        return load_model(model_config(write_model(folder / family, family, layers=LAYERS, hidden=hidden)))

    return load


def chunks(model: Any, caches: list[Any], tokens: np.ndarray, *, cuttable: bool = False) -> Iterator[Chunk]:
    for start, end in pairwise(ENDS):
        yield Chunk(model, caches, tokens[start:end], cuttable=cuttable)


def run(chunk: Chunk, layers: int) -> None:
    while not chunk.done:
        chunk.put(layers)
        chunk.wait()


def numbers(caches: list[Any]) -> list[tuple[str, Any]]:
    return [
        (name, np.array(leaf) if isinstance(leaf, mx.array) else leaf)
        for name, leaf in tree_flatten([cache.state for cache in caches])
    ]


def same(ours: list[Any], theirs: list[Any]) -> None:
    for (name, one), (other_name, other) in zip(numbers(ours), numbers(theirs), strict=True):
        assert name == other_name
        assert np.array_equal(one, other), name


@pytest.mark.parametrize(
    "family",
    [
        "qwen3",
        "qwen3_next",
        *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f not in {"qwen3", "qwen3_next"}),
    ],
)
def test_slices_give_the_bits_of_the_whole_though_another_prompt_runs_between_them(family: str, loaded: Load) -> None:
    model = loaded(family)
    whole, other_whole, sliced, other = (model.new_cache() for _ in range(4))
    others = TOKENS[::-1].copy()
    for tokens, caches in ((TOKENS, whole), (others, other_whole)):
        for chunk in chunks(model.model, caches, tokens):
            run(chunk, chunk.layers)
    cuttable = not needs_snapshots(sliced)
    pairs = zip(
        chunks(model.model, sliced, TOKENS, cuttable=cuttable),
        chunks(model.model, other, others, cuttable=cuttable),
        strict=True,
    )
    for pair in pairs:
        while not all(chunk.done for chunk in pair):
            for chunk in pair:
                chunk.put(1)
                chunk.wait()
    same(sliced, whole)
    same(other, other_whole)


def test_slices_of_quantised_weights_and_quantised_caches_are_the_whole_too(loaded: Load) -> None:
    model = loaded("qwen3", 128).model
    nn.quantize(model, group_size=32, bits=4)  # type: ignore[arg-type]
    whole, sliced = ([QuantizedKVCache(group_size=32, bits=8) for _ in range(LAYERS)] for _ in range(2))
    for caches, layers in ((whole, LAYERS), (sliced, 1)):
        for chunk in chunks(model, caches, TOKENS, cuttable=True):
            run(chunk, layers)
    same(sliced, whole)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_next"])
def test_slices_launch_together_what_the_whole_launches(family: str, loaded: Load) -> None:
    model = loaded(family)

    def launches(layers: int) -> int:
        caches, total = model.new_cache(), 0
        model.model(mx.array(TOKENS[:64])[None], cache=caches)
        for start in range(0, len(caches), layers):
            states = [cache.state for cache in caches[start : start + layers]]
            total += launches_of(states).total()
            mx.eval(states)
        return total

    assert launches(1) == launches(LAYERS) > 0


@pytest.mark.parametrize("kind", [slow(KVCache), lambda: QuantizedKVCache(group_size=32, bits=8)])
# A chunk that grows the arrays, and one that is written into them.
@pytest.mark.parametrize(("start", "end"), [(200, 230), pytest.param(100, 300, marks=pytest.mark.slow)])
def test_between_two_slices_the_caches_of_before_can_be_had_and_the_chunk_goes_on(
    start: int, end: int, kind: Any, loaded: Load
) -> None:
    model = loaded("qwen3", 128).model

    def begun() -> list[Any]:
        caches = [kind() for _ in range(LAYERS)]
        run(Chunk(model, caches, TOKENS[:start], cuttable=True), LAYERS)
        return caches

    covered, whole = begun(), begun()
    run(Chunk(model, whole, TOKENS[start:end], cuttable=True), LAYERS)
    for computed in range(LAYERS + 1):
        caches = begun()
        chunk = Chunk(model, caches, TOKENS[start:end], cuttable=True)
        for _ in range(computed):
            chunk.put(1)
            chunk.wait()
        before = chunk.before()
        assert before is not None
        for had, wanted in zip(before, covered, strict=True):
            assert had.offset == wanted.offset == start
            cut, right = (
                [np.array(leaf[..., :start, :]) for _, leaf in tree_flatten((cache.keys, cache.values))]
                for cache in (had, wanted)
            )
            assert all(np.array_equal(one, other) for one, other in zip(cut, right, strict=True))
        run(chunk, 1)
        same(caches, whole)


def test_what_cannot_be_cut_cannot_be_had_in_the_middle(loaded: Load) -> None:
    model = loaded("qwen3_next")
    assert needs_snapshots(model.new_cache())
    assert Chunk(model.model, model.new_cache(), TOKENS[:20], cuttable=False).before() is None


@pytest.mark.slow
def test_slices_take_no_more_memory_than_the_whole(tmp_path: Path) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3", hidden=128, layers=8)
    model = load_model(model_config(path))

    def peak(layers: int) -> int:
        caches = model.new_cache()
        run(Chunk(model.model, caches, TOKENS[:100], cuttable=True), layers)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        run(Chunk(model.model, caches, TOKENS[100:], cuttable=True), layers)
        return mx.get_peak_memory() - before

    assert peak(1) <= 1.02 * peak(8)
