"""What texts cost beside the model's work: passes, waits and launches, counted, and what the host does meanwhile."""

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from backend.check.counting import Counts, counting, launches_of
from backend.config import EngineConfig, PooledConfig
from backend.core.pooled import EmbedAsk, PooledRequest, Pooling, Relevances, RerankAsk, ScoreAsk, Scores, Vectors
from backend.engine import waits
from backend.engine.batching import assembly
from backend.engine.batching.finishing import Finisher
from backend.engine.batching.pooled.passing import Pass
from backend.engine.batching.pooled.shapes import Shapes
from backend.engine.handle import EngineHandle
from tests.engine.faulty_device import spoil
from tests.engine.harness import model_config, with_engine
from tests.models import write_model
from tests.straight import Straight, with_yes_and_no
from tests.tiers import slow

NEAR = 1e-5


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")


def texts(count: int, least: int, most: int) -> list[bytes]:
    """Lengths spread evenly over their logarithms; one byte is one token."""
    draw = random.Random(7)
    lengths = [round(least * (most / least) ** draw.random()) for _ in range(count)]
    return [f"{index} bridges and rivers ".encode().ljust(most, b"x")[:length] for index, length in enumerate(lengths)]


async def embedded(handle: EngineHandle, wanted: list[bytes]) -> list[np.ndarray]:
    """The vectors of texts that have all come before the first of them runs."""
    held, free = threading.Event(), threading.Event()

    def hold(_session: object) -> None:
        held.set()
        free.wait(60)

    holding = asyncio.create_task(handle.with_session(hold))
    await asyncio.to_thread(held.wait, 60)
    asked = [
        asyncio.create_task(handle.compute(PooledRequest(request_id=f"{n}", ask=EmbedAsk(tokens=tuple(text)))))
        for n, text in enumerate(wanted)
    ]
    while len(handle._inbox._commands) < len(wanted):
        await asyncio.sleep(0.001)
    free.set()
    ends = [end.result for end in await asyncio.gather(*asked)]
    await holding
    return [np.frombuffer(end.data, "<f4").reshape(end.count, end.dim) for end in ends if isinstance(end, Vectors)]


def run(
    path: Path, wanted: list[bytes], *, pooling: Pooling = "last", chunk: int = 0
) -> tuple[list[np.ndarray], Counts]:
    """The vectors, and what they took."""

    async def body(handle: EngineHandle) -> tuple[list[np.ndarray], Counts]:
        await embedded(handle, wanted[:1])
        with counting() as counted:
            return await embedded(handle, wanted), counted

    engine = EngineConfig(max_rows=128, prefill_chunk=chunk or None)
    return with_engine(model_config(path, engine=engine, pooled=PooledConfig(pooling=pooling)), body)


@pytest.fixture(autouse=True)
def _uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, no pass is cut for time, and no call ends for it."""
    monkeypatch.setitem(assembly.SLICE_SECONDS, "cpu", 1e6)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Of each: rows, columns, launches."""
    made: list[tuple[int, int, int]] = []
    inner = Pass.__init__

    def noted(one: Pass, forward: Any, caches: Any, tokens: Any, **options: Any) -> None:
        inner(one, forward, caches, tokens, **options)
        made.append((*tokens.shape, launches_of(forward(mx.array(tokens), cache=None)).total()))

    monkeypatch.setattr(Pass, "__init__", noted)
    return made


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_hundred_short_texts_take_a_few_passes_each_of_one_wait_and_the_models_launches(
    path: Path, passes: list[tuple[int, int, int]], pooling: Pooling
) -> None:
    wanted = texts(100, 8, 32)
    vectors, counts = run(path, wanted, pooling=pooling)
    straight = Straight(path)
    for text, vector in zip(wanted, vectors, strict=True):
        assert np.abs(vector[0] - straight.vector(text, pooling)).max() < NEAR
    ran = passes[1:]
    assert len(ran) <= 8
    # A pass of a size that has not been seen begins with one layer, to see how long that takes.
    assert counts.waits <= len(ran) + 4
    assert counts.launches.total() <= sum(launches for _, _, launches in ran) + 6 * len(ran)
    assert sum(rows * columns for rows, columns, _ in ran) <= 1.25 * sum(map(len, wanted))


