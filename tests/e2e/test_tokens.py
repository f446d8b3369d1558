"""Calls without the right token, of every method and any form, and a worker that is as good as new afterwards."""

from typing import Any

import grpc
import pytest

from backend.pb import backend_pb2_grpc as rpc
from tests.e2e.oracle import Golden
from tests.e2e.test_process import code_of, methods
from tests.e2e.worker import TINY_CHAT, Worker
from tests.rpc.test_auth import WRONG

TOKEN = "secret"
# Besides: bytes that are no ASCII, which gRPC lets through in a header whose name says so, and a very long one.
FORMS = [
    *WRONG.values(),
    (("authorization", "Bearer " + "s" * 4000),),
    (("authorization-bin", b"Bearer s\xc3\xa9cret"),),
    (("authorization-bin", f"Bearer {TOKEN}".encode()),),
    (("authorization", f"bearer {TOKEN}"),),
    (("authorization", "Basic c2VjcmV0"),),
]


class WithToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Says the token with every call."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc."""
        metadata = [*(client_call_details.metadata or ()), ("authorization", f"Bearer {TOKEN}")]
        return continuation(client_call_details._replace(metadata=metadata), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See grpc."""
        return self.intercept_unary_unary(continuation, client_call_details, request)


@pytest.mark.slow
def test_no_form_of_a_wrong_token_does_anything_and_the_worker_is_as_good_as_new() -> None:
    with Worker(environment={"LOCALAI_GRPC_AUTH_TOKEN": TOKEN}) as worker:
        bare = worker.channel
        known = grpc.intercept_channel(bare, WithToken())
        worker.stub, worker.info = rpc.BackendStub(known), rpc.InfoStub(known)
        worker.prompt_cache = rpc.PromptCacheStub(known)
        worker.must_load(TINY_CHAT)
        golden = Golden.of(worker)
        with golden.beside(worker):
            for metadata in FORMS:
                for path, streams in methods():
                    kind = bare.unary_stream if streams else bare.unary_unary
                    assert code_of(kind(path), b"", metadata) is grpc.StatusCode.UNAUTHENTICATED, (path, metadata)
        golden.check(worker)
        assert not any(TOKEN in line for line in worker.log.lines)
