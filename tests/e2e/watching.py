"""A process of its own that watches a worker: how long Health takes, and how long a neighbour's stream pauses.

    python -m tests.e2e.watching ADDRESS [alone]

It runs until its input ends, then prints what it saw as JSON. Health is asked every 5 ms, and the time counts from
when it was meant to be asked, so that a stall shows in every question that fell into it. Alone it has no neighbour.
"""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import grpc

from backend.pb import backend_pb2 as pb
from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.worker import ROOT

EVERY_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Seen:
    """What the watcher saw.

    Attributes:
        health: Seconds of each Health.
        due: When each was meant to be asked, by the machine's `perf_counter`, which all processes share.
        gaps: Seconds between each two pieces of the neighbour's stream, if there is one.
    """

    health: list[float]
    due: list[float]
    gaps: list[float]

    def during(self, begin: float, end: float) -> list[float]:
        """Seconds of the Healths that were asked, or not yet answered, in this time of `perf_counter`."""
        return [took for due, took in zip(self.due, self.health, strict=True) if due < end and due + took > begin]

    def p99(self) -> float:
        """The time that 99 of 100 Healths did not exceed."""
        return sorted(self.health)[int(0.99 * (len(self.health) - 1))]


class Watch:
    """Watches from entering to leaving; `seen` is there afterwards."""

    def __init__(self, address: str, *, neighbour: bool = True) -> None:
        self._command = [sys.executable, "-m", "tests.e2e.watching", address, *([] if neighbour else ["alone"])]
        self.seen = Seen([], [], [])

    def __enter__(self) -> "Watch":
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "watching\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        output, _ = self._process.communicate("", timeout=60)
        self.seen = Seen(**json.loads(output))


def main(address: str, alone: str = "") -> None:
    """Watch until the input ends."""
    over = threading.Event()
    gaps: list[float] = []
    began = threading.Event()
    with grpc.insecure_channel(address) as channel:
        stub = rpc.BackendStub(channel)
        neighbour = threading.Thread(target=_read, args=(stub, over, gaps, began))
        if not alone:
            neighbour.start()
            began.wait(60)
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        sys.stdout.write("watching\n")
        sys.stdout.flush()
        due, health = _ask(stub, over)
        if not alone:
            neighbour.join()
    sys.stdout.write(json.dumps({"health": health, "due": due, "gaps": gaps}))


def _ask(stub: rpc.BackendStub, over: threading.Event) -> tuple[list[float], list[float]]:
    meant: list[float] = []
    took: list[float] = []
    due = time.perf_counter()
    while not over.wait(max(0.0, due - time.perf_counter())):
        stub.Health(pb.HealthMessage(), timeout=120)
        meant.append(due)
        took.append(time.perf_counter() - due)
        due += EVERY_SECONDS
    return meant, took


def _read(stub: rpc.BackendStub, over: threading.Event, gaps: list[float], began: threading.Event) -> None:
    request = pb.PredictOptions(Prompt="Once upon a time", Tokens=4000, IgnoreEOS=True, PromptCacheRO=True)
    while not over.is_set():
        call = stub.PredictStream(request, timeout=120)
        last: float | None = None  # until the first piece: before it are the queue and the prefill
        for _ in call:
            now = time.perf_counter()
            if last is not None:
                gaps.append(now - last)
            last = now
            began.set()
            if over.is_set():
                call.cancel()
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
