"""Embeddings, scores and ranks of a real engine, against the model called by itself; in company, and when it fails."""

import asyncio
import functools
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.config import CacheConfig, EngineConfig, PooledConfig
from backend.core.errors import (
    DeadlineExceeded,
    InternalFault,
    InvalidRequest,
    Overloaded,
    RequestAborted,
    Unsupported,
    WorkerError,
)
from backend.core.events import Finished
from backend.core.pooled import EmbedAsk, PooledRequest, Relevances, RerankAsk, ScoreAsk, Scores, Vectors
from backend.core.request import Grammar, Sampling
from backend.engine.batching import device_share
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.decoding import Decoding
from backend.engine.batching.memory import MemoryBudget
from backend.engine.batching.pooled.passing import Pass
from backend.engine.handle import EngineHandle
from backend.engine.inbox import Inbox
from backend.engine.preparing import pooled as preparing
from tests.engine.harness import model_config, read, request, settled, with_engine
from tests.models import FAMILIES, QUICK_FAMILIES, write_model
from tests.straight import Straight, with_yes_and_no
from tests.tiers import slow

NEAR = 1e-5
PROMPT = "Question: which of the bridges over the river is the oldest one? " * 3 + "Answer:"
CANDIDATES = (" The stone bridge.", " The iron bridge, of 1890.", " None", "", " x")
TEXTS = tuple("All about bridges. "[: 3 + index] * (1 + 5 * index % 7) for index in range(16))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str = "qwen3") -> Path:
        if family not in made:
            made[family] = with_yes_and_no(write_model(tmp_path_factory.mktemp("m") / family, family))
        return made[family]

    return make


def embed(text: str, **fields: object) -> PooledRequest:
    return PooledRequest(request_id="e", ask=EmbedAsk(text=text), **fields)  # type: ignore[arg-type]


def score(prompt: str = PROMPT, candidates: tuple[str, ...] = CANDIDATES, **fields: object) -> PooledRequest:
    return PooledRequest(request_id="s", ask=ScoreAsk(prompt=prompt, candidates=candidates), **fields)  # type: ignore[arg-type]


def rerank(documents: tuple[str, ...], query: str = "old bridges", **fields: object) -> PooledRequest:
    return PooledRequest(request_id="r", ask=RerankAsk(query=query, documents=documents), **fields)  # type: ignore[arg-type]


def vectors(end: Finished) -> np.ndarray:
    assert isinstance(end.result, Vectors)
    return np.frombuffer(end.result.data, "<f4").reshape(end.result.count, end.result.dim)


def logprobs(end: Finished) -> list[list[float]]:
    assert isinstance(end.result, Scores)
    return [[token.logprob for token in tokens] for tokens in end.result.candidates]


def values(end: Finished) -> tuple[float, ...]:
    assert isinstance(end.result, Relevances)
    return end.result.values


def expected_scores(straight: Straight) -> list[list[float]]:
    start = len(PROMPT.encode())
    return [straight.logprobs([*PROMPT.encode(), *candidate.encode()], start) for candidate in CANDIDATES]


def near(ours: list[list[float]], theirs: list[list[float]]) -> None:
    assert list(map(len, ours)) == list(map(len, theirs))
    for one, other in zip(ours, theirs, strict=True):
        assert np.allclose(one, other, atol=NEAR, rtol=NEAR)


def run(
    path: Path,
    body: Callable[[EngineHandle], Awaitable[None]],
    *,
    cache: bool = True,
    pooled: PooledConfig | None = None,
    **engine: object,
) -> None:
    config = model_config(
        path,
        engine=EngineConfig(**{"prefill_chunk": 64, **engine}),  # type: ignore[arg-type]
        cache=CacheConfig() if cache else CacheConfig(max_sequences=0),
        pooled=pooled or PooledConfig(),
    )
    with_engine(config, body)


QUICK = [pytest.param(f, marks=[] if f in QUICK_FAMILIES else pytest.mark.slow) for f in FAMILIES]


