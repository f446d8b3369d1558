"""A random model whose answers are written beforehand: its whole cost is paid, and what it says is a text of ours.

Import this after the BLAS is chosen: it loads MLX.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from backend.config import ModelConfig
from backend.engine.loading import LoadedModel, load_model
from benchmarks.scripts import SIZE, word
from tests.models import write_model

POSITIONS = 4096
# Above whatever random weights give: certain when greedy, and at any usual temperature.
_CERTAIN = 100.0


class Scripts:
    """Stands in for a loaded model: runs it, and puts the next token of the row's script above all others.

    Which script a row follows is told by the tokens that it is fed, and where it is in it by its cache's offset. So
    nothing is kept from pass to pass, and a row may be cut back, moved or prefilled again. Engine thread only.
    """

    def __init__(self, model: Callable[..., mx.array], vocab: int) -> None:
        self.model = model
        self._next = mx.zeros((vocab // SIZE, POSITIONS), mx.int32)

    def follow(self, texts: Mapping[int, Sequence[int]], *, right: float = 1.0, seed: int = 0) -> None:
        """From now on script n, 1 or more, is `texts[n]`, prompt and answer, all of whose tokens are n's.

        Args:
            right: The chance that what it says comes next is what does.
            seed: Decides which are its mistakes.
        """
        table = np.zeros(self._next.shape, np.int32)
        for script, text in texts.items():
            assert {token // SIZE for token in text} == {script}
            # What comes after its end is only looked at by drafts that go beyond it.
            table[script] = script * SIZE
            coming = np.array(text[1:], np.int32)
            wrong = np.random.default_rng((script, seed)).random(len(coming)) >= right
            table[script, : len(coming)] = np.where(wrong, script * SIZE + (coming + 1) % SIZE, coming)
        self._next = mx.array(table)
        mx.eval(self._next)

    def __call__(self, tokens: mx.array, cache: Sequence[Any], **options: Any) -> mx.array:
        """Logits `[rows, n, vocab]`."""
        offset = next(layer.offset for layer in cache if hasattr(layer, "offset"))
        if isinstance(offset, mx.array) and offset.ndim:
            offset = offset[:, None]
        wanted = self._next[tokens // SIZE, offset + mx.arange(tokens.shape[1])[None]]
        logits = self.model(tokens, cache=cache, **options)
        return mx.put_along_axis(logits, wanted[..., None], mx.array(_CERTAIN, logits.dtype), axis=-1)


def load_scripted(config: ModelConfig, *given: Any, **options: Any) -> LoadedModel:
    """As `load_model`; the models that are tried out are the real ones, those that then serve follow scripts."""
    loaded = load_model(config, *given, **options)
    draft = loaded.draft
    if draft is not None:
        draft = replace(draft, model=Scripts(draft.model, draft.vocab_size))
    return replace(loaded, model=Scripts(loaded.model, loaded.vocab_size), draft=draft)


def write_scripted(folder: Path, family: str, *, vocab: int, hidden: int, layers: int) -> Path:
    """A random float32 model and a tokenizer whose tokens are words; written at the first use."""
    if not (folder / "tokenizer_config.json").exists():
        write_model(folder, family, vocab=vocab, hidden=hidden, layers=layers, context=POSITIONS)
        file = folder / "tokenizer.json"
        tokenizer = json.loads(file.read_text())
        # A word that is in the vocabulary is its token, without a merge that leads there.
        tokenizer["model"]["ignore_merges"] = True
        for step in ("pre_tokenizer", "decoder"):
            tokenizer[step]["use_regex"] = True
        known = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {
            "\u0120" + word(token) if token >= SIZE else piece: token for piece, token in known.items()
        }
        file.write_text(json.dumps(tokenizer))
    return folder
