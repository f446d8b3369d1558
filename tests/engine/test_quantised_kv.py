"""Rows that hold codes: answers depend neither on company, nor on chunks, nor on what the prompt cache had."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from backend.config import CacheConfig, EngineConfig
from backend.core.errors import ModelLoadFailed
from backend.core.events import Delta
from backend.core.request import Sampling
from backend.engine.handle import EngineHandle
from tests.engine.harness import NO_CACHE, Answer, model_config, read, request, settled, with_engine
from tests.engine.test_cached_exactness import WITHIN as WITHIN_COLD
from tests.engine.test_cached_exactness import differences
from tests.engine.test_exactness import CHUNK, assert_same, schedule, together
from tests.models import write_model
from tests.rounding import LEAST, tolerance

# Heads of 64 features, which groups of 64 divide.
WIDE = {"head_dim": 64}
KV8, KV4, KV4_32 = ({"kv_bits": bits, "kv_group_size": group} for bits, group in ((8, 64), (4, 64), (4, 32)))
slow = pytest.mark.slow


def codes(start: int = 0, **options: Any) -> dict[str, int]:
    return options | {"quantized_kv_start": start}


@pytest.mark.parametrize(
    ("family", "sampler", "kv"),
    [
        ("qwen3_next", "device", KV4),
        pytest.param("llama", "host", KV8, marks=slow),
        pytest.param("qwen3", "device", codes(60, **KV4_32), marks=slow),
        pytest.param("qwen3_moe", "host", KV4_32, marks=slow),
        pytest.param("falcon_h1", "host", codes(60, **KV8), marks=slow),
        pytest.param("gemma3_text", "host", KV4, marks=slow),
    ],
)
def test_answers_in_a_crowd_equal_answers_alone(
    family: str, sampler: str, kv: Mapping[str, int], tmp_path: Path
) -> None:
    path = write_model(tmp_path / family, family, extra=WIDE)
    engine = EngineConfig(prefill_chunk=CHUNK, max_rows=6, sampler=sampler, **kv)  # type: ignore[arg-type]
    wanted = schedule(3, 10)

    async def body(handle: EngineHandle) -> tuple[list[Answer], list[Answer], float]:
        crowd = await together(handle, wanted, 5)
        queue = handle.info().queue
        alone = [await read(handle, item) for item in wanted]
        return crowd, alone, queue["generated_tokens"] / queue["decode_steps"]

    crowd, alone, rows_a_step = with_engine(model_config(path, engine=engine), body)
    assert rows_a_step > 1.3
    assert all(answer.error is None for answer in (*crowd, *alone))
    for ours, theirs in zip(crowd, alone, strict=True):
        assert_same(ours, theirs, tolerance(family))


@pytest.mark.parametrize(
    ("family", "sampler", "kv"),
    [
        pytest.param("llama", "host", KV4_32, marks=slow),
        pytest.param("llama", "device", codes(150, **KV8), marks=slow),
        pytest.param("qwen3_next", "host", codes(150, **KV4), marks=slow),
        pytest.param("falcon_h1", "device", KV4_32, marks=slow),
        pytest.param("gemma3_text", "host", KV8, marks=slow),
    ],
)
def test_conversations_over_a_small_cache_answer_as_if_cold(
    family: str, sampler: str, kv: Mapping[str, int], tmp_path: Path
) -> None:
    worst, share = differences(family, tmp_path, sampler=sampler, budget=400_000, clients=3, turns=5, extra=WIDE, **kv)
    assert max(worst) <= tolerance(family, WITHIN_COLD)
    assert share > 0.1, "nothing was reused: the test shows nothing"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "llama", "llama", extra=WIDE)


def answers(path: Path, texts: list[str], engine: EngineConfig, cache: CacheConfig = NO_CACHE) -> list[Answer]:
    """One after the other."""

    async def body(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, request(text)) for text in texts]

    return with_engine(model_config(path, engine=engine, cache=cache), body)


TEXTS = ["a", "It begins with forty characters or so. ", "The rivers of the north. " * 6]


@pytest.mark.parametrize("start", [pytest.param(0, marks=slow), 50])
def test_answers_do_not_depend_on_the_size_of_chunks(llama: Path, start: int) -> None:
    small, large = (
        answers(llama, TEXTS, EngineConfig(prefill_chunk=chunk, **codes(start, **KV4))) for chunk in (16, 512)
    )
    for ours, theirs in zip(small, large, strict=True):
        assert_same(ours, theirs, LEAST)


# The second prompt comes to the length while it decodes, the third in the middle of a chunk.
@pytest.mark.parametrize("sampler", ["host", "device"])
def test_a_row_that_comes_to_the_start_goes_on_as_mlx_lm_does(llama: Path, sampler: str) -> None:
    start = 50  # mlx-lm quantises at the end of a chunk; here a chunk ends for it
    engine = EngineConfig(prefill_chunk=512, sampler=sampler, **codes(start, **KV8))  # type: ignore[arg-type]
    model, _ = load_model(llama)
    for text, ours in zip(TEXTS, answers(llama, TEXTS, engine), strict=True):
        prompt = mx.array([ord(character) for character in text])
        steps = generate_step(
            prompt, model, max_tokens=16, prefill_step_size=start, kv_bits=8, kv_group_size=64, quantized_kv_start=start
        )
        theirs = [(token, logprobs[token].item()) for token, logprobs in steps]
        assert ours.tokens == [token for token, _ in theirs][: len(ours.tokens)]
        assert len(ours.tokens) == 16
        for entry, (_, logprob) in zip(ours.logprobs, theirs, strict=True):
            assert entry.logprob == pytest.approx(logprob, abs=2e-5)


PROMPT = "".join(chr(97 + (7 * place * place + place // 5) % 26) for place in range(200))


def bytes_of(path: Path, *, cached: bool, dtype: str, engine: EngineConfig) -> tuple[float, int]:
    """KV of 200 tokens and more, in one block of 256, live or cached: as counted, and as the process's memory grows."""
    cache = CacheConfig() if cached else NO_CACHE

    async def body(handle: EngineHandle) -> tuple[float, int]:
        await read(handle, request("warm", n=4))
        await settled(handle)
        before, kind = mx.get_active_memory(), "cached_kv_bytes" if cached else "live_kv_bytes"
        held = handle.info().queue["cached_kv_bytes"]
        stream = await handle.submit(request(PROMPT, n=50, sampling=Sampling(ignore_eos=True)))
        counted, floor = 0.0, 1 << 62
        async for event in stream:
            # A step that runs holds more: what is there in all of them is the KV.
            if not cached and isinstance(event, Delta):
                taken = mx.get_active_memory()
                queue = handle.info().queue
                if queue["decoding"]:
                    counted, floor = queue[kind], min(floor, taken)
        if cached:
            queue = await settled(handle)
            counted, floor = queue[kind] - held, mx.get_active_memory()
        return counted, floor - before

    return with_engine(model_config(path, engine=engine, cache=cache, dtype=dtype), body)