@pytest.mark.parametrize("family", QUICK)
def test_all_numbers_are_those_of_the_model_by_itself_cold_and_from_the_cache(
    model: Callable[[str], Path], family: str
) -> None:
    straight = Straight(model(family))
    texts = (*TEXTS, "a long one, which takes several chunks of its own. " * 6)
    wanted = expected_scores(straight)

    async def body(handle: EngineHandle) -> None:
        ends = await asyncio.gather(*(handle.compute(embed(text)) for text in texts))
        for text, end in zip(texts, ends, strict=True):
            assert end.usage.prompt_tokens == len(text)
            assert np.abs(vectors(end)[0] - straight.vector(text.encode())).max() < NEAR, text
        cold = await handle.compute(score())
        near(logprobs(cold), wanted)
        assert cold.usage.prompt_tokens == sum(len(PROMPT) + len(c) for c in CANDIDATES)
        await settled(handle)
        warm = await handle.compute(score())
        assert warm.usage.cached_tokens == len(PROMPT) - 1
        assert logprobs(warm) == logprobs(cold)

    run(model(family), body)


@pytest.mark.parametrize("pooling", ["last", "mean", "none"])
def test_poolings_and_lengths(model: Callable[[str], Path], pooling: str) -> None:
    straight = Straight(model("qwen3"))
    long = "over several chunks, " * 12

    async def body(handle: EngineHandle) -> None:
        for text in (*TEXTS[:4], long):
            ours = vectors(await handle.compute(embed(text)))
            hidden = straight.hidden(text.encode())
            expected = {"last": hidden[-1:], "mean": hidden.mean(axis=0)[None], "none": hidden}[pooling]
            assert np.allclose(ours, expected, atol=2 * NEAR, rtol=NEAR)

    run(model("qwen3"), body, pooled=PooledConfig(pooling=pooling, normalize=False))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["qwen3", slow("qwen3_next"), slow("gemma3_text")])
def test_documents_are_ranked_by_yes_against_no_and_share_the_query(model: Callable[[str], Path], family: str) -> None:
    straight = Straight(model(family))
    documents = tuple(
        f"{index}. A bridge of stone, built in {1700 + 7 * index}. " * (1 + index % 3) for index in range(12)
    )

    async def body(handle: EngineHandle) -> None:
        pooled = (await asyncio.to_thread(lambda: handle._loads.current)).pooled  # type: ignore[union-attr]
        before, after = pooled._around("old bridges")
        assert before.startswith("<|im_start|>system\nJudge whether") and before.endswith("<Document>: ")
        assert after == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        texts = [pooled.prompts.encode(before + d + after, add_special_tokens=False).tolist() for d in documents]
        expected = [straight.chance(tokens) for tokens in texts]
        cold = await handle.compute(rerank(documents))
        assert np.allclose(values(cold), expected, atol=NEAR)
        assert cold.usage.prompt_tokens == sum(map(len, texts))
        prefix = len(pooled.prompts.encode(before, add_special_tokens=False))
        distinct = prefix + sum(len(tokens) - prefix for tokens in texts)
        queue = await settled(handle)
        assert queue["prefilled_tokens"] <= 1.05 * distinct
        warm = await handle.compute(rerank(documents))
        assert warm.usage.cached_tokens >= prefix - 1
        assert values(warm) == values(cold)
        (alone,) = values(await handle.compute(rerank(documents[3:4])))
        assert abs(alone - expected[3]) < NEAR

    run(model(family), body)


def test_documents_are_ranked_by_cosine_where_the_model_cannot_say_yes(model: Callable[[str], Path]) -> None:
    straight = Straight(model("qwen3"))

    async def body(handle: EngineHandle) -> None:
        query = straight.vector(b"old bridges")
        expected = [float(query @ straight.vector(text.encode())) for text in TEXTS]
        assert np.allclose(values(await handle.compute(rerank(TEXTS))), expected, atol=NEAR)

    run(model("qwen3"), body, pooled=PooledConfig(rerank="cosine"))


