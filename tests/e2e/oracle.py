"""What must hold after every fault and after every test: the worker is as good as new."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, prompt, stream
from tests.e2e.worker import Worker, wait_until
from tests.observed import UNNAMED

GOLDEN_PROMPT = "Once upon a time"
# Asked after each test, so few; a token that is wrong in one place is followed by wrong ones.
GOLDEN_TOKENS = 5
HEALTH_SECONDS = 0.25
# gRPC's own threads come and go with its load; how many descriptors a test's own channels hold is known.
# Threads of pools that begin when work comes together: two that translate, four that prepare.
POOLED = 6
# Of the second process that renders, which begins when two conversations come at once.
RENDERER_PIPES = 2
POOLS = ("event_engine", "grpc_global_tim", "lifeguard", "resolver_executor", "timer_manager")
POOL_ROOM = 48


@dataclass(frozen=True, slots=True)
class Golden:
    """A worker at rest: what it answers and what it holds."""

    tokens: tuple[int, ...]
    text: str
    threads: Counter[str]
    descriptors: Counter[str]

    @classmethod
    def of(cls, worker: Worker) -> "Golden":
        """Warm the worker up and look at it; the golden model must be loaded."""
        golden = _ask(worker)
        # Each kind of call once, so that every thread and pipe that a model may have exists.
        stream(worker.stub, prompt(GOLDEN_PROMPT, 2, Grammar='root ::= "yes"'))
        worker.stub.TokenizeString(pb.PredictOptions(Messages=[pb.Message(role="user", content="hello")]), timeout=30)
        worker.wait_for_queue(_idle)
        return cls(tuple(golden.tokens), golden.text, _own_threads(worker), worker.descriptors())

    def check(self, worker: Worker) -> None:
        """Assert that the worker is as it was, whatever happened meanwhile."""
        assert worker.process.poll() is None, "\n".join(worker.log.lines[-20:])
        _check_health(worker)
        worker.must_load()
        golden = _ask(worker)
        assert (tuple(golden.tokens), golden.text) == (self.tokens, self.text)
        sampled = stream(worker.stub, prompt(GOLDEN_PROMPT, 2, Temperature=1.0, Metadata={"seed": "random"}))
        assert sampled.code is grpc.StatusCode.OK, sampled.details
        worker.wait_for_queue(_idle)
        worker.stub.TokenizeString(pb.PredictOptions(Messages=[pb.Message(role="user", content="hello")]), timeout=30)
        wait_until(lambda: (_own_threads(worker) - self.threads).total() <= POOLED, f"threads at {self.threads}")
        wait_until(
            lambda: (worker.descriptors() - self.descriptors).total() <= RENDERER_PIPES,
            f"descriptors at {self.descriptors}",
        )
        check_log(worker)


def check_log(worker: Worker) -> None:
    """No traceback anywhere, and every line is one event of ours."""
    foreign = [line for line in worker.log.lines if not line.startswith(("time=", "mlx-worker: "))]
    assert not foreign, foreign
    assert not any("Traceback" in line for line in worker.log.lines)


def _check_health(worker: Worker) -> None:
    best = HEALTH_SECONDS
    for _ in range(3):  # the machine that runs tests may be busy with others
        started = time.monotonic()
        assert worker.stub.Health(pb.HealthMessage(), timeout=10).message == b"OK"
        best = min(best, time.monotonic() - started)
    assert best < HEALTH_SECONDS


def _ask(worker: Worker) -> Answer:
    answer = stream(worker.stub, prompt(GOLDEN_PROMPT, GOLDEN_TOKENS, Logprobs=1))
    assert answer.last.tokens == GOLDEN_TOKENS, answer.details
    return answer


def _idle(queue: Mapping[str, float]) -> bool:
    return all(queue[name] == 0 for name in ("in_flight", "waiting", "prefilling", "decoding", "live_kv_bytes"))


def _own_threads(worker: Worker) -> Counter[str]:
    """Without gRPC's; where threads have no names, what is beyond a room for those."""
    if UNNAMED in (threads := worker.threads()):
        return Counter({UNNAMED: max(0, threads[UNNAMED] - POOL_ROOM)})
    return Counter({name: count for name, count in worker.threads().items() if name not in POOLS})
