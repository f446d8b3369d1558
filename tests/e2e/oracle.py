"""What must hold after every fault and after every test: the worker is as good as new."""

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import finish, prompt, running, stream
from tests.e2e.worker import PATIENCE_SECONDS, Worker, wait_until
from tests.observed import UNNAMED

GOLDEN_PROMPT = "Once upon a time"
# Asked after each test, so few; a token that is wrong in one place is followed by wrong ones.
GOLDEN_TOKENS = 5
GREEDY = prompt(GOLDEN_PROMPT, GOLDEN_TOKENS, Logprobs=1)
SAMPLED = prompt(GOLDEN_PROMPT, 2 * GOLDEN_TOKENS, Logprobs=1, IgnoreEOS=True, Temperature=1.0, Seed=11)
NEIGHBOUR = prompt(GOLDEN_PROMPT, 150, Logprobs=1, IgnoreEOS=True, Temperature=1.0, Seed=12)
CHAT = pb.PredictOptions(Messages=[pb.Message(role="user", content="hello")])
HEALTH_SECONDS = 0.25
# gRPC's own threads come and go with its load; how many descriptors a test's own channels hold is known.
# Of the further processes that render, which begin when conversations come at once: two to be answered, one to be told
# its tokens.
RENDERER_PIPES = 4
RENDERERS = 2
POOLS = ("event_engine", "grpc_global_tim", "lifeguard", "resolver_executor", "timer_manager")
POOL_ROOM = 48
# MLX's own, for each thread that reads or writes a disk, from its first file on.
OF_A_DISK = 3
# What MLX holds beside weights and KV are a few scalars.
SCALAR_BYTES = 16 << 10
# As the prompt cache's files and names are called while they are written, and what Python's tempfile makes.
HALF_WRITTEN = (".tmp*", "*.tmp", "tmp*")

Said = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class Golden:
    """A worker at rest: what it answers and what it holds.

    Attributes:
        greedy, sampled, neighbour: Token ids and text of the golden prompts; the last is long.
        folder: Where the worker may write; nothing half written may stay there.
    """

    greedy: Said
    sampled: Said
    neighbour: Said
    threads: Counter[str]
    descriptors: Counter[str]
    children: int
    folder: Path | None

    @classmethod
    def of(cls, worker: Worker, folder: Path | None = None) -> "Golden":
        """Warm the worker up and look at it; the golden model must be loaded."""
        greedy, sampled, neighbour = (_ask(worker, request) for request in (GREEDY, SAMPLED, NEIGHBOUR))
        # Each kind of call once, so that every thread and pipe that a model may have exists.
        stream(worker.stub, prompt(GOLDEN_PROMPT, 2, Grammar='root ::= "yes"'))
        worker.stub.TokenizeString(CHAT, timeout=30)
        worker.wait_for_queue(_idle)
        held = _own_threads(worker), worker.descriptors(), _children(worker)
        return cls(greedy, sampled, neighbour, *held, folder)

    @contextmanager
    def beside(self, worker: Worker) -> Generator[None]:
        """A neighbour that has begun before what happens meanwhile, goes on beside it, and must be exact."""
        with running(worker.stub, NEIGHBOUR) as (call,):
            yield
            answer = finish(call)
        assert answer.code is grpc.StatusCode.OK, answer.details
        # The first reply was read when the neighbour began.
        assert (tuple(answer.tokens), self.neighbour[1].endswith(answer.text)) == (self.neighbour[0], True), "neighbour"

    def glance(self, worker: Worker) -> None:
        """Assert what costs next to nothing: it lives, all requests come to an end, and the log is sound."""
        assert worker.process.poll() is None, "\n".join(worker.log.lines[-20:])
        worker.wait_for_queue(lambda queue: queue.get("in_flight", 0) == 0)
        check_log(worker)

    def check(self, worker: Worker, patience: float = PATIENCE_SECONDS) -> None:
        """Assert that the worker is as it was, whatever happened meanwhile.

        Args:
            patience: Seconds that what comes to rest by itself may take for it, each.
        """
        assert worker.process.poll() is None, "\n".join(worker.log.lines[-20:])
        _check_health(worker)
        worker.must_load()
        assert _ask(worker, GREEDY) == self.greedy, "greedy"
        assert _ask(worker, SAMPLED) == self.sampled, "sampled"
        drawn = stream(worker.stub, prompt(GOLDEN_PROMPT, 2, Temperature=1.0, Metadata={"seed": "random"}))
        assert drawn.code is grpc.StatusCode.OK, drawn.details
        worker.stub.TokenizeString(CHAT, timeout=30)
        worker.wait_for_queue(_idle, 3 * patience)
        self._check_held(worker, patience)
        check_log(worker)

    def _check_held(self, worker: Worker, patience: float) -> None:
        worker.rest()
        # Once: what is told goes on to be true though nobody asks the engine anything.
        worker.prompt_cache.Clear(pb.ClearPromptCacheRequest(everything=True), timeout=30)
        wait_until(lambda: _bytes_beside_weights(worker) <= SCALAR_BYTES, "bytes of MLX", patience)
        wait_until(
            lambda: (_own_threads(worker) - self.threads).total() <= OF_A_DISK, f"threads at {self.threads}", patience
        )
        wait_until(
            lambda: (worker.descriptors() - self.descriptors).total() <= RENDERER_PIPES,
            f"descriptors at {self.descriptors}",
            patience,
        )
        wait_until(lambda: _children(worker) <= self.children + RENDERERS, f"{self.children} children", patience)
        wait_until(lambda: not half_written(self.folder), "nothing half written", patience)


