"""Codes go to a disk and back as they are: what a later process answers is what this one would from memory."""

from pathlib import Path
from typing import Any

import pytest

from backend.config import CacheConfig, EngineConfig
from backend.core.request import Sampling
from backend.engine.handle import EngineHandle
from tests import chosen
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.models import write_model

START = 400
COMMON: dict[str, Any] = {"kv_group_size": 32, "prefill_chunk": 128}
WAYS: dict[str, tuple[dict[str, Any], int | None]] = {
    "from the first token": ({"kv_bits": 8}, None),
    "from a length on": ({"kv_bits": 8, "quantized_kv_start": START}, None),
    "at rest": ({}, 4),
}
NUMBERS = "as numbers"
BELOW = "A letter that was read once is kept for whoever asks. " * 5
ABOVE = "The archive holds what three centuries have written to each other. " * 12
MORE = "And what was read again goes on from where it ended. " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "qwen3", "qwen3", extra={"head_dim": 32})


def process(model: Path, directory: Path, way: str, *texts: str) -> list[Answer]:
    """A process's life: these prompts one after the other, each stored, and all of it written at the end."""
    options, at_rest = WAYS.get(way, ({}, None))

    async def body(handle: EngineHandle) -> list[Answer]:
        assert handle.info().details["prompt_cache_disk"] == "on"
        answers = [await read(handle, request(text, n=6, sampling=Sampling(ignore_eos=True))) for text in texts]
        await settled(handle)
        return answers

    engine = EngineConfig(sampler=chosen.sampler, **COMMON, **options)  # type: ignore[arg-type]
    cache = CacheConfig(directory=str(directory), kv_bits=at_rest)
    return with_engine(model_config(model, engine=engine, cache=cache), body)


def kv_files(directory: Path) -> dict[Path, int]:
    """Bytes of each, below the directory: the first folder is the namespace's."""
    return {path.relative_to(directory / "v1"): path.stat().st_size for path in directory.glob("v1/*/*/*.kv")}


def cached(answer: Answer) -> int:
    assert answer.error is None and answer.end is not None
    return answer.end.usage.cached_tokens


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if WAYS[way][1] is None else ()) for way in WAYS]
)
def test_a_later_process_answers_as_this_one_would(model: Path, tmp_path: Path, way: str) -> None:
    kept = process(model, tmp_path / "kv", way, BELOW, ABOVE, BELOW, ABOVE)
    later = process(model, tmp_path / "kv", way, BELOW, ABOVE, BELOW, ABOVE)
    for answers in (kept[2:], later[:2], later[2:]):
        assert [cached(answer) for answer in answers] == [len(BELOW) - 1, len(ABOVE) - 1]
        assert [answer.logprobs for answer in answers] == [answer.logprobs for answer in kept[2:]]


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if WAYS[way][1] is None else ()) for way in WAYS]
)
def test_what_goes_on_from_a_disk_is_kept_whole(model: Path, tmp_path: Path, way: str) -> None:
    process(model, tmp_path / "kv", way, ABOVE)
    grown, here = process(model, tmp_path / "kv", way, ABOVE + MORE, ABOVE + MORE)
    (later,) = process(model, tmp_path / "kv", way, ABOVE + MORE)
    assert len(ABOVE) - 1 <= cached(grown) <= len(ABOVE) + 6
    assert (cached(here), cached(later)) == (len(ABOVE + MORE) - 1, len(ABOVE + MORE) - 1)
    assert later.logprobs == here.logprobs


def test_codes_on_a_disk_serve_nothing_that_a_cold_run_holds_as_numbers(model: Path, tmp_path: Path) -> None:
    way = "from a length on"
    process(model, tmp_path / "kv", way, ABOVE)
    short = ABOVE[: START - 20]
    (cold,) = process(model, tmp_path / "other", way, short)
    (asked,) = process(model, tmp_path / "kv", way, short)
    assert cached(asked) == 0
    assert asked.logprobs == cold.logprobs


def test_codes_at_rest_have_files_of_their_own_that_take_a_share_of_the_bytes(model: Path, tmp_path: Path) -> None:
    process(model, tmp_path / "kv", NUMBERS, ABOVE)
    numbers = kv_files(tmp_path / "kv")
    (asked,) = process(model, tmp_path / "kv", "at rest", ABOVE)
    assert cached(asked) == 0
    codes = {path: size for path, size in kv_files(tmp_path / "kv").items() if path not in numbers}
    assert not {path.parts[0] for path in codes} & {path.parts[0] for path in numbers}
    assert len(codes) == len(numbers) > 0
    pages = 4096 * len(codes)
    share = (sum(codes.values()) - pages) / (sum(numbers.values()) - pages)
    # Codes of 4 bits, a scale and a bias for each 32, of numbers of 32 bits; scales are float32 on a CPU.
    assert share == pytest.approx((4 + 2 * 32 / 32) / 32, rel=0.01)
