"""How long slices are, by a clock that the test moves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from backend.core.request import Sampling
from backend.engine.batching.cache_disk import CacheDisk
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.conversations import Conversations
from backend.engine.batching.pace import ALONE, Pace
from backend.engine.batching.prefills import Prefills
from backend.engine.batching.prefix_cache import PrefixCache
from backend.engine.batching.row import Row
from backend.engine.batching.scheduler import chunk_ends
from backend.engine.batching.standing import Standing
from backend.engine.batching.tenant_store import TenantStore
from backend.engine.inbox import Submit
from backend.engine.loading import load_model
from backend.engine.picture import Counters
from backend.engine.sampling.row_sampling import RowSampling
from mlx_cache import PromptCache
from tests.engine.harness import model_config
from tests.models import write_model

LAYERS = 8
CHUNK = 32
A_LAYER = 0.1


@pytest.mark.parametrize("where", ["put", "wait"])
@pytest.mark.parametrize(("streams", "layers"), [(True, 2), (False, 2 * ALONE)])
def test_a_slice_is_what_fits_the_time_wherever_the_time_goes(
    where: str, streams: bool, layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(model_config(write_model(tmp_path / "qwen3", "qwen3", layers=LAYERS)))
    now, slices = 0.0, list[int]()
    put, wait = Chunk.put, Chunk.wait

    def slow_put(chunk: Chunk, count: int) -> None:
        nonlocal now
        put(chunk, count)
        slices.append(chunk._put - chunk.computed)
        now += A_LAYER * slices[-1] * (where == "put")

    def slow_wait(chunk: Chunk) -> None:
        nonlocal now
        now += A_LAYER * slices[-1] * (where == "wait")
        wait(chunk)

    monkeypatch.setattr(Chunk, "put", slow_put)
    monkeypatch.setattr(Chunk, "wait", slow_wait)

    def meanwhile() -> None:
        nonlocal now
        now += 10 * A_LAYER  # a step of the streams, which is waited for before the slice

    def fail(_: Any, error: BaseException) -> None:
        raise error

    prefills = Prefills(
        model=loaded.model,
        new_cache=loaded.new_cache,
        prefix=PrefixCache(
            TenantStore(PromptCache(0), "key", CacheDisk("", "", lambda: None, lambda: 0.0)),
            snapshots=False,
            conversations=Conversations(idle_s=None, most=1),
        ),
        chunk=CHUNK,
        pace=Pace(0.25),
        counters=Counters(),
        clock=lambda: now,
        on_error=fail,
        settle=lambda: prefills.wait(),  # noqa: PLW0108 - it is not there yet
        meanwhile=meanwhile,
        distrust=lambda: None,
    )
    tokens = np.arange(1, 4 * CHUNK + 2, dtype=np.int32)
    submit = cast(
        Submit,
        SimpleNamespace(request=SimpleNamespace(cache_read_only=True, request_id="r", tenant="", prefill_only=False)),
    )
    sampling = RowSampling(Sampling(), prompt=tokens, eos_ids=loaded.eos_ids, top_logprobs=None)
    row = Row(submit, sampling, tokens, Standing.of(0.0, 0))
    row.chunk_ends = chunk_ends(len(tokens), CHUNK, ())
    prefills.admit(row)
    steps: list[int] = []
    while not row.prefilled:
        before = len(slices)
        prefills.run(streams=streams)
        steps.append(sum(slices[before:]))
    assert sum(slices) == 4 * LAYERS
    # Once it is known how long a layer takes.
    assert max(steps[3:]) <= layers
    assert steps[3:].count(min(layers, LAYERS)) >= len(steps[3:]) - 1
