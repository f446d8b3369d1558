"""What a container does to the worker: limits on memory and processes, a host or a worker that is process 1."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil
import pytest

from backend.pb import backend_pb2 as pb
from backend.pb.backend_pb2_grpc import BackendStub
from tests.e2e.asking import chat, finish, prompt, running, stream
from tests.e2e.cgroups import group
from tests.e2e.oracle import Golden
from tests.e2e.unsteady import child
from tests.e2e.worker import ROOT, TINY_CHAT, Worker, wait_until
from tests.grammar.dear import optional_properties
from tests.observed import is_running

STORY = "Once upon a time"
HELD = prompt(STORY, 3, Grammar='root ::= "yes"')
# In no other test: what was tried before needs no process.
NEW = prompt(STORY, 3, Grammar='root ::= "nobody"')
OK, INTERNAL, EXHAUSTED = grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED

pytestmark = pytest.mark.skipif(not psutil.LINUX, reason="containers are Linux's")


def test_a_container_that_allows_no_more_processes_and_threads(
    worker: Worker, standing_worker: tuple[Worker, Golden]
) -> None:
    """Native threads too. Nobody is told that it is their fault."""
    stream(worker.stub, HELD)
    expected = stream(worker.stub, chat(STORY, 3)).text
    with group("pids", f"pids-{worker.pid}") as limited:
        limited.add(worker.pid, *(one.pid for one in psutil.Process(worker.pid).children()))
        with standing_worker[1].beside(worker):
            limited.limit(limited.number("pids.current"))
            stream(worker.stub, NEW).refused(EXHAUSTED, "no room")
            stream(worker.stub, chat(STORY, 3)).refused(INTERNAL, "template cannot be rendered")
            for _ in range(5):
                with grpc.insecure_channel(worker.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
                    assert BackendStub(channel).Health(pb.HealthMessage(), timeout=60).message == b"OK"
            limited.limit("max")
        assert stream(worker.stub, chat(STORY, 3)).text == expected
        assert "nobody".startswith(stream(worker.stub, NEW).text)


class Contained(Worker):
    """A worker that is in a group before it begins."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(*arguments)
        enter = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
        self._command = ["/bin/sh", "-c", enter, str(folder), *self._command]


@pytest.mark.slow
def test_a_container_that_is_out_of_memory_ends_the_worker_and_not_what_it_has_stored(tmp_path: Path) -> None:
    """The system kills it. It had taken no more than its limit for its budget; the next one serves what it stored."""
    options = ("--prompt-cache-dir", str(tmp_path / "kv"))
    request = prompt(f"{STORY} " * 40, 8, Logprobs=1, IgnoreEOS=True)
    with group("memory", f"memory-{os.getpid()}") as limited:
        limited.limit(1 << 30)
        killed = Contained(limited.folder, *options)
        with killed as worker:
            worker.must_load()
            memory = worker.stub.Status(pb.HealthMessage(), timeout=60).memory
            assert worker.queue()["kv_budget_bytes"] < 1 << 30, memory
            expected = stream(worker.stub, request)
            stream(worker.stub, request)  # a hit is what is written at once
            wait_until(lambda: bool(list((tmp_path / "kv").rglob("*"))), "something stored")
            time.sleep(1)
            with running(worker.stub, *[prompt(f"{n}", 8000, IgnoreEOS=True) for n in range(3)]) as calls:
                limited.limit(limited.number("memory.usage_in_bytes", "memory.current") + (8 << 20))
                # Each is parsed and encoded, on threads of its own, into some times its size.
                long = [worker.stub.TokenizeString.future(prompt("wo rd " * 2_000_000), timeout=60) for _ in range(6)]
                ends = {finish(call).code for call in (*calls,)}
                for call in long:
                    call.cancel()
            worker.expected_code = worker.wait(60)
            assert worker.expected_code == -signal.SIGKILL
            assert ends == {grpc.StatusCode.UNAVAILABLE}
    with Worker(*options) as worker:
        worker.must_load()
        golden = Golden.of(worker, tmp_path / "kv")
        assert stream(worker.stub, request).last.logprobs == expected.last.logprobs
        golden.check(worker)


# Process 1

APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture(scope="module")
def apart() -> tuple[str, ...]:
    """A command that runs another as process 1."""
    if shutil.which("unshare") is None or subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("no namespace of processes can be made")
    return APART


class First(Worker):
    """A worker that is process 1, as where a container runs nothing else."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments)
        self._command = [*APART, *self._command]

    @property
    def pid(self) -> int:
        """As seen from out here."""
        return psutil.Process(self.process.pid).children()[0].pid

    def signal(self, number: int) -> None:
        """To the worker: what stands before it passes none on."""
        psutil.Process(self.pid).send_signal(number)


def zombies(pid: int) -> list[psutil.Process]:
    """Children that have ended and that nobody has waited for."""
    return [one for one in psutil.Process(pid).children() if one.status() == psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_worker_that_is_process_1_reaps_what_it_inherits_and_ends_by_a_signal(apart: object) -> None:
    """Grammars are tried in children of a child; killed with it, they become process 1's to wait for."""
    with First() as worker:
        worker.must_load()
        stream(worker.stub, HELD)
        dear = prompt(STORY, 3, Metadata={"json_schema": optional_properties(5_000)})
        for index in range(3):
            stream(worker.stub, prompt(STORY, 3, Grammar=f'root ::= "{index}"'))
            trial = child(worker, "trial_process")
            with running(worker.stub, dear, begun=False, seconds=30) as (call,):
                wait_until(lambda trial=trial: bool(trial.children()), "a grammar is being tried")
                trial.kill()
                call.cancel()
        wait_until(lambda: not zombies(worker.pid), "no process that nobody waits for")
        assert stream(worker.stub, chat(STORY, 3)).code is OK
        worker.signal(signal.SIGTERM)
        assert worker.wait(60) == 0


HOST = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stderr=subprocess.PIPE, text=True)
for line in child.stderr:
    print(line, end="", flush=True)
    if " ready " in line:
        break
time.sleep(600)
"""


@pytest.mark.slow
def test_a_worker_ends_with_a_host_that_is_process_1(apart: tuple[str, ...]) -> None:
    """Its parent's number tells nothing then: the container ends with its first process, and takes all others along."""
    command = [sys.executable, "-m", "backend", "--addr", "127.0.0.1:0", "--blas", "reference"]
    outer = subprocess.Popen(
        [*apart, sys.executable, "-c", HOST, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert outer.stdout is not None
        address = next(filter(None, (re.search(r"ready address=(\S+)", line) for line in outer.stdout)))[1]
        host = psutil.Process(outer.pid).children()[0]
        worker = host.children()[0]
        with grpc.insecure_channel(address) as channel:
            stub = BackendStub(channel)
            assert stub.LoadModel(pb.ModelOptions(Model=str(TINY_CHAT)), timeout=60).success
            with running(stub, prompt(STORY, 8000, IgnoreEOS=True)):
                family = [worker, *worker.children(recursive=True)]
                host.kill()
                wait_until(lambda: not any(is_running(one.pid) for one in family), "all are gone")
    finally:
        outer.kill()
        outer.wait(60)
        if outer.stdout is not None:
            outer.stdout.close()