# Of plain keys and values a test over the socket says the same.
@pytest.mark.parametrize(
    "family", ["qwen3_next", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gemma3_text"))]
)
def test_beside_streams_all_are_as_they_are_alone(model: Callable[[str], Path], family: str) -> None:
    async def body(handle: EngineHandle) -> None:
        def streams() -> list[Awaitable[object]]:
            sampling = [Sampling(ignore_eos=True, temperature=float(i % 2), seed=i) for i in range(8)]
            return [read(handle, request(f"stream {i}", n=40, sampling=s)) for i, s in enumerate(sampling)]

        numbers = [embed(text) for text in TEXTS] + [score(), rerank(TEXTS[:5])]
        alone = [await read for read in streams()]
        apart = [await handle.compute(one) for one in numbers]
        running = [asyncio.ensure_future(stream) for stream in streams()]
        together = await asyncio.gather(*map(handle.compute, numbers))
        company = await asyncio.gather(*running)
        assert [a.logprobs for a in company] == [a.logprobs for a in alone]  # type: ignore[attr-defined]
        for one, other in zip(together, apart, strict=True):
            if isinstance(one.result, Vectors):
                assert np.abs(vectors(one) - vectors(other)).max() < NEAR
            else:
                assert one.result == other.result
        queue = await settled(handle)
        assert queue["live_kv_bytes"] == 0

    run(model(family), body)


def test_candidates_are_scored_from_where_their_tokens_part_from_the_prompts(tmp_path: Path) -> None:
    from tests.e2e.worker import TINY_CHAT

    straight = Straight(TINY_CHAT)
    prompt, candidates = "Once upon a ti", ("me", "me there was", "ger", " x")

    async def body(handle: EngineHandle) -> None:
        ids = [await handle.tokenize(prompt + text) for text in ("", *candidates)]
        alone, *joint = ids
        parts = [next((i for i, (a, b) in enumerate(zip(alone, t, strict=False)) if a != b), len(alone)) for t in joint]
        assert min(parts) < len(alone)  # the last letters of the prompt become part of another token
        end = await handle.compute(score(prompt, candidates))
        near(logprobs(end), [straight.logprobs(t, part) for t, part in zip(joint, parts, strict=True)])

    run(TINY_CHAT, body)


@pytest.mark.parametrize("family", QUICK_FAMILIES)
def test_a_stable_prefix_is_found_again_by_prompts_that_go_on_otherwise(
    model: Callable[[str], Path], family: str
) -> None:
    stable = PROMPT[:150]

    async def body(handle: EngineHandle) -> None:
        for index in range(3):
            ask = ScoreAsk(prompt=f"{stable}{index} and so on, at length: ", candidates=(" a", " b"), stable_bytes=150)
            end = await handle.compute(PooledRequest(request_id="s", ask=ask))
            assert end.usage.cached_tokens == (150 if index else 0)
            await settled(handle)

    run(model(family), body)


def test_tenants_do_not_share_and_strict_keeps_nothing(model: Callable[[str], Path]) -> None:
    async def apart(handle: EngineHandle) -> None:
        for tenant in ("", "a", "b"):
            assert (await handle.compute(score(tenant=tenant))).usage.cached_tokens == 0
            await settled(handle)
        assert (await handle.compute(score(tenant="b"))).usage.cached_tokens == len(PROMPT) - 1

    async def strict(handle: EngineHandle) -> None:
        ends = [await handle.compute(one) for one in (score(), score(), embed("a text"), rerank(TEXTS[:3]))]
        assert not any(end.usage.cached_tokens or end.cache_reason for end in ends)
        queue = await settled(handle)
        assert queue["live_kv_bytes"] == 0

    run(model("qwen3"), apart)
    run(model("qwen3"), strict, isolation="strict")


async def refused(handle: EngineHandle, wanted: PooledRequest) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await handle.compute(wanted)
    return caught.value


class Stopped:
    """Holds the engine's passes; `fail` makes the next one raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = 0
        self.ran = 0
        self.after: Callable[[], None] = lambda: None
        inner = Pass.run

        def faulty(one: Pass, layers: int, meanwhile: Callable[[], None] | None = None) -> None:
            inner(one, layers, meanwhile)
            self.ran += 1
            self.after()
            if self.fails:
                self.fails -= 1
                raise RuntimeError("[planted] Command buffer execution failed")

        monkeypatch.setattr(Pass, "run", faulty)


@pytest.mark.parametrize("wanted", [embed("x " * 300), score(), rerank(TEXTS)], ids=["embed", "score", "rerank"])
def test_a_failed_pass_ends_its_own_request_and_no_other(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, wanted: PooledRequest
) -> None:
    faults = Stopped(monkeypatch)

    async def body(handle: EngineHandle) -> None:
        sampling = Sampling(ignore_eos=True)
        alone = await read(handle, request("neighbour", n=60, sampling=sampling))
        good = await handle.compute(wanted)
        neighbour = asyncio.create_task(read(handle, request("neighbour", n=60, sampling=sampling)))
        faults.fails = 1
        error = await refused(handle, wanted)
        assert isinstance(error, InternalFault) and "planted" not in error.message
        assert (await handle.compute(wanted)).result == good.result
        assert (await neighbour).logprobs == alone.logprobs
        queue = await settled(handle)
        assert (queue["failed"], queue["live_kv_bytes"]) == (1, 0)

    run(model("qwen3"), body)


def test_a_client_that_leaves_a_deadline_and_a_free_end_what_runs(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = rerank(tuple(f"{index} " + "a document of some length " * 12 for index in range(400)))
    passes = Stopped(monkeypatch)

    async def begun(handle: EngineHandle, count: int) -> None:
        goal = passes.ran + count
        while passes.ran < goal:
            await asyncio.sleep(0.002)

    async def body(handle: EngineHandle) -> None:
        leaving = asyncio.create_task(handle.compute(many))
        await begun(handle, 8)
        leaving.cancel()
        await asyncio.wait([leaving])
        queue = await settled(handle)
        assert (queue["cancelled"], queue["live_kv_bytes"]) == (1, 0)
        late = rerank(many.ask.documents, deadline=handle._clock() + 0.4)  # type: ignore[union-attr]
        assert isinstance(await refused(handle, late), DeadlineExceeded)
        await settled(handle)
        freed = [asyncio.create_task(refused(handle, one)) for one in (many, many)]
        await begun(handle, 8)
        await handle.free()
        errors = await asyncio.gather(*freed)
        assert all(isinstance(error, RequestAborted) for error in errors)

    run(model("qwen3"), body)


def test_a_batch_goes_on_without_the_text_whose_client_has_left(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Stopped(monkeypatch)

    async def body(handle: EngineHandle) -> None:
        expected = [vectors(await handle.compute(embed(text))) for text in TEXTS]
        asked = [asyncio.create_task(handle.compute(embed(text))) for text in TEXTS]
        passes.after = lambda: handle._crossing.wake(asked[3].cancel)
        await asyncio.wait(asked)
        assert asked[3].cancelled() or vectors(asked[3].result()) is not None
        for index, task in enumerate(asked):
            if index != 3:
                assert np.abs(vectors(task.result()) - expected[index]).max() < NEAR
        assert (await settled(handle))["in_flight"] == 0

    run(model("qwen3"), body)


def test_what_can_never_fit_the_budget_is_refused_and_what_fits_alone_waits(model: Callable[[str], Path]) -> None:
    async def body(handle: EngineHandle) -> None:
        assert isinstance(await refused(handle, embed("x" * 3000)), Overloaded)
        assert isinstance(await refused(handle, score("p", ("y" * 3000,))), Overloaded)
        # Before anything of them ran.
        assert (await settled(handle))["prefilled_tokens"] == 0
        ends = await asyncio.gather(*(handle.compute(embed("x" * (400 + index))) for index in range(6)))
        assert len(ends) == 6

    # Two layers, keys and values, 2 heads of 16 in float32, and as much again for copies.
    run(model("qwen3"), body, kv_bytes=1536 * 512 * 2)


def test_what_the_models_own_files_say_is_done_or_refused_in_words(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "qwen3", "qwen3")
    straight = Straight(folder)
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"path": f"{i}_{kind}" if i else "", "type": f"st.models.{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    prompts = {"prompts": {"query": "Query:", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))

    async def says(handle: EngineHandle) -> None:
        ask = EmbedAsk(text="bridges", prompt_name="query")
        ours = vectors(await handle.compute(PooledRequest(request_id="e", ask=ask)))[0]
        assert np.abs(ours - straight.vector(b"Query:bridges", "mean")).max() < NEAR
        query = straight.vector(b"Query:old bridges", "mean")
        expected = [float(query @ straight.vector(text.encode(), "mean")) for text in TEXTS]
        assert np.allclose(values(await handle.compute(rerank(TEXTS))), expected, atol=NEAR)
        assert dict(handle.info().details)["embedding"] == "pooling mean, width 64, length 1"

    async def refuses(handle: EngineHandle) -> None:
        error = await refused(handle, embed("a text"))
        assert isinstance(error, Unsupported) and "Dense" in error.message
        assert "Dense" in dict(handle.info().details)["embedding"]
        assert (await handle.compute(score())).result is not None

    run(folder, says)
    (folder / "modules.json").write_text(json.dumps([*modules, {"path": "3_Dense", "type": "st.models.Dense"}]))
    run(folder, refuses)


def test_a_model_that_sleeps_wakes_up_for_an_embedding(model: Callable[[str], Path]) -> None:
    async def body(handle: EngineHandle) -> None:
        awake = vectors(await handle.compute(embed("a text")))
        while "idle" not in handle.info().details:
            await asyncio.sleep(0.02)
        assert (vectors(await handle.compute(embed("a text"))) == awake).all()

    run(model("qwen3"), body, model_idle_s=0.05)


def test_streams_wait_for_a_chunk_at_most_between_two_of_their_tokens(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, prompts, most = [0.0], [0.0], [0.0, 0.0]
    step, run_pass, put = Decoding.step, Pass.run, Chunk.put

    def counted_step(decoding: Decoding) -> None:
        most[0], most[1] = max(most[0], passes[0]), max(most[1], passes[0] + prompts[0])
        passes[0] = prompts[0] = 0.0
        step(decoding)

    def counted_pass(one: Pass, layers: int, meanwhile: Callable[[], None] | None = None) -> None:
        before = one.computed
        run_pass(one, layers, meanwhile)
        passes[0] += one.tokens * (one.computed - before) / one.layers

    def counted_put(chunk: Chunk, layers: int) -> None:
        put(chunk, layers)
        prompts[0] += chunk.tokens * min(layers, chunk.layers - chunk.computed) / chunk.layers

    monkeypatch.setattr(Decoding, "step", counted_step)
    monkeypatch.setattr(Pass, "run", counted_pass)
    monkeypatch.setattr(Chunk, "put", counted_put)

    async def body(handle: EngineHandle) -> None:
        sampling = Sampling(ignore_eos=True)
        running = [asyncio.create_task(read(handle, request(f"s {i}", n=450, sampling=sampling))) for i in range(4)]
        while handle.info().queue.get("decoding", 0) < 4:
            await asyncio.sleep(0.002)
        passes[0] = prompts[0] = 0.0
        asked = [read(handle, request(f"{i} a prompt " * 30, n=2)) for i in range(4)]
        numbers = [embed(text * 3) for text in TEXTS] + [embed("long " * 100), score(), rerank(TEXTS)]
        await asyncio.gather(*asked, *map(handle.compute, numbers))
        assert not any(task.done() for task in running)
        assert 32 < most[0] <= 64
        assert most[1] < 2 * 64
        await asyncio.gather(*running)

    run(model("qwen3"), body)


def test_codes_of_keys_and_values_score_as_they_answer_and_embed_as_numbers_do(tmp_path: Path) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3", hidden=128)
    straight = Straight(path)

    async def body(handle: EngineHandle) -> None:
        ours = vectors(await handle.compute(embed("a text " * 20)))[0]
        assert np.abs(ours - straight.vector(b"a text " * 20)).max() < NEAR
        letters = Grammar(kind="gbnf", text="root ::= [a-z]+")
        answer = await read(handle, request(PROMPT, n=6, grammar=letters))
        end = await handle.compute(score(PROMPT, (answer.text,)))
        near(logprobs(end), [[token.logprob for token in answer.logprobs]])
        # Numbers would give others.
        assert not np.allclose(logprobs(end)[0], straight.logprobs((PROMPT + answer.text).encode(), len(PROMPT)))

    run(path, body, kv_bits=4, kv_group_size=32)


def test_long_tails_over_codes_run_in_pieces_that_bound_their_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    inner = Pass.__init__

    def noted(one: Pass, *args: Any, **options: Any) -> None:
        inner(one, *args, **options)
        passes.append(one.tokens)

    monkeypatch.setattr(Pass, "__init__", noted)
    # Four heads in float32: 32 queries of 400 keys, and no 64.
    monkeypatch.setattr(device_share, "MOST_SCORE_BYTES", 16 * 40 * 400)

    async def body(handle: EngineHandle) -> None:
        await handle.compute(score(PROMPT, ("a candidate of some length " * 8,)))
        assert passes and max(passes) <= 40

    run(write_model(tmp_path / "qwen3", "qwen3", hidden=128), body, kv_bits=4, kv_group_size=32)


def test_a_template_without_a_system_message_asks_in_one(model: Callable[[str], Path]) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    path = model("qwen3")

    async def body(handle: EngineHandle) -> None:
        assert len(values(await handle.compute(rerank(TEXTS[:2])))) == 2

    with_engine(model_config(path, chat_template=template), body)
    hiding = template.replace("{{ m.content }}", "hidden")

    async def refuses(handle: EngineHandle) -> None:
        assert isinstance(await refused(handle, rerank(TEXTS[:2])), Unsupported)

    with_engine(model_config(path, chat_template=hiding), refuses)


def test_what_goes_back_to_the_queue_begins_anew_and_is_the_same(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, squeezes = MemoryBudget.fits, [0]

    def squeezed(budget: MemoryBudget, live: int) -> bool:
        caller = sys._getframe(1)
        if squeezes[0] and caller.f_code.co_name == "relieved" and len(caller.f_locals["self"].pooled.rows) > 1:
            squeezes[0] -= 1
            return False
        return fits(budget, live)

    monkeypatch.setattr(MemoryBudget, "fits", squeezed)
    numbers = [embed("a text " * 40), rerank(TEXTS), score(), embed("another text " * 30)]

    async def body(handle: EngineHandle) -> None:
        alone = [await handle.compute(one) for one in numbers]
        squeezes[0] = 6
        together = await asyncio.gather(*map(handle.compute, numbers))
        queue = await settled(handle)
        assert not squeezes[0] and queue["preemptions"] == 6 and queue["live_kv_bytes"] == 0
        for one, other in zip(together, alone, strict=True):
            assert one.result == other.result

    run(model("qwen3"), body)


def test_special_tokens_at_the_end_are_embedded_and_not_scored(tmp_path: Path) -> None:
    path = write_model(tmp_path / "qwen3", "qwen3")
    straight, end_token = Straight(path), 256
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    special = {"id": "<|endoftext|>", "ids": [end_token], "tokens": ["<|endoftext|>"]}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, end, {"Sequence": {"id": "B", "type_id": 1}}, end],
        "special_tokens": {"<|endoftext|>": special},
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))

    async def body(handle: EngineHandle) -> None:
        made = await handle.compute(embed("a text"))
        assert made.usage.prompt_tokens == 7
        assert np.abs(vectors(made)[0] - straight.vector([*b"a text", end_token])).max() < NEAR
        near(logprobs(await handle.compute(score())), expected_scores(straight))

    run(path, body)


def test_vectors_that_no_reply_holds_are_refused_before_they_are_made(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "MOST_FLOATS", 640)

    async def body(handle: EngineHandle) -> None:
        assert vectors(await handle.compute(embed("x" * 10))).shape == (10, 64)
        error = await refused(handle, embed("x" * 11))
        assert isinstance(error, InvalidRequest) and "at most 10" in error.message

    run(model("qwen3"), body, pooled=PooledConfig(pooling="none"))


def test_a_prompt_that_no_candidate_leaves_alone_is_refused(model: Callable[[str], Path]) -> None:
    async def body(handle: EngineHandle) -> None:
        error = await refused(handle, score("", (" a",)))
        assert isinstance(error, InvalidRequest) and error.field == "prompt"
        assert len(logprobs(await handle.compute(score("a", (" b",))))[0]) == 2

    run(model("qwen3"), body)


def wait_for(event: threading.Event) -> None:
    assert event.wait(60)


def test_a_higher_priority_goes_before_and_takes_the_place_of_what_runs(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Stopped(monkeypatch)

    async def body(handle: EngineHandle) -> None:
        expected = await handle.compute(rerank(TEXTS))
        ended: list[str] = []

        async def ask(name: str, wanted: PooledRequest) -> Finished:
            end = await handle.compute(wanted)
            ended.append(name)
            return end

        # The first pass ends when the others are there.
        there, put = threading.Event(), Inbox.put
        passes.after = functools.partial(wait_for, there)
        low = asyncio.create_task(ask("low", rerank(TEXTS)))
        ran = passes.ran
        while passes.ran == ran:
            await asyncio.sleep(0.001)
        submitted: list[object] = []

        def counted(inbox: Inbox, command: Any) -> bool:
            submitted.append(command)
            return put(inbox, command)

        monkeypatch.setattr(Inbox, "put", counted)
        waiting = asyncio.create_task(ask("waiting", embed("it waits")))
        while len(submitted) < 1:
            await asyncio.sleep(0.001)
        high = asyncio.create_task(ask("high", score(priority=5)))
        while len(submitted) < 2:
            await asyncio.sleep(0.001)
        there.set()
        await asyncio.gather(low, waiting, high)
        assert ended[0] == "high"
        assert low.result().result == expected.result
        assert (await settled(handle))["preemptions"] >= 1

    run(model("qwen3"), body, max_rows=1)


def test_a_score_takes_its_prompt_from_the_disk(model: Callable[[str], Path], tmp_path: Path) -> None:
    config = model_config(model("qwen3"), cache=CacheConfig(directory=str(tmp_path / "kv")))

    async def body(handle: EngineHandle) -> Finished:
        return await handle.compute(score())

    cold, later = with_engine(config, body), with_engine(config, body)
    assert (cold.usage.cached_tokens, later.usage.cached_tokens) == (0, len(PROMPT) - 1)
    assert (later.cache_reason, later.result) == ("disk", cold.result)
