"""Thousands of requests that nobody meant: each is answered or refused for what it is, and the worker stays as it was.

A thousand run among the slow tests, and as many as one likes with
`pytest -n 0 -m slow --log-cli-level info --odd-minutes 60 tests/e2e/test_odd_requests.py`.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from backend.pb import backend_pb2 as pb
from tests import chosen
from tests.e2e.odd_values import SOUND, Odd
from tests.e2e.oracle import Golden
from tests.e2e.worker import TINY_CHAT, Worker

log = logging.getLogger(__name__)
METHODS = tuple(method for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods)
# Those whose requests have most to be odd in are asked more often.
UNREAD = {"ModelMetadata"}
DRAWN = tuple(m for m in METHODS for _ in range(1 + (m.name not in UNREAD) * len(m.input_type.fields) // 5))
# So that an answer without a limit is short.
CONTEXT = 256
SECONDS = 240.0  # of a machine that is busy with others; none takes ten by itself
OK, INVALID = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT
# Whatever a client sends to a worker that has a model: never INTERNAL, UNKNOWN, UNAVAILABLE, nor one without an end.
ALLOWED = {OK, INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Golden]]:
    """A worker that has no network, and where no other module's models are."""
    temporary = tmp_path_factory.mktemp("temporary")
    environment = {"TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"}
    with Worker(environment=environment) as worker:
        worker.must_load()
        yield worker, Golden.of(worker, temporary)


def path_of(method: MethodDescriptor) -> str:
    """As it is called on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def ask(worker: Worker, method: MethodDescriptor, data: bytes) -> tuple[grpc.StatusCode, str, list[Any]]:
    """How a call of these bytes ends, and its replies."""
    kind = worker.channel.unary_stream if method.server_streaming else worker.channel.unary_unary
    replies: list[bytes] = []
    code, details = OK, ""
    try:
        answer = kind(path_of(method))(data, timeout=SECONDS)
        replies += [answer] if isinstance(answer, bytes) else answer
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""  # type: ignore[attr-defined]
    return code, details, [GetMessageClass(method.output_type).FromString(reply) for reply in replies]


def check(method: MethodDescriptor, data: bytes, code: grpc.StatusCode, details: str, replies: list[Any]) -> None:
    """The end of a call is one that its request can have."""
    said = (path_of(method), code, details, data[:200])
    allowed = set(ALLOWED)
    if _names_a_model(method, data):
        allowed.add(grpc.StatusCode.NOT_FOUND)
    assert code in allowed, said
    assert "\n" not in details and len(details.encode()) <= 1024 and "Traceback" not in details, said
    if method.output_type is pb.Result.DESCRIPTOR and code is OK:
        assert "\n" not in replies[0].message and len(replies[0].message.encode()) <= 1024, said
    for reply in replies:
        if isinstance(reply, pb.Reply):
            reply.message.decode()


def _names_a_model(method: MethodDescriptor, data: bytes) -> bool:
    try:
        return bool(getattr(GetMessageClass(method.input_type).FromString(data), "ModelIdentity", ""))
    except Exception:  # noqa: BLE001  bytes that are no message name nothing
        return False


def use(worker: Worker, loaded: bytes) -> None:
    """Whatever is loaded now, and however: it answers, or says why not."""
    by_name = {method.name: method for method in METHODS}
    for name in ("Predict", "PredictStream", "Embedding", "TokenizeString"):
        for sound in SOUND["PredictOptions"]:
            code, details, _ = ask(worker, by_name[name], sound.SerializeToString())
            assert code in ALLOWED | {grpc.StatusCode.FAILED_PRECONDITION}, (name, code, details, loaded)


def run(standing: tuple[Worker, Golden], count: int, seed: int) -> Counter[str]:
    """So many requests for methods at random, then the oracle; how often each end was seen."""
    worker, golden = standing
    odd, methods = Odd(seed), random.Random(seed)
    seen: Counter[str] = Counter()
    worker.must_load(TINY_CHAT, MaxModelLen=CONTEXT)
    for _ in range(count):
        method = methods.choice(DRAWN)
        sent = odd.request(method.input_type)
        code, details, replies = ask(worker, method, sent)
        seen[f"{method.name} {code.name}"] += 1
        check(method, sent, code, details, replies)
        if method.name in ("LoadModel", "Free"):
            use(worker, sent)
            worker.must_load(TINY_CHAT, MaxModelLen=CONTEXT)
    golden.check(worker)
    return seen


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_odd_requests_are_answered_or_refused_for_what_they_are(standing: tuple[Worker, Golden]) -> None:
    """A thousand, and on until the minutes that were asked for are over; each thousand has another seed."""
    until, number, total = time.monotonic() + 60 * chosen.odd_minutes, chosen.odd_seed, Counter[str]()
    while not total or time.monotonic() < until:
        try:
            total += run(standing, 1000, number)
        except Exception as error:
            error.add_note(f"again with --odd-seed {number}")
            raise
        number += 1
    log.info("%s", dict(sorted(total.items())))
    assert {name.split()[0] for name in total} == {method.name for method in METHODS}
