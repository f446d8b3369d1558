"""What the histories are made of: requests and loads."""

from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray

from backend.config import (
    CacheConfig,
    Drafter,
    EngineConfig,
    Isolation,
    ModelConfig,
    PooledConfig,
    RerankWay,
    SamplerBackend,
)
from backend.core.request import GenerationRequest, Grammar, Sampling
from backend.engine.quantized.kv_format import KVFormat
from tests.engine.harness import model_config
from tests.engine.machine.alone import Shape

CHUNK = 32
_SHARED = "what some of them begin with, for more than sixty-four characters: "
# Chunks that end where prompts do, beginnings that are shared, and two windows.
PROMPTS = (
    "a",
    _SHARED + "two chunks. ",
    _SHARED + "two chunks. the second",
    _SHARED + "nothing more",
    _SHARED[:64],
    _SHARED[:33],
    _SHARED[:32],
    "short, and then some",
    "it goes on and on, and round and round, " * 3 + "and on",
    "it goes on and on, and round and round, " * 3 + "and on, and on, and on",
)
# What is kept under names; the last is long enough for a name under strict.
NAMED = (_SHARED[:64], _SHARED + "two chunks. ", "it goes on and on, and round and round, " * 3 + "and on, and on, ")
# Features of a head that share a scale where rows or the prompt cache hold codes.
GROUP = 32
ENDLESS = Sampling(ignore_eos=True)
DRAWN = Sampling(temperature=1.0, seed=7, ignore_eos=True)
SAMPLINGS = {
    "likeliest": Sampling(),
    "endless": ENDLESS,
    "drawn": DRAWN,
    "narrow": replace(DRAWN, seed=-3, top_k=40, top_p=0.9),
    "penalised": replace(DRAWN, repetition_penalty=1.2, presence_penalty=0.4),
    "varied": replace(ENDLESS, frequency_penalty=0.7),
    "biased": replace(DRAWN, seed=5, ignore_eos=False, logit_bias=((70, 4.0), (71, -9.0))),
}
SHAPES = (Shape("", 3, 6), Shape("so it is: ", 2, 5))
STOPS = ((), (), (), ("e",), ("never said", "th"))


