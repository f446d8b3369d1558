"""The facts of a load that leave the engine thread."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.engine.loading.loaded import NOT_OVER_RANKS
from backend.engine.loading.sentence import SentenceConfig

if TYPE_CHECKING:
    from backend.engine.loading import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFacts:
    """What is worth telling about a loaded model; no MLX object among it, so any thread may hold it.

    Attributes:
        generation: Counts the loads of this process; what was prepared for one is of no use to another.
        vocab_size: Width of the logits.
        context_length: Tokens of prompt and answer at most.
        memory: What the device has and how much of it is wired, in words, for Info.
        serial_reason: Why rows cannot decode together; empty when they can.
        speculation_reason: Why a step looks at one token of a row only; empty where it may look at several.
        uncached_reason: Why the prompt cache keeps nothing of this model; empty where it does.
        drafts: A draft model guesses tokens for it.
        runs_own_code: The checkpoint brings the model's code with it.
        hidden_width: Of the model's hidden states; 0 where none can be had, and `hidden_reason` says why.
        sentence: What the model's files say of embeddings.
        tails_reason: Why nothing is computed over a prompt but its answer; empty where it is.
    """

    generation: int
    path: str
    architecture: str
    vocab_size: int
    context_length: int
    weight_bytes: int
    eos_ids: frozenset[int]
    batchable: bool
    serial_reason: str
    speculation_reason: str
    uncached_reason: str
    device: str
    drafts: bool = False
    runs_own_code: bool = False
    memory: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden_width: int = 0
    hidden_reason: str = ""
    sentence: SentenceConfig = field(default_factory=SentenceConfig)
    tails_reason: str = ""

    @classmethod
    def of(cls, loaded: "LoadedModel", generation: int, memory: Mapping[str, str]) -> "LoadedFacts":
        """The facts of a model just loaded."""
        backbone = loaded.backbone
        return cls(
            hidden_width=0 if isinstance(backbone, str) else backbone.width,
            hidden_reason=backbone if isinstance(backbone, str) else "",
            sentence=loaded.sentence,
            tails_reason=NOT_OVER_RANKS if loaded.ranks is not None else "",
            generation=generation,
            path=str(loaded.path),
            architecture=str(loaded.config.get("model_type", "")),
            vocab_size=loaded.vocab_size,
            context_length=loaded.context_length,
            weight_bytes=loaded.all_weight_bytes,
            eos_ids=loaded.eos_ids,
            batchable=loaded.batchable,
            serial_reason=loaded.serial_reason,
            speculation_reason=loaded.speculation_reason,
            uncached_reason=loaded.uncached_reason,
            device=loaded.device,
            drafts=loaded.draft is not None,
            runs_own_code="model_file" in loaded.config,
            memory=memory,
        )