@contextmanager
def as_good_as_new(worker: Worker, folder: Path | None = None) -> Generator[Golden]:
    """Look at the worker before what happens inside, whatever is loaded for it, and check it afterwards."""
    worker.must_load()
    golden = Golden.of(worker, folder)
    yield golden
    golden.check(worker)


def check_log(worker: Worker) -> None:
    """No traceback anywhere, and every line is one event of ours."""
    foreign = [line for line in worker.log.lines if not line.startswith(("time=", "mlx-worker: "))]
    assert not foreign, foreign
    assert not any("Traceback" in line for line in worker.log.lines), "traceback"


def half_written(folder: Path | None) -> list[Path]:
    """Files that a writer has begun under a name of their own and not finished."""
    return sorted({path for pattern in HALF_WRITTEN for path in folder.rglob(pattern)}) if folder else []


def mostly_quick(waits: Sequence[float], within: float, limit: float = HEALTH_SECONDS) -> bool:
    """Whether waits over the limit are less than half of the time in which one was made after another.

    A busy machine makes some long; a loop that is held up hardly does anything else.
    """
    return 2 * sum(wait for wait in waits if wait > limit) < within


def _check_health(worker: Worker) -> None:
    best = HEALTH_SECONDS
    for _ in range(8):  # the machine that runs tests may be busy with others
        if best < HEALTH_SECONDS:
            break
        started = time.monotonic()
        assert worker.stub.Health(pb.HealthMessage(), timeout=60).message == b"OK"
        best = min(best, time.monotonic() - started)
    assert best < HEALTH_SECONDS, "Health"


def _ask(worker: Worker, request: pb.PredictOptions) -> Said:
    answer = stream(worker.stub, request)
    assert answer.last.tokens == request.Tokens, answer.details
    return tuple(answer.tokens), answer.text


def _bytes_beside_weights(worker: Worker) -> int:
    """Bytes in MLX arrays that are not the model's own."""
    used = worker.stub.Status(pb.HealthMessage(), timeout=60).memory.breakdown
    return used["mlx_active"] - used["weights"]


def _idle(queue: Mapping[str, float]) -> bool:
    return all(queue[name] == 0 for name in ("in_flight", "waiting", "prefilling", "decoding", "live_kv_bytes"))


def _own_threads(worker: Worker) -> Counter[str]:
    """Without gRPC's; where threads have no names, what is beyond a room for those."""
    if UNNAMED in (threads := worker.threads()):
        return Counter({UNNAMED: max(0, threads[UNNAMED] - POOL_ROOM)})
    return Counter({name: count for name, count in worker.threads().items() if name not in POOLS})


def _children(worker: Worker) -> int:
    return len(psutil.Process(worker.pid).children(recursive=True))
