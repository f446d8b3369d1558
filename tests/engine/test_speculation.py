"""Speculation changes no answer: text, end and every bit of every logprob, whatever was drafted."""

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.request import GenerationRequest
from backend.engine.batching.row import Row
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.handle import EngineHandle
from backend.engine.speculation.proposal import Drafter, Proposal
from tests.engine.harness import Answer, model_config, read, with_engine
from tests.engine.test_exactness import CHUNK, assert_same, schedule, together
from tests.models import write_model
from tests.rounding import tolerance

SAMPLERS = ("host", "device")
# Plain keys and values, experts, windows, gated delta, Mamba 2, attention with Mamba 2.
FAMILIES = ("qwen3", "qwen3_moe", "gemma3_text", "gpt_oss", "qwen3_next", "mamba2", "falcon_h1")
QUICK = (("gemma3_text", "host"), ("qwen3_next", "host"), ("qwen3", "device"))
CASES = [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in product(FAMILIES, SAMPLERS)]
MOST, WRONG = 6, 0.2


class Oracle:
    """Knows every answer, and is wrong one time in five: of a row's next tokens, by their prompt and settings."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.known: dict[str, list[int]] = {}
        self.passes = self.right = self.wrong = 0

    def learn(self, wanted: list[GenerationRequest], answers: list[Answer]) -> None:
        """What each request is answered, by its name."""
        for request, answer in zip(wanted, answers, strict=True):
            self.known[request.request_id] = answer.tokens

    def plan(self, rows: list[Row]) -> Plan | None:
        """Anything from nothing to some tokens of each row."""
        if self.rng.random() < 0.2:
            return None
        plan = [self._proposal(row) for row in rows]
        return plan if any(plan) else None

    def _proposal(self, row: Row) -> Proposal | None:
        n = len(row.generated) + len(row.sampling.drawn_ahead)
        coming = self.known[row.request.request_id][n : n + self.rng.randrange(MOST + 1)]
        tokens = [token if self.rng.random() >= WRONG else token + 1 for token in coming]
        return Proposal(tuple(tokens), Drafter.TEXT, (1.0,) * len(tokens)) if tokens else None


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Oracle]:
    made = Oracle(5)
    verified = Speculating.verified

    def counted(self: Speculating, rows: list[Row], plan: Plan, verification: object, seconds: float) -> None:
        made.passes += 1
        for index, proposal in enumerate(plan):
            accepted = verification.accepted(index)  # type: ignore[attr-defined]
            made.right += accepted
            made.wrong += 0 if proposal is None else len(proposal.tokens) - accepted
        verified(self, rows, plan, verification, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(Speculating, "verified", counted)
    yield made


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("family", "sampler"), CASES)
def test_whatever_is_drafted_the_answers_are_those_without(
    family: str, sampler: str, tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "model", family)
    engine = EngineConfig(max_rows=6, prefill_chunk=CHUNK, sampler=sampler)  # type: ignore[arg-type]
    config = model_config(path, engine=engine, cache=CacheConfig(max_sequences=8, max_bytes=1 << 22))
    wanted = schedule(3, 16)

    async def alone(handle: EngineHandle) -> list[Answer]:
        monkeypatch.setattr(Speculating, "plan", lambda self, rows: None)
        return [await read(handle, item) for item in wanted]

    async def drafted(handle: EngineHandle) -> list[Answer]:
        monkeypatch.setattr(Speculating, "plan", lambda self, rows: oracle.plan(rows))
        return await together(handle, wanted, 3)

    theirs = with_engine(config, alone)
    oracle.learn(wanted, theirs)
    ours = with_engine(config, drafted)
    for one, other in zip(ours, theirs, strict=True):
        assert one.end is not None and other.end is not None, (one.error, other.error)
        assert_same(one, other, tolerance(family))
        assert (one.end.reason, one.text) == (other.end.reason, other.text)
    assert oracle.passes > 10 and oracle.right > 30 and oracle.wrong > 10
