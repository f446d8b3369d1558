"""Speculation changes no answer: text, end and every bit of every logprob, whatever was drafted."""

import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from backend.config import ALL_DRAFTERS, CacheConfig, EngineConfig, ModelConfig
from backend.core.events import FinishReason
from backend.core.request import GenerationRequest, Grammar, Sampling
from backend.engine.batching.row import Row
from backend.engine.batching.speculating import Plan, Speculating
from backend.engine.handle import EngineHandle
from backend.engine.speculation.proposal import Drafter, Proposal
from tests.engine.harness import Answer, model_config, read, request, with_engine
from tests.engine.test_exactness import CHUNK, assert_same, schedule, together
from tests.models import write_model
from tests.rounding import tolerance

SAMPLERS = ("host", "device")
# Plain keys and values, experts, windows, gated delta, Mamba 2, attention with Mamba 2.
FAMILIES = ("qwen3", "qwen3_moe", "gemma3_text", "gpt_oss", "qwen3_next", "mamba2", "falcon_h1")
QUICK = (("qwen3_next", "host"), ("qwen3", "device"))
CASES = [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in product(FAMILIES, SAMPLERS)]
MOST, WRONG = 6, 0.2
SCHEMA = '{"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 9}'
# Three long rows do not fit at once.
TIGHT = {"qwen3": 2 * 512 * 1536, "qwen3_next": 1 << 20}


class Oracle:
    """Knows every answer, and is wrong one time in five: of a row's next tokens, by their prompt and settings."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.known: dict[str, list[int]] = {}
        self.passes = self.right = self.wrong = self.preemptions = 0

    def learn(self, wanted: list[GenerationRequest], answers: list[Answer]) -> None:
        """What each request is answered, by its name."""
        for item, answer in zip(wanted, answers, strict=True):
            self.known[item.request_id] = answer.tokens

    def plan(self, rows: list[Row]) -> Plan | None:
        """Anything from nothing to some tokens of each row."""
        if self.rng.random() < 0.2:
            return None
        plan = [self._proposal(row) for row in rows]
        return plan if any(plan) else None

    def _proposal(self, row: Row) -> Proposal | None:
        n = len(row.generated) + len(row.sampling.drawn_ahead)
        coming = self.known[row.request.request_id][n : n + self.rng.randrange(MOST + 1)]
        tokens = [token if self.rng.random() >= WRONG else token ^ 1 for token in coming]
        return Proposal(tuple(tokens), Drafter.TEXT, (1.0,) * len(tokens)) if tokens else None


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
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
    return made


@pytest.mark.parametrize(("family", "sampler"), CASES)
def test_whatever_is_drafted_the_answers_are_those_without(
    family: str, sampler: str, tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model_config(
        write_model(tmp_path / "model", family),
        engine=EngineConfig(max_rows=6, prefill_chunk=CHUNK, sampler=sampler),  # type: ignore[arg-type]
        cache=CacheConfig(max_sequences=8, max_bytes=1 << 22),
        drafters=ALL_DRAFTERS,
    )
    wanted = schedule(3, 16)
    ours, theirs = drafted_and_not(config, wanted, oracle, monkeypatch)
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one, other, family)
    assert oracle.passes > 10 and oracle.right > 30 and oracle.wrong > 10


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["host", pytest.param("device", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["qwen3", pytest.param("qwen3_next", marks=pytest.mark.slow)])
def test_grammars_stops_limits_and_rows_that_go_and_come_back(
    family: str, sampler: str, tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(max_rows=6, prefill_chunk=CHUNK, sampler=sampler)  # type: ignore[arg-type]
    path = write_model(tmp_path / "model", family)
    warm = Sampling(temperature=1.0, seed=7)
    endless = replace(warm, ignore_eos=True)
    plain = [
        request(f"{i} says " * (3 + i), n=60, name=f"p{i}", sampling=replace(endless, seed=i)) for i in range(1, 5)
    ]
    known, _ = drafted_and_not(model_config(path, engine=engine, drafters=ALL_DRAFTERS), plain, oracle, monkeypatch)
    wanted = [
        # Each ends in the middle of what was drafted.
        *(
            replace(item, request_id=f"s{place}", stop=(answer.text[len(answer.text) // 2 :][:2] or "x",))
            for place, (item, answer) in enumerate(zip(plain, known, strict=True))
        ),
        request("a word", n=40, name="g0", sampling=warm, grammar=Grammar(kind="regex", text="[a-z ]{20,30}[.]")),
        request("a list", n=60, name="g1", grammar=Grammar(kind="json_schema", text=SCHEMA)),
        request("a list", n=60, name="g2", sampling=warm, grammar=Grammar(kind="json_schema", text=SCHEMA)),
        request("biased", n=30, name="b0", sampling=replace(warm, logit_bias=((70, 4.0), (71, -9.0)))),
        request("endless", n=50, name="e0", sampling=replace(endless, frequency_penalty=0.7)),
        request("one", n=1, name="o0"),
        request("two", n=2, name="o1", sampling=warm),
        *(request(f"long {i} " * 12, n=250, name=f"l{i}", sampling=replace(endless, seed=i)) for i in range(3)),
    ]
    tight = replace(engine, kv_bytes=TIGHT[family])
    ours, theirs = drafted_and_not(
        model_config(path, engine=tight, cache=CacheConfig(), drafters=ALL_DRAFTERS), wanted, oracle, monkeypatch
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one, other, family)
    assert oracle.preemptions > 0
    reasons = {item.request_id[0]: answer.end.reason for item, answer in zip(wanted, ours, strict=True) if answer.end}
    assert reasons["s"] is FinishReason.STOP_STRING and reasons["o"] is FinishReason.LENGTH


def drafted_and_not(
    config: ModelConfig, wanted: list[GenerationRequest], oracle: Oracle, patched: pytest.MonkeyPatch
) -> tuple[list[Answer], list[Answer]]:
    """What is answered together with drafts, and one at a time without any."""

    async def alone(handle: EngineHandle) -> list[Answer]:
        patched.setattr(Speculating, "plan", lambda self, rows, *, spare: None)
        return [await read(handle, item) for item in wanted]

    async def drafted(handle: EngineHandle) -> list[Answer]:
        patched.setattr(Speculating, "plan", lambda self, rows, *, spare: oracle.plan(rows))
        answers = await together(handle, wanted, 3)
        oracle.preemptions += int(handle.info().queue["preemptions"])
        return answers

    theirs = with_engine(config, alone)
    oracle.learn(wanted, theirs)
    return with_engine(config, drafted), theirs


def assert_equal(one: Answer, other: Answer, family: str) -> None:
    assert one.end is not None and other.end is not None, (one.error, other.error)
    assert_same(one, other, tolerance(family))
    assert (one.end.reason, one.text) == (other.end.reason, other.text)
