"""The main job in one command: start a worker, load a model, stream answers, stop.

python examples/demo.py [--model DIRECTORY] [--prompt TEXT]
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from backend.pb import backend_pb2 as pb  # noqa: E402
from backend.pb import backend_pb2_grpc as rpc  # noqa: E402

PROMPTS = ("What is the capital of France?", "Tell me a short story.", "Count from 1 to 10.")


@contextmanager
def worker() -> Iterator[str]:
    """A worker process on a free port of this machine, as a host starts one; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen([str(ROOT / "run.sh"), "--addr", address, "--log-level", "warning"])
    try:
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def timed(label: str, started: float) -> None:
    print(f"{label:<34}{time.perf_counter() - started:7.2f} s")


def chat(stub: rpc.BackendStub, prompt: str) -> None:
    """Stream one answer and print what it took."""
    print(f"\n> {prompt}\n  ", end="", flush=True)
    started = time.perf_counter()
    first = None
    last = pb.Reply()
    request = pb.PredictOptions(
        Messages=[pb.Message(role="user", content=prompt)], UseTokenizerTemplate=True, Tokens=120
    )
    for reply in stub.PredictStream(request):
        if reply.message and first is None:
            first = time.perf_counter() - started
        print(reply.message.decode(), end="", flush=True)
        last = reply
    seconds = time.perf_counter() - started
    print(
        f"\n  [{last.prompt_tokens} prompt tokens, {last.tokens} generated, "
        f"first text after {(first or 0) * 1e3:.0f} ms, {last.tokens / seconds:.0f} tokens/s]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "examples/tiny-chat/model"), help="a model directory or hub id")
    parser.add_argument("--prompt", action="append", help="what to ask; may be given several times")
    options = parser.parse_args()
    started = time.perf_counter()
    with worker() as address, grpc.insecure_channel(address) as channel:
        stub = rpc.BackendStub(channel)
        health = stub.Health(pb.HealthMessage(), wait_for_ready=True, timeout=20)
        timed(f"worker answers {health.message.decode()}", started)
        started = time.perf_counter()
        result = stub.LoadModel(pb.ModelOptions(Model=options.model, ModelFile=options.model))
        if not result.success:
            raise SystemExit(f"could not load: {result.message}")
        timed(f"loaded {Path(options.model).name}", started)
        for prompt in options.prompt or PROMPTS:
            chat(stub, prompt)
    print("\nworker stopped")


if __name__ == "__main__":
    main()
