"""An hour's worth of schedules: random operations on two ranks, with errors and losses; no hang, no wrong answer."""

import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from backend.pb import backend_pb2 as pb
from backend.process.exit_codes import ExitCode
from tests.e2e.asking import Answer, predict, prompt, running, stream
from tests.e2e.worker import Worker
from tests.models import write_model
from tests.ranks.world import Ranks

log = logging.getLogger(__name__)

OPERATIONS = 500
AT_ONCE = 6
WITHIN = 10.0
LONG = "the quick brown fox jumps over the lazy dog "
# What a request may end with where a model goes, or a planted error meets it.
GONE = {grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL}
KINDS = {
    "join": 40, "stream": 15, "cancel": 15, "deadline": 8, "leave": 5, "load": 2, "free": 1, "bad_load": 1, "error": 4,
    "error_elsewhere": 1, "kill": 1,
}  # fmt: skip


def requests() -> list[pb.PredictOptions]:
    """What is asked again and again: prompts that share beginnings, stop strings, seeds, a grammar."""
    made = [prompt(f"{LONG * times}{place}", 8 + place) for place, times in enumerate((0, 1, 5, 5, 20, 20, 60))]
    made += [prompt("a seed", 20, Temperature=1.0, Seed=seed) for seed in (1, 2)]
    made.append(prompt("a choice", 12, Grammar='root ::= "yes" | "no"'))
    made.append(prompt(LONG * 3, 24, StopPrompts=["e", "a"]))
    for request in made:
        request.Logprobs = 1
    return made