@dataclass(frozen=True, slots=True)
class Wish:
    """A request but for its name and its deadline; `draws` is one of `SAMPLINGS`."""

    prompt: str
    n: int
    draws: str = "likeliest"
    shape: Shape | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = 2
    tenant: str = ""
    priority: int = 0
    max_draft: int | None = None
    talk: str = ""
    read_only: bool = False
    keeps_answer: bool = True

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Of the prompt: a byte each."""
        return np.frombuffer(self.prompt.encode(), np.uint8).astype(np.int32)

    def request(self, name: str, deadline: float | None) -> GenerationRequest:
        """For the engine."""
        return GenerationRequest(
            request_id=name,
            prompt=self.prompt,
            max_tokens=self.n,
            sampling=SAMPLINGS[self.draws],
            stop=self.stop,
            logprobs=self.logprobs,
            grammar=Grammar(kind="regex", text=self.shape.regex) if self.shape is not None else None,
            tenant=self.tenant,
            priority=self.priority,
            max_draft=self.max_draft,
            conversation_id=self.talk,
            cache_read_only=self.read_only,
            cache_answer=self.keeps_answer,
            deadline=deadline,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """A model and its options.

    Attributes:
        model: Which of the two.
        guesses: Who guesses: nobody, one that knows the answers and errs now and then, the row's own text and what the
            cache and the grammar have, or a draft model.
        tight: There is KV for two rows, and little more.
        apart: Rows of unlike length decode in batches of their own.
        brief: Of a prompt as few layers run at a time as can be.
        ranks: How documents are compared with a query.
        idle_s, talks: For how long conversations are kept, and how many.
        kv: Rows hold codes of so many bits, from a length on.
        stored_bits: The prompt cache holds codes, of so many bits, of rows that hold numbers.
    """

    model: int = 0
    guesses: str = "none"
    rows: int = 6
    tight: bool = False
    apart: bool = False
    brief: bool = False
    ranks: RerankWay = "cosine"
    cache_bytes: int | None = None
    sequences: int | None = None
    disk: bool = False
    isolation: Isolation = "performance"
    idle_s: float | None = None
    talks: int = 100
    kv: tuple[int, int] | None = None
    stored_bits: int | None = None

    @property
    def lasting_name(self) -> tuple[object, ...] | None:
        """What tells apart what the directory has for such loads from what it has for others; None for nothing.

        Who is strict prefills in other chunks; without a prompt cache there is no directory.
        """
        if not self.disk or self.sequences == 0:
            return None
        return self.model, self.kv, self.stored_bits, self.isolation == "strict"

    @property
    def form(self) -> KVFormat | None:
        """How rows hold keys and values; None for numbers."""
        return KVFormat(self.kv[0], GROUP, self.kv[1]) if self.kv is not None else None

    def config(self, paths: list[Path], draft: Path, folder: Path, sampler: SamplerBackend, row: int) -> ModelConfig:
        """For the engine.

        Args:
            row: Bytes that the longest row needs.
        """
        drafts = self.guesses == "draft"
        kinds = frozenset({Drafter.MODEL}) if drafts else frozenset(Drafter) - {Drafter.MODEL}
        return model_config(
            paths[self.model],
            engine=EngineConfig(
                max_rows=self.rows,
                prefill_chunk=CHUNK,
                sampler=sampler,
                isolation=self.isolation,
                # A document with what the model is told of it is a longer row than any other.
                kv_bytes=int((3.4 if self.ranks == "yes_no" else 2.4) * row) if self.tight else None,
                kv_bits=self.kv[0] if self.kv is not None else None,
                kv_group_size=GROUP,
                quantized_kv_start=self.kv[1] if self.kv is not None else 0,
            ),
            cache=CacheConfig(
                max_bytes=self.cache_bytes,
                max_sequences=self.sequences,
                directory=str(folder) if self.disk else "",
                conversation_idle_s=self.idle_s,
                max_conversations=self.talks,
                kv_bits=self.stored_bits,
            ),
            pooled=PooledConfig(rerank=self.ranks, instruction="Find it."),
            drafters=frozenset() if self.guesses == "none" else kinds,
            draft_candidates=(str(draft),) if drafts else (),
        )


WISHES = st.builds(
    Wish,
    prompt=st.sampled_from(PROMPTS),
    n=st.integers(1, 20),
    draws=st.sampled_from(sorted(SAMPLINGS)),
    shape=st.sampled_from((None, None, None, *SHAPES)),
    stop=st.sampled_from(STOPS),
    logprobs=st.sampled_from((2, 2, None)),
    tenant=st.sampled_from(("", "a", "b")),
    priority=st.sampled_from((0, 0, 2, -1)),
    max_draft=st.sampled_from((None, None, 1)),
    talk=st.sampled_from(("", "", "x", "y")),
    read_only=st.sampled_from((False, False, False, True)),
    keeps_answer=st.sampled_from((True, True, False)),
)
LOADS = st.builds(
    Load,
    model=st.integers(0, 1),
    guesses=st.sampled_from(("none", "knows", "own", "draft")),
    rows=st.sampled_from((6, 2, 3)),
    tight=st.booleans(),
    apart=st.booleans(),
    brief=st.booleans(),
    ranks=st.sampled_from(("cosine", "yes_no")),
    cache_bytes=st.sampled_from((None, None, 120_000, 300_000)),
    sequences=st.sampled_from((None, None, 2, 0)),
    disk=st.booleans(),
    isolation=st.sampled_from(("performance", "performance", "balanced", "strict")),
    idle_s=st.sampled_from((None, 30.0)),
    talks=st.sampled_from((100, 1)),
    # Rows of numbers; of codes, from their first token or a later one on; a prompt cache of codes.
    kv=st.sampled_from((None, None, None, (8, 0), (4, 50))),
    stored_bits=st.sampled_from((None, None, 8, 4)),
).map(lambda load: replace(load, stored_bits=None) if load.kv is not None else load)
