"""The part of a model before its head, found by trying."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.utils import load_model

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.backbone import NOT_FOUND, caches_for_one_pass, find_backbone, same_backbone
from backend.engine.loading.loaded import Backbone
from tests.architectures import catalogue
from tests.models import FAMILIES, QUICK_FAMILIES, write_model
from tests.straight import Straight

QUICK = [
    pytest.param(f, marks=[] if f in (*QUICK_FAMILIES, "llama4", "mamba2") else pytest.mark.slow) for f in FAMILIES
]


@pytest.mark.parametrize("family", QUICK)
def test_it_is_found_in_every_family_and_the_model_stays_as_it_was(family: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / family, family)
    model, _ = load_model(folder)
    before = [name for name, _ in nn.utils.tree_flatten(model.parameters())]
    found = find_backbone(model)
    assert isinstance(found, Backbone)
    assert [name for name, _ in nn.utils.tree_flatten(model.parameters())] == before
    assert found.width == 64 and found.padded and found.lean
    tokens = [5, 90, 17, 3]
    for caches in (found.new_cache(), caches_for_one_pass(found)):
        ours = np.array(found.forward(mx.array([tokens]), cache=caches)[0])
        assert np.abs(ours - Straight(folder).hidden(tokens)).max() < 1e-5
    again, _ = load_model(folder)
    assert same_backbone(found, again).path == found.path


class _Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = [nn.Linear(8, 8)]

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        return self.layers[0](self.embed(tokens))


class _Mixing(nn.Module):
    """A head that looks at other places than its own: what is before it are no hidden states."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.model = _Inner()
        self.head = nn.Linear(8, 16)
        self.mixes = mixes

    @property
    def layers(self) -> list[Any]:
        return self.model.layers

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        hidden = self.model(tokens, cache=cache)
        return self.head(mx.cumsum(hidden, axis=1) if self.mixes else hidden)


class _Counting(_Inner):
    """Reads of its caches what only some have."""

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        return super().__call__(tokens) + (0 if cache is None else 0 * cache[0].step)


def test_a_model_that_wants_caches_of_its_own_kind_has_them() -> None:
    model = _Mixing(mixes=False)
    model.model = _Counting()
    found = find_backbone(model)
    assert isinstance(found, Backbone)
    assert found.padded and not found.lean
    assert type(caches_for_one_pass(found)[0]) is type(found.new_cache()[0])


def test_what_a_head_mixes_is_no_backbone() -> None:
    assert isinstance(find_backbone(_Mixing(mixes=False)), Backbone)
    assert find_backbone(_Mixing(mixes=True)) == NOT_FOUND


def test_what_gives_logits_is_no_backbone() -> None:
    class _Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language_model = _Mixing(mixes=True)

        @property
        def layers(self) -> list[Any]:
            return self.language_model.layers

        def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
            return self.language_model(tokens, cache=cache)

    assert find_backbone(_Wrapped()) == NOT_FOUND
    assert find_backbone(object()) == NOT_FOUND


def test_a_load_that_is_given_up_ends_in_the_middle() -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(ModelLoadFailed, match="cancelled"):
        find_backbone(_Mixing(mixes=False), cancelled=cancelled)


# Their head is inside of what takes tokens, or that is called in another way.
WITHOUT = {"gemma3n", "gpt_neox", "lille-130m", "phixtral"}
# They need a library or a device that is not here.
NOT_HERE = {"bitnet", "muse_spark", "olmo"}


@pytest.mark.exhaustive
def test_it_is_found_in_all_modules_of_mlx_lm_but_these(tmp_path: Path) -> None:
    found: set[str] = set()
    modules = set(catalogue.modules()) - NOT_HERE
    for module in modules:
        model, _ = load_model(catalogue.write(tmp_path / module, module))
        if isinstance(find_backbone(model), Backbone):
            found.add(module)
    assert modules - found == WITHOUT
