"""With OpenBLAS the number of rows in a product changes roundings: what of the equality is left, and no less."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.asking import Answer, read
from tests.e2e.test_families import in_a_crowd, schedule
from tests.e2e.worker import CHANNEL_OPTIONS, Worker

WITHIN = 1e-4
# A draw flips when two candidates' noisy scores are nearer than the rounding: rare, and no error of ours.
FLIPPED_DRAWS = 4


def entries(answer: Answer) -> list[dict[str, Any]]:
    """Logprobs of each token; an answer that ended at once has none."""
    assert answer.code is grpc.StatusCode.OK
    return answer.logprobs if answer.last.logprobs else []


def first_difference(crowd: Answer, alone: Answer) -> int | None:
    """The first token that differs, None if none does; logprobs up to there are within the bound."""
    for index, (ours, theirs) in enumerate(zip(entries(crowd), entries(alone), strict=False)):
        if ours["id"] != theirs["id"]:
            return index
        assert abs(ours["logprob"] - theirs["logprob"]) <= WITHIN
    assert len(entries(crowd)) == len(entries(alone))
    return None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is nothing to choose")
def test_with_openblas_answers_agree_but_for_roundings(random_model: Callable[..., Path]) -> None:
    wanted = schedule(3)

    async def ask(worker: Worker) -> tuple[list[Answer], list[Answer]]:
        async with grpc.aio.insecure_channel(worker.address, options=CHANNEL_OPTIONS) as channel:
            stub = rpc.BackendStub(channel)
            return await in_a_crowd(stub, wanted, 5), [await read(stub, request) for request in wanted]

    with Worker("--blas", "auto") as worker:
        worker.must_load(random_model("qwen3"), "prompt_cache_size:0", "prefill_chunk:32", "max_rows:8")
        if "OpenBLAS" not in worker.info.Get(pb.InfoRequest(), timeout=60).blas:
            pytest.skip("OpenBLAS is not installed on this machine: nothing was compared")
        crowd, alone = asyncio.run(ask(worker))
    flipped = 0
    for request, ours, theirs in zip(wanted, crowd, alone, strict=True):
        index = first_difference(ours, theirs)
        if index is None:
            continue
        if request.Temperature == 0.0 and request.Penalty in (0.0, 1.0) and not request.PresencePenalty:
            best, second = (entry["logprob"] for entry in theirs.logprobs[index]["top_logprobs"][:2])
            assert best - second <= WITHIN
        flipped += 1
    assert flipped <= FLIPPED_DRAWS
