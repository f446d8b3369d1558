"""A real worker that stands while inputs come, and is looked at now and then."""

import re
import tempfile
from pathlib import Path

import grpc
import psutil

from backend.pb import backend_pb2 as pb
from tests.e2e.oracle import Golden
from tests.e2e.worker import Worker
from tests.fuzz.target import Broken

HEALTH_EVERY, CHECK_EVERY = 20, 400
HEALTH_SECONDS = 15.0
MOST_GROWTH = 768 << 20
# Of a line: whose it is, and the error without the input.
_TELLING = re.compile(r'logger=[\w.]+|error="\w+ at [\w.:]+')


class Standing:
    """One worker with tiny-chat; another one where it has died."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        self._inputs = 0
        self._start()

    def _start(self) -> None:
        temporary = Path(self._folder.name)
        self.worker = Worker(
            *self._arguments, environment={"TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"}
        ).__enter__()
        self.worker.must_load()
        self._golden = Golden.of(self.worker, temporary)
        self._most = self._bytes() + MOST_GROWTH
        self._read = len(self.worker.log.lines)

    def look(self, *, checks: bool = True) -> None:
        """After an input.

        Args:
            checks: The model is the golden one, so all of it can be checked.

        Raises:
            Broken: The worker is not what it was.
        """
        self._inputs += 1
        if self.worker.process.poll() is not None:
            told = self.worker.log.lines[-12:]
            code = self.worker.process.returncode
            self._start()
            raise Broken(f"the worker ended with code {code}", told)
        self._log()
        if self._inputs % HEALTH_EVERY == 0:
            self._health()
        if checks and self._inputs % CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """The oracle.

        Raises:
            Broken: One of its checks does not hold.
        """
        try:
            self._golden.check(self.worker, patience=60.0)
        except AssertionError as error:
            told = str(error)
            self.restart()
            raise Broken(f"the oracle: {told.splitlines()[0] if told else 'a check'}"[:120], told) from error

    def restart(self) -> None:
        """Another worker."""
        self.worker.process.kill()
        self.worker.process.wait()
        self._start()

    def _log(self) -> None:
        lines = self.worker.log.lines
        new, self._read = lines[self._read :], len(lines)
        for line in new:
            if "level=error" in line or "Traceback" in line:
                raise Broken(f"logs {' '.join(_TELLING.findall(line)) or line[:60]}", line)

    def _health(self) -> None:
        try:
            self.worker.stub.Health(pb.HealthMessage(), timeout=HEALTH_SECONDS)
        except grpc.RpcError as error:
            raise Broken("Health does not answer", str(error)) from error
        if self._bytes() > self._most:
            self.restart()
            raise Broken("the worker has grown", self._bytes())

    def _bytes(self) -> int:
        return psutil.Process(self.worker.pid).memory_info().rss

    def close(self) -> None:
        """End the worker."""
        self.worker.process.terminate()
        self.worker.process.wait(30)
        self._folder.cleanup()
