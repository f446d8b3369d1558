"""A model that is loaded and has passed its probe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.engine.loading.kv_cost import KVCost
from backend.engine.loading.sentence import SentenceConfig
from backend.engine.quantized.kv_format import KVFormat

if TYPE_CHECKING:
    from backend.engine.ranks.over import OverRanks

NOT_OVER_RANKS = "not over several ranks"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backbone:
    """What lies before a model's head. Engine thread only, but for path, width and `padded`.

    Attributes:
        path: Its place in the model, names of attributes.
        forward: `forward(tokens [rows, n], cache=caches)` gives `[rows, n, width]`, after the last norm.
        new_cache: Fresh caches that hold all tokens, as numbers, of any number of rows.
        padded: Rows that are padded on the right have the hidden states that they have alone.
        lean: In one pass, with caches that have no room for more, too.
    """

    path: tuple[str, ...]
    forward: Callable[..., Any]
    new_cache: Callable[[], list[Any]]
    width: int
    padded: bool
    lean: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """Engine thread only: `model` and what `new_cache` returns belong to the thread that loaded them.

    Attributes:
        model: mlx-lm's module; `model(tokens [rows, n], cache=caches)` gives logits `[rows, n, vocab_size]`.
        tokenizer: mlx-lm's TokenizerWrapper, chat template overrides applied.
        config: config.json, with what generation_config.json adds.
        path: The model's directory.
        vocab_size: Width of the logits, which may exceed the tokenizer's.
        context_length: Tokens of prompt and answer at most.
        eos_ids: Tokens that end an answer, all below `vocab_size`.
        namespace: Names these weights with this tokenizer and cache layout; KV of another one is of no use here.
        namespace_now: What it would be with the files as they are now. Any thread; reads files, raises as they do.
        weight_bytes: Of all parameters.
        step_bytes: Of those that a decode step of one row reads.
        dtype: Of the embedding or the output, such as `float16`.
        batchable: Rows may decode together; otherwise one at a time, and `serial_reason` says why.
        kv_cost: What a row's caches weigh.
        speculation_reason: Why a step looks at one token of a row only; empty where it may look at several.
        uncached_reason: Why the prompt cache keeps nothing of this model; empty where it does.
        kept_whole: Layer classes beyond those that the prompt cache knows, of which it may keep copies.
        device: Such as `cpu` or `gpu (Apple M2)`.
        new_cache: Fresh caches of one row, one per layer.
        kv: How rows hold keys and values; None for the numbers themselves.
        stored_kv: How the prompt cache holds those of rows that hold numbers; None for as the rows do.
        score_bytes: Of one query token's scores against one key token, where attention holds them all; 0 where not.
        backbone: What gives hidden states, or why nothing does.
        sentence: What the model's files say of embeddings.
        draft: A second model of the same tokens, which guesses them for this one; None for none.
        ranks: What is on all ranks, where this is the shard of one; None of a whole model.
    """

    model: Any
    tokenizer: Any
    config: Mapping[str, Any]
    path: Path
    vocab_size: int
    context_length: int
    eos_ids: frozenset[int]
    namespace: str
    namespace_now: Callable[[], str]
    weight_bytes: int
    step_bytes: int
    dtype: str
    batchable: bool
    serial_reason: str
    speculation_reason: str
    kv_cost: KVCost
    uncached_reason: str
    kept_whole: frozenset[type]
    device: str
    new_cache: Callable[[], list[Any]]
    kv: KVFormat | None = None
    stored_kv: KVFormat | None = None
    score_bytes: int = 0
    backbone: Backbone | str = ""
    sentence: SentenceConfig = field(default_factory=SentenceConfig)
    draft: "LoadedModel | None" = None
    ranks: "OverRanks | None" = None

    @property
    def all_weight_bytes(self) -> int:
        """Of its parameters and of its draft model's."""
        return self.weight_bytes + (0 if self.draft is None else self.draft.weight_bytes)