@slow
@pytest.mark.parametrize("cached", [False, True])
def test_four_bits_take_a_third_of_the_bytes_of_sixteen(llama: Path, cached: bool) -> None:
    counted, grown = bytes_of(llama, cached=cached, dtype="float16", engine=EngineConfig())
    assert grown == pytest.approx(counted, rel=0.1)
    for kv, share in ((KV4, 0.281), (KV4_32, 0.313)):
        fewer, grew = bytes_of(llama, cached=cached, dtype="float16", engine=EngineConfig(**kv))
        assert fewer / counted == pytest.approx(share, abs=0.02)
        assert grew / grown == pytest.approx(share, abs=0.03)
        assert fewer / counted <= 0.32


REFUSED = {
    "mamba2": "no layer of the model keeps every token",
    "gpt_oss": "attention with sinks has no quantised form",
    "gemma2": "computes attention by itself",
    "deepseek_v3": "latent attention",
    "qwen3": "kv_group_size 64 does not divide a head's size of 16",
}


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_cannot_hold_codes_is_refused_in_words(family: str, tmp_path: Path) -> None:
    from tests.architectures import catalogue
    from tests.models import write_checkpoint, write_tokenizer

    path = tmp_path / family
    config = catalogue.config(family) | ({} if family == "qwen3" else WIDE)
    if family == "deepseek_v3":
        config |= {"kv_lora_rank": 128, "qk_rope_head_dim": 64, "hidden_size": 64}
    write_checkpoint(path, config)
    write_tokenizer(path, config["vocab_size"])
    with pytest.raises(ModelLoadFailed, match=f"^kv_bits: {family} .*{REFUSED[family]}"):
        with_engine(model_config(path, engine=EngineConfig(kv_bits=8)), settled)


def test_a_device_that_has_no_product_with_codes_is_told_apart_from_the_model(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(x: mx.array, *_: object, **__: object) -> mx.array:
        # As MLX says it on an NVIDIA GPU.
        raise RuntimeError(f"[quantized_matmul] No implementation for problem shape: {x.shape}, transpose: true.")

    monkeypatch.setattr(mx, "quantized_matmul", refused)
    with pytest.raises(ModelLoadFailed, match=r"^kv_bits: .*MLX has no product with codes in these shapes"):
        with_engine(model_config(llama, engine=EngineConfig(**KV8)), settled)


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        (KV8, {"max_kv_size": 64}, "kv_bits: does not go with max_kv_size"),
        (KV8, {"cache": CacheConfig(kv_bits=4)}, "cache_kv_bits: does not go with kv_bits"),
        ({"kv_bits": 3}, {}, "kv_bits: must be 4 or 8, is 3"),
        ({"kv_group_size": 16}, {}, "kv_group_size: must be 32 or 64, is 16"),
        ({"quantized_kv_start": -1}, {}, "quantized_kv_start: must not be negative"),
        ({}, {"cache": CacheConfig(kv_bits=5)}, "cache_kv_bits: must be 4 or 8, is 5"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_words(
    llama: Path, engine: dict[str, int], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelLoadFailed, match=f"^{words}"):
        with_engine(model_config(llama, engine=EngineConfig(**engine), **options), settled)


def test_info_says_how_keys_and_values_are_held(llama: Path) -> None:
    async def body(handle: EngineHandle) -> Mapping[str, str]:
        return handle.info().details

    live = with_engine(model_config(llama, engine=EngineConfig(**codes(9, **KV4_32))), body)
    assert [live[name] for name in ("kv_bits", "kv_group_size", "quantized_kv_start")] == ["4", "32", "9"]
    stored = with_engine(model_config(llama, cache=CacheConfig(kv_bits=8)), body)
    assert (stored["cache_kv_bits"], stored["kv_group_size"], "kv_bits" in stored) == ("8", "64", False)
