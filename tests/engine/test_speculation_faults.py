"""A pass that fails costs the rows of its own batch their answers, and nobody else anything."""

import asyncio
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from backend.config import ALL_DRAFTERS, CacheConfig, EngineConfig
from backend.core.errors import InternalFault
from backend.core.request import GenerationRequest, Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.batch_device import DeviceBatch
from backend.engine.batching.batch_host import HostBatch
from backend.engine.batching.speculating import Speculating
from backend.engine.batching.verification import Draw
from backend.engine.handle import EngineHandle
from backend.engine.kv.going_back import Pass
from tests.engine.faulty import FaultyModel
from tests.engine.harness import Answer, model_config, read, request, settled, with_engine
from tests.engine.test_quantised_kv import WIDE
from tests.engine.test_speculation import Oracle
from tests.models import write_model

BATCHES = {"host": HostBatch, "device": DeviceBatch}
# Two layers, keys and values, 2 heads of 16 in float32.
BYTES_PER_TOKEN = 512
START = 96
QUICK = (("device", "draw"),)
CASES = [
    pytest.param(kind, fault, marks=() if (kind, fault) in QUICK else pytest.mark.slow)
    for kind in BATCHES
    for fault in ("model", "draw", "replay")
]


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """Plans whatever engine runs, once it knows the answers."""
    made = Oracle(5)
    monkeypatch.setattr(Speculating, "plan", lambda self, rows, *, spare: made.plan(rows) if made.known else None)
    return made


class Planted(Exception):
    """What the tests raise where a device would."""


def plant(fault: str, batch: type[DecodeBatch], model: FaultyModel, patched: pytest.MonkeyPatch, *, rows: int) -> None:
    """One failure in a pass over so many rows: as it begins, between two of its draws, or as a state is replayed."""
    if fault == "model":
        model.arm_where(lambda: Planted("planted"), lambda shape: shape[0] == rows and shape[1] > 1)
    elif fault == "replay":
        keep = Pass.keep

        def armed(self: Pass, kept: list[int]) -> None:
            if len(kept) == rows and min(kept) < self.width:
                patched.setattr(Pass, "keep", keep)
                model.arm_where(lambda: Planted("planted"), lambda shape: True)
            keep(self, kept)

        patched.setattr(Pass, "keep", armed)
    else:
        draw_from: Any = batch._draw_from

        def broken(self: DecodeBatch, *given: Any) -> tuple[Draw, list[mx.array]]:
            draw, drawn = draw_from(self, *given)

            def failing(place: int, *rest: Any) -> Any:
                if place and len(self) == rows:
                    patched.setattr(batch, "_draw_from", draw_from)
                    raise Planted("planted")
                return draw(place, *rest)

            return failing, drawn

        patched.setattr(batch, "_draw_from", broken)


def alone(path: Path, wanted: list[GenerationRequest], engine: EngineConfig) -> list[Answer]:
    """What each is answered with nobody else there, and nothing cached."""

    async def body(handle: EngineHandle) -> list[Answer]:
        return [await read(handle, item) for item in wanted]

    return with_engine(model_config(path, engine=engine), body)


@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_failed_pass_fails_its_batch_and_stores_nothing_of_it(
    kind: str, fault: str, tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = "mamba2" if fault == "replay" else "qwen3"
    path, model = write_model(tmp_path / family, family), FaultyModel()
    engine = EngineConfig(max_rows=3, prefill_chunk=32, sampler=kind)  # type: ignore[arg-type]
    drawn = Sampling(temperature=1.0, seed=7, ignore_eos=True)
    wanted = [request(f"{i} goes on and on", n=80, name=f"r{i}", sampling=drawn) for i in range(3)]
    late = request("the next in the queue", n=20, name="late", sampling=drawn)
    answers = alone(path, [*wanted, late], engine)
    oracle.learn([*wanted, late], answers)

    async def body(handle: EngineHandle) -> None:
        plant(fault, BATCHES[kind], model, monkeypatch, rows=3)
        running = [asyncio.create_task(read(handle, item)) for item in wanted]
        while handle.info().queue["requests"] < len(wanted):
            await asyncio.sleep(0.001)
        queued = await read(handle, late)
        lost = await asyncio.gather(*running)
        assert all(isinstance(answer.error, InternalFault) for answer in lost)
        assert all("planted" not in str(answer.error) for answer in lost)
        # What their clients have had was right.
        assert fault == "model" or any(answer.text for answer in lost)
        for answer, whole in zip(lost, answers, strict=False):
            assert whole.text.startswith(answer.text)
        assert queued.logprobs == answers[-1].logprobs
        queue = await settled(handle)
        assert queue["live_kv_bytes"] == 0 and queue["failed"] == 3
        if family == "qwen3":
            prompts = sum(len(str(item.prompt)) - 1 for item in wanted)
            whole = len(str(late.prompt)) + len(queued.logprobs)
            assert 0 <= queue["cached_kv_bytes"] / BYTES_PER_TOKEN - prompts <= whole
        again = await asyncio.gather(*(read(handle, item) for item in wanted))
        assert [answer.logprobs for answer in again] == [answer.logprobs for answer in answers[:3]]

    config = model_config(path, engine=engine, cache=CacheConfig(), drafters=ALL_DRAFTERS)
    with_engine(config, body, load=model.load)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["host", "device"])
def test_another_batch_goes_on_where_a_pass_fails(
    kind: str, tmp_path: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows below a length hold numbers and rows above it codes: they never go together."""
    path, model = write_model(tmp_path / "llama", "llama", extra=WIDE), FaultyModel()
    engine = EngineConfig(
        prefill_chunk=32,
        sampler=kind,
        kv_bits=8,
        kv_group_size=64,
        quantized_kv_start=START,  # type: ignore[arg-type]
    )
    short = [request(f"{i} a", n=40, name=f"s{i}", sampling=Sampling(ignore_eos=True)) for i in range(3)]
    long = [request(f"{i} b" * START, n=40, name=f"l{i}", sampling=Sampling(ignore_eos=True)) for i in range(2)]
    answers = alone(path, [*short, *long], engine)
    oracle.learn([*short, *long], answers)

    async def body(handle: EngineHandle) -> None:
        plant("model", BATCHES[kind], model, monkeypatch, rows=3)
        ended = await asyncio.gather(*(read(handle, item) for item in (*long, *short)))
        assert all(isinstance(answer.error, InternalFault) for answer in ended[2:])
        assert [answer.logprobs for answer in ended[:2]] == [answer.logprobs for answer in answers[3:]]

    config = model_config(path, engine=engine, cache=CacheConfig(), drafters=ALL_DRAFTERS)
    with_engine(config, body, load=model.load)
