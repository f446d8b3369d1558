"""A batch of decoding rows, driven directly with a real model."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from backend.core.request import Sampling
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.batch_device import DeviceBatch
from backend.engine.batching.batch_host import HostBatch
from backend.engine.batching.chunk import Chunk
from backend.engine.batching.row import Row
from backend.engine.batching.standing import Standing
from backend.engine.inbox import Submit
from backend.engine.loading import LoadedModel, load_model
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.row_sampling import RowSampling
from backend.engine.sampling.sampled import RowLogprobs
from tests.engine.harness import model_config
from tests.models import QUICK_FAMILIES, write_model
from tests.rounding import tolerance

# A wrapped window is summed in another order alone than in company.
# The sliding window of the tests' models wraps at 64.
PROMPTS = (70, 90, 20)
Steps = dict[int, list[tuple[int, RowLogprobs | None]]]


def new_batch(loaded: LoadedModel, sampler: str) -> DecodeBatch:
    if sampler == "host":
        return HostBatch(loaded.model, HostSampler(), mergeable=True)
    return DeviceBatch(loaded.model, DeviceSampler(), mergeable=True)


def prefilled(loaded: LoadedModel, index: int) -> Row:
    tokens = np.random.default_rng(index).integers(1, 250, PROMPTS[index]).astype(np.int32)
    sampling = RowSampling(Sampling(temperature=0.7, seed=index), prompt=tokens, eos_ids=loaded.eos_ids, top_logprobs=3)
    # Of a submitted request a batch knows the sampling alone.
    row = Row(cast(Submit, None), sampling, tokens, Standing.of(0.0, 0), caches=loaded.new_cache())
    assert row.caches is not None
    chunk = Chunk(loaded.model, row.caches, tokens[:-1], cuttable=False)
    chunk.put(chunk.layers)
    chunk.wait()
    row.covered, row.last_token = len(tokens) - 1, int(tokens[-1])
    return row


def run(batch: DecodeBatch, rows: list[Row], steps: int, seen: Steps) -> None:
    for _ in range(steps):
        for item in batch.step():
            seen.setdefault(rows.index(item.row), []).append((item.token, item.logprobs))


@pytest.mark.parametrize("sampler", ["host", "device"])
@pytest.mark.parametrize("family", QUICK_FAMILIES)
def test_a_row_that_is_left_alone_goes_on_as_one_that_always_was(family: str, sampler: str, tmp_path: Path) -> None:
    loaded = load_model(model_config(write_model(tmp_path / family, family)))
    crowd, seen = new_batch(loaded, sampler), Steps()
    rows = [prefilled(loaded, index) for index in range(3)]
    crowd.join(rows)
    run(crowd, rows, 6, seen)
    crowd.leave([rows[1]])
    assert crowd._merged
    run(crowd, rows, 3, seen)
    crowd.leave([rows[0]])
    assert not crowd._merged
    run(crowd, rows, 9, seen)
    # And takes company again.
    late = prefilled(loaded, 0)
    crowd.join([late])
    assert crowd._merged
    run(crowd, [*rows, late], 4, seen)
    for index in range(3):
        alone, theirs = new_batch(loaded, sampler), Steps()
        row = prefilled(loaded, index)
        alone.join([row])
        run(alone, [row], len(seen[index]) + 1, theirs)
        assert len(seen[index]) > 3
        for (token, ours), (other, logprobs) in zip(seen[index], theirs[0], strict=False):
            assert token == other
            assert ours is not None and logprobs is not None
            difference = np.abs(np.array(ours.top) - np.array(logprobs.top)).max()
            assert difference <= tolerance(family)