def test_texts_of_any_length_have_few_shapes_where_each_is_dear_and_the_same_vectors(
    path: Path, passes: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Shapes.of
    monkeypatch.setattr(Shapes, "of", lambda _kind, **sizes: of("cuda", **sizes))
    wanted = texts(40, 4, 400)
    straight = Straight(path)
    # One of three chunks, of which only the last may be padded.
    long = [b"over several chunks, " * 12]
    for some, chunk in ((long, 100), (wanted, 0)):
        vectors, _ = run(path, some, chunk=chunk)
        for text, vector in zip(some, vectors, strict=True):
            assert np.abs(vector[0] - straight.vector(text)).max() < NEAR
    assert len({shape[:2] for shape in passes}) <= 14 < len({len(text) for text in wanted})


async def ranked(handle: EngineHandle) -> tuple[list[float], list[list[float]]]:
    documents = tuple(f"{index}. A bridge of stone. " + "It is old. " * (index % 9) for index in range(24))
    ranks = (
        await handle.compute(PooledRequest(request_id="r", ask=RerankAsk(query="bridges", documents=documents)))
    ).result
    scores = (
        await handle.compute(PooledRequest(request_id="s", ask=ScoreAsk(prompt="old ", candidates=documents)))
    ).result
    assert isinstance(ranks, Relevances) and isinstance(scores, Scores)
    return list(ranks.values), [[token.logprob for token in tokens] for tokens in scores.candidates]


@pytest.mark.parametrize("family", ["qwen3", slow("qwen3_next")])
def test_tails_of_any_length_have_few_shapes_there_and_the_same_numbers(
    tmp_path: Path, passes: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    config = model_config(with_yes_and_no(write_model(tmp_path / family, family)), pooled=PooledConfig(rerank="yes_no"))
    ranks, scores = with_engine(config, ranked)
    of, before = Shapes.of, {shape[:2] for shape in passes}
    monkeypatch.setattr(Shapes, "of", lambda _kind, **sizes: of("cuda", **sizes))
    passes.clear()
    others = with_engine(config, ranked)
    assert np.allclose(others[0], ranks, atol=NEAR)
    for one, other in zip(others[1], scores, strict=True):
        assert np.allclose(one, other, atol=NEAR, rtol=NEAR)
    # A state that cannot be cut back takes no padding.
    after = {shape[:2] for shape in passes}
    assert len(after) <= 10 < len(before) if family == "qwen3" else after == before


class Host:
    """What the host does, in order, and whether a pass runs meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[str, bool]] = []
        self.runs = self.fails = self.failed = False
        put, evaluate, make, compute = waits.put, waits.evaluate, Pass.__init__, Finisher.compute

        def putting(*arrays: Any) -> None:
            put(*arrays)
            self.runs = True

        def waiting(*arrays: Any) -> None:
            evaluate(*arrays)
            self.runs = False
            if self.failed:
                self.failed = False
                spoil(arrays)

        def making(one: Pass, *args: Any, **options: Any) -> None:
            self.told.append(("made", self.runs))
            if self.runs and self.fails:
                self.fails, self.failed = False, True
                raise RuntimeError("[planted] Command buffer execution failed")
            make(one, *args, **options)

        def computing(one: Finisher, *args: Any) -> None:
            self.told.append(("ended", self.runs))
            compute(one, *args)

        monkeypatch.setattr(waits, "put", putting)
        monkeypatch.setattr(waits, "evaluate", waiting)
        monkeypatch.setattr(Pass, "__init__", making)
        monkeypatch.setattr(Finisher, "compute", computing)

    def share(self, what: str) -> float:
        """Of what was done, as much as was done while a pass ran."""
        found = [runs for name, runs in self.told if name == what]
        return sum(found) / len(found)


def answers(path: Path, wanted: list[bytes], host: Host) -> list[np.ndarray]:
    """The vectors twice; `host` has what was done the second time, when passes of every size are known and not cut."""

    async def body(handle: EngineHandle) -> list[np.ndarray]:
        first = await embedded(handle, wanted)
        host.told.clear()
        return first + await embedded(handle, wanted)

    config = model_config(path, engine=EngineConfig(max_rows=128), pooled=PooledConfig(pooling="last"))
    return with_engine(config, body)


def test_while_a_pass_runs_the_rows_before_it_end_and_the_next_one_is_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(monkeypatch)
    # Of lengths that do not go together: five passes, four of them in one call.
    wanted = [b"x" * length for length in (10, 10, 60, 60, 110, 110, 200, 60, 10)]
    answers(path, wanted, host)
    assert host.share("made") >= 0.5
    assert host.share("ended") >= 0.5


def test_what_ran_while_the_next_graph_failed_runs_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may wait in the middle of its graph, and be told there of what runs."""
    wanted = [b"x" * length for length in (10, 10, 60, 60, 110, 110, 200)]
    straight, host = Straight(path), Host(monkeypatch)
    host.fails = True
    vectors = answers(path, wanted, host)
    assert not host.fails and not host.failed
    for text, vector in zip(wanted * 2, vectors, strict=True):
        assert np.abs(vector[0] - straight.vector(text)).max() < NEAR
    # From then on nothing is made ahead.
    assert host.share("made") == 0
