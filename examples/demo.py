"""The main job in one command: start a worker, load a model, stream answers, stop.

python examples/demo.py [--model DIRECTORY] [--prompt TEXT]
"""

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import grpc
except ModuleNotFoundError as error:
    raise SystemExit(f"{sys.executable} has no package {error.name}: run make demo") from None

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from backend.pb import backend_pb2 as pb  # noqa: E402
from backend.pb import backend_pb2_grpc as rpc  # noqa: E402

PROMPTS = ("What is the capital of France?", "Tell me a short story.", "Count from 1 to 10.")
TELL_SECONDS = 2.0
STOP_SECONDS = 20.0
# gRPC's own pauses between attempts grow to two minutes; a proxy of the environment cannot reach this machine's port.
CHANNEL_OPTIONS = (("grpc.max_reconnect_backoff_ms", 1000), ("grpc.enable_http_proxy", 0))


class Worker:
    """A worker process on a free port of this machine, as a host starts one."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        # run.sh would take .venv; who runs this with another Python means that one.
        environment = {"MLX_WORKER_PYTHON": sys.executable, **os.environ}
        command = [str(ROOT / "run.sh"), "--addr", self.address, "--log-level", "warning"]
        try:
            self._process = subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace"
            )
        except OSError as error:
            raise SystemExit(f"{command[0]}: {error.strerror}") from None
        self._log: deque[str] = deque(maxlen=1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self._log.extend(filter(None, map(str.strip, self._process.stderr)))

    def ending(self, seconds: float = 0.0) -> str | None:
        """How it ended, with its last words; None while it lives on for so long."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(1.0)
        return f"the worker ended with exit code {code}: {self._log[-1] if self._log else 'it said nothing'}"

    def wait_for(self, call: Any, what: str) -> Any:
        """The result of an RPC, however long it takes, as long as the worker lives; tells what it waits for."""
        started = time.monotonic()
        tell_after = TELL_SECONDS
        while True:
            try:
                return call.result(timeout=0.2)
            except grpc.FutureTimeoutError:
                if ending := self.ending():
                    raise SystemExit(ending) from None
            waited = time.monotonic() - started
            if waited >= tell_after:
                tell_after *= 2
                print(f"... {waited:.0f} s, waiting for {what}", flush=True)

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def worker() -> Iterator[Worker]:
    """A worker that is stopped at the end; a call that fails becomes a sentence."""
    running = Worker()
    try:
        yield running
    except grpc.RpcError as error:
        # A connection breaks a moment before its process is gone.
        reason = running.ending(seconds=2.0) or f"the worker answered {error.code().name}: {error.details()}"
        raise SystemExit(reason) from None
    finally:
        running.stop()


def timed(label: str, started: float) -> None:
    print(f"{label:<34}{time.perf_counter() - started:7.2f} s", flush=True)


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
        f"first text after {(first or 0) * 1e3:.0f} ms, {last.tokens / seconds:.0f} tokens/s]",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "examples/tiny-chat/model"), help="a model directory or hub id")
    parser.add_argument("--prompt", action="append", help="what to ask; may be given several times")
    options = parser.parse_args()
    started = time.perf_counter()
    with worker() as running, grpc.insecure_channel(running.address, CHANNEL_OPTIONS) as channel:
        stub: Any = rpc.BackendStub(channel)
        call = stub.Health.future(pb.HealthMessage(), wait_for_ready=True)
        health = running.wait_for(call, "the worker to open its port and answer")
        timed(f"worker answers {health.message.decode()}", started)
        started = time.perf_counter()
        call = stub.LoadModel.future(pb.ModelOptions(Model=options.model, ModelFile=options.model))
        result = running.wait_for(call, f"{options.model} to load")
        if not result.success:
            raise SystemExit(f"could not load: {result.message}")
        timed(f"loaded {Path(options.model).name}", started)
        for prompt in options.prompt or PROMPTS:
            chat(stub, prompt)
    print("\nworker stopped")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted") from None
