"""Grammars that would take all time or memory: refused soon, and nobody else waits for them."""

import concurrent.futures
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import psutil
import pytest

from backend.grammar.trial_process import WALL_S
from backend.pb import backend_pb2 as pb
from tests.e2e.asking import Answer, chat, predict, prompt, stream
from tests.e2e.chatting import tool
from tests.e2e.oracle import mostly_quick
from tests.e2e.worker import TINY_CHAT, Worker, wait_until
from tests.grammar.dear import chain, doubling, optional_properties

LATE = f"took over {WALL_S:g} s to compile"


def held_to(schema: str) -> pb.PredictOptions:
    """A chat held to a schema."""
    return chat("Hello!", 20, Metadata={"json_schema": schema})


def refused_as_dear(worker: Worker, request: pb.PredictOptions, words: str) -> None:
    """Refused for what it is. On a busy machine it may be late first, which says nothing of it."""
    deadline = time.monotonic() + 60
    while (answer := predict(worker.stub, request)).details.count(LATE) and time.monotonic() < deadline:
        assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, words)


@contextmanager
def dear_requests(worker: Worker, count: int) -> Iterator[list["concurrent.futures.Future[Answer]"]]:
    """Distinct dear grammars on their way, all of them sent."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(predict, worker.stub, held_to(doubling(str(i)))) for i in range(count)]
        # On a busy machine they may all be over before their number is asked for.
        worker.wait_for_queue(lambda queue: queue["in_flight"] >= 1 or any(future.done() for future in futures))
        yield futures


def resident(worker: Worker) -> int:
    """Bytes of the worker and all its children."""
    total = 0
    process = psutil.Process(worker.pid)
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def test_a_schema_that_doubles_is_refused_soon_and_its_memory_is_back(worker: Worker) -> None:
    stream(worker.stub, prompt("Once", 2, Grammar='root ::= "yes"'))
    before = resident(worker)
    refused_as_dear(worker, held_to(doubling()), "memory")
    wait_until(lambda: resident(worker) < before + (48 << 20), "memory is back")


def test_a_tools_schema_that_doubles_is_never_compiled(worker: Worker) -> None:
    answer = predict(worker.stub, chat("Hello!", 20, Tools=_strict(doubling()), ToolChoice='"required"'))
    answer.refused(grpc.StatusCode.INVALID_ARGUMENT, "through too many others")
    assert answer.details.startswith("Tools: function 'dear': $ref")


def _strict(schema: str) -> str:
    made = tool("dear", "x", strict=True)
    made["function"]["parameters"] = json.loads(schema)
    return json.dumps([made])


def test_a_grammar_of_too_much_work_is_refused_by_its_time(worker: Worker) -> None:
    started = time.monotonic()
    predict(worker.stub, held_to(optional_properties(5_000))).refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "took over")
    assert time.monotonic() - started < WALL_S + 20


def test_references_that_lead_too_deep_end_their_own_request(worker: Worker) -> None:
    """Compiled in the worker, they overflow a stack and end it."""
    refused_as_dear(worker, held_to(chain(20_000)), "too deep")


def test_a_mask_over_its_limits_ends_its_own_request(worker: Worker) -> None:
    alone = stream(worker.stub, chat("Hello!", 40))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        beside = pool.submit(stream, worker.stub, chat("Hello!", 40))
        answer = predict(worker.stub, held_to(optional_properties(1_500)))
        assert beside.result().text == alone.text
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "over a limit" in answer.details


def test_others_go_on_while_dear_grammars_are_tried(worker: Worker) -> None:
    alone = seconds_of_five(worker, "no")
    with dear_requests(worker, 8) as dear:
        waits: list[float] = []
        over = threading.Event()

        def ask_health() -> None:
            while not over.wait(0.01):
                started = time.monotonic()
                worker.stub.Health(pb.HealthMessage(), timeout=60)
                waits.append(time.monotonic() - started)

        asking = threading.Thread(target=ask_health)
        asking.start()
        took = seconds_of_five(worker, "yes")
        over.set()
        asking.join()
        codes = {future.result().code for future in dear}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    # As long as so many requests take on this machine, however busy it is, and a while for each.
    assert took < 5 + 20 * alone
    assert waits and mostly_quick(waits, took)


def seconds_of_five(worker: Worker, said: str) -> float:
    """Seconds that five requests take, one after another, each with a grammar of its own."""
    started = time.monotonic()
    for number in range(5):
        held = stream(worker.stub, prompt("Once", 20, Grammar=f'root ::= "{said}{number}"'))
        assert held.text == f"{said}{number}"
    return time.monotonic() - started


@pytest.mark.slow
def test_free_and_another_load_do_not_wait_for_dear_grammars(worker: Worker) -> None:
    for change in (lambda: worker.stub.Free(pb.HealthMessage(), timeout=60), worker.must_load):
        worker.must_load()
        with dear_requests(worker, 3) as dear:
            started = time.monotonic()
            change()
            took = time.monotonic() - started
            codes = {future.result().code for future in dear}
        assert took < 20
        assert codes <= {grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_ends_leaves_no_process_behind(number: signal.Signals) -> None:
    with Worker("--grace", "1s") as worker:
        worker.must_load()
        worker.expected_code = -number if number is signal.SIGKILL else 0
        children: list[psutil.Process] = []
        with dear_requests(worker, 3):
            children += psutil.Process(worker.pid).children(recursive=True)
            worker.signal(number)
            worker.wait(60)
        assert children
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive


@pytest.mark.slow
def test_a_child_of_the_worker_has_none_of_its_secrets() -> None:
    secrets = {"LOCALAI_GRPC_AUTH_TOKEN": "s3cret-one", "HF_TOKEN": "s3cret-two"}
    metadata = (("authorization", "Bearer s3cret-one"),)
    with Worker(environment=secrets, metadata=metadata) as worker:
        worker.stub.LoadModel(pb.ModelOptions(Model=str(TINY_CHAT)), timeout=120, metadata=metadata)
        worker.stub.Predict(prompt("Once", 4, Grammar='root ::= "yes"'), timeout=60, metadata=metadata)
        children = psutil.Process(worker.pid).children(recursive=True)
        assert len(children) >= 2
        environments: list[dict[str, str]] = []
        for child in children:
            with suppress(psutil.NoSuchProcess):  # a trial's fork ends with its trial
                environments.append(child.environ())
        assert environments
        assert "s3cret" not in json.dumps(environments)


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}])
def test_a_schema_that_is_only_itself_is_refused_with_a_sentence(worker: Worker, schema: dict[str, object]) -> None:
    predict(worker.stub, held_to(json.dumps(schema))).refused(grpc.StatusCode.INVALID_ARGUMENT, "no text matches")