@dataclass(slots=True)
class Soak:
    """One run; its ranks are started anew when they have ended."""

    folder: Path
    models: list[Path]
    right: list[list[Answer]]
    random: random.Random
    ranks: Ranks
    orders: list[Path]
    done: Counter[str] = field(default_factory=Counter[str])
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])

    def start(self) -> None:
        """Begin, or begin again."""
        self.ranks.__enter__()
        assert self.ranks.load(self.models[0], "memory_share:0.3").success

    def run(self, operations: int) -> None:
        """Run so many operations, some at a time."""
        kinds = self.random.choices(list(KINDS), weights=list(KINDS.values()), k=operations)
        with ThreadPoolExecutor(AT_ONCE) as crowd:
            going: set[Future[None]] = set()
            for kind in kinds:
                self.done[kind] += 1
                if kind in ("error_elsewhere", "kill"):
                    self._settle(going)
                    self._lose_all(crowd, kind)
                    continue
                going.add(crowd.submit(getattr(self, f"_{kind}"), self.random.random()))
                if len(going) >= AT_ONCE:
                    finished, going = wait(going, timeout=120, return_when="FIRST_COMPLETED")
                    assert finished, f"nothing has ended for two minutes: {self.done}"
                    for one in finished:
                        one.result()
            self._settle(going)

    def _settle(self, going: "set[Future[None]]") -> None:
        finished, late = wait(going, timeout=120)
        assert not late, f"hangs: {self.done}"
        going.clear()
        for one in finished:
            one.result()

    def _check(self, number: int, answer: Answer) -> None:
        if answer.code in GONE:
            self.failed[answer.code.name] += 1
            return
        assert answer.code is grpc.StatusCode.OK, (answer.code, answer.details)
        expected = {(right[number].text, tuple(right[number].tokens)) for right in self.right}
        assert (answer.text, tuple(answer.tokens)) in expected
        self.answered += 1

    def _any(self, drawn: float) -> tuple[int, pb.PredictOptions]:
        asked = requests()
        number = int(drawn * len(asked))
        return number, asked[number]

    def _join(self, drawn: float) -> None:
        number, request = self._any(drawn)
        self._check(number, self._patiently(predict, request))

    def _stream(self, drawn: float) -> None:
        number, request = self._any(drawn)
        self._check(number, self._patiently(stream, request))

    def _patiently(self, ask: Callable[..., Answer], request: pb.PredictOptions) -> Answer:
        """Ask again while there is no model."""
        until = time.monotonic() + 30
        while True:
            answer = ask(self.ranks.worker.stub, request)
            if answer.code is not grpc.StatusCode.FAILED_PRECONDITION or time.monotonic() > until:
                return answer
            time.sleep(0.1)

    def _cancel(self, drawn: float) -> None:
        try:
            with running(self.ranks.worker.stub, prompt(LONG * int(60 * drawn), 400), begun=drawn < 0.5):
                time.sleep(drawn / 5)
        except (grpc.RpcError, StopIteration):
            pass  # the model has gone meanwhile

    def _leave(self, drawn: float) -> None:
        predict(self.ranks.worker.stub, prompt(LONG, 400), seconds=0.05 + drawn / 3)

    def _deadline(self, drawn: float) -> None:
        answer = predict(self.ranks.worker.stub, prompt(LONG * 4, 3000), seconds=0.05 + drawn)
        assert answer.code in GONE | {grpc.StatusCode.DEADLINE_EXCEEDED}, answer.code

    def _load(self, drawn: float) -> None:
        result = self.ranks.load(self.models[int(drawn * 2)], "memory_share:0.3")
        assert result.success or "cancelled" in result.message or "planted" in result.message, result.message

    def _free(self, drawn: float) -> None:
        self.ranks.worker.stub.Free(pb.HealthMessage(), timeout=60)
        self._load(drawn)

    def _bad_load(self, drawn: float) -> None:
        option = "kv_bits:8" if drawn < 0.5 else "ranks:pipeline"
        assert not self.ranks.load(self.models[0], option).success
        self._load(drawn)

    def _error(self, drawn: float) -> None:
        self.orders[0].write_text(str(1 + int(drawn * 30)))

    def _lose_all(self, crowd: ThreadPoolExecutor, kind: str) -> None:
        """Lose a rank while others are asked; both end, and two new ones go on."""
        asked = [crowd.submit(predict, self.ranks.worker.stub, prompt(LONG * 10, 3000), 60) for _ in range(3)]
        self.ranks.worker.wait_for_queue(lambda queue: queue["decoding"] > 0)
        at, lost = time.monotonic(), 1 if kind == "error_elsewhere" else self.random.randrange(2)
        if kind == "kill":
            self.ranks.end(lost)
        else:
            self.orders[1].write_text("20")
            at += 5
        codes = [self.ranks.ended(rank, WITHIN + 5) for rank in (0, 1)]
        assert time.monotonic() - at < WITHIN
        assert codes[0] == (ExitCode.ENGINE_DEAD if lost else -signal.SIGKILL)
        assert codes[1] == (ExitCode.RANK_LOST if not (lost and kind == "kill") else -signal.SIGKILL)
        assert all(one.result(60).code is not grpc.StatusCode.OK for one in asked)
        self.ranks.worker.expected_code = self.ranks.worker.process.returncode
        self.ranks.__exit__(None, None, None)
        for orders in self.orders:
            orders.unlink(missing_ok=True)
        self.ranks = self._new()
        self.start()

    def _new(self) -> Ranks:
        return new_ranks(self.folder, self.orders)


def new_ranks(folder: Path, orders: list[Path]) -> Ranks:
    """Two ranks whose waits fail on order."""
    commands = {rank: ("-m", "tests.ranks.faulty_rank", str(file)) for rank, file in enumerate(orders)}
    return Ranks(folder, 2, commands=commands)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_random_operations_neither_hang_nor_change_an_answer(tmp_path: Path) -> None:
    models = [write_model(tmp_path / f"model{seed}", "qwen3", layers=2, seed=seed) for seed in (0, 1)]
    right: list[list[Answer]] = []
    with Worker() as alone:
        for model in models:
            alone.must_load(model, "speculation:off")
            right.append([predict(alone.stub, request) for request in requests()])
    orders = [tmp_path / f"orders{rank}" for rank in range(2)]
    soak = Soak(tmp_path, models, right, random.Random(20), new_ranks(tmp_path, orders), orders)
    soak.start()
    began = time.monotonic()
    try:
        soak.run(OPERATIONS)
    except BaseException as error:
        soak.ranks.__exit__(type(error), error, None)
        for rank, told in soak.ranks.logs.items():
            error.add_note("\n".join([f"rank {rank}", *told.lines[-30:]]))
        raise
    soak.ranks.worker.rest()
    soak.ranks.__exit__(None, None, None)
    seconds = time.monotonic() - began
    log.info("%s answered=%d failed=%s seconds=%.0f", soak.done, soak.answered, soak.failed, seconds)
    assert soak.answered > OPERATIONS / 4
