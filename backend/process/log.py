"""The log: one line an event on standard error, `key=value`."""

import logging
import os
import sys
import time
import traceback
from typing import Final

from backend.core.logline import bounded, logline
from backend.process.log_writer import LineStream, LogWriter, without_waiting

STANDARD_ERROR: Final = 2
# Characters of a line; more than any line of ours has.
MAX_LINE: Final = 8192
# What the end of the process waits for a reader that does not read.
LAST_LINES_SECONDS: Final = 0.2

_LIBRARIES = ("asyncio", "filelock", "grpc", "httpcore", "httpx", "huggingface_hub", "transformers", "urllib3")


class LineFormatter(logging.Formatter):
    """Every record as exactly one line; a traceback is cut to where it was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """`time=... level=... logger=... <message>`, newlines escaped."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"time={moment}.{int(record.msecs):03d}Z level={record.levelname.lower()} logger={record.name}"
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f' error="{_where(record.exc_info[1])}"'
        return bounded(f"{head} {message}", MAX_LINE).replace("\r", "\\r").replace("\n", "\\n")


def _where(error: BaseException) -> str:
    """The error and the places that led to it, innermost first; no local values, which may hold prompts."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


class Log:
    """The process's log. Whatever reads it, or does not, writing to it never waits."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def last_words(self, sentence: str) -> None:
        """Write the line that a host shows when the process is gone: one clear sentence, the last on standard error."""
        self._writer.write(bounded(f"mlx-worker: {' '.join(sentence.split())}", MAX_LINE), always=True)

    def close(self) -> None:
        """Give a reader that reads the rest; one that does not must not hold up the end of the process."""
        self._writer.drain(LAST_LINES_SECONDS)


def start_log(level: str) -> Log:
    """Send this process's log to standard error, and there what libraries print."""
    writer = LogWriter(os.dup(STANDARD_ERROR), _dropped)
    without_waiting(STANDARD_ERROR)
    handler = _WriterHandler(writer)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A host that stopped reading must not turn log lines into tracebacks.
    logging.raiseExceptions = False
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Every line is an event: what reads the log must not have to tell ours from theirs.
    printed = logging.getLogger("printed")
    sys.stdout = sys.stderr = LineStream(lambda line: printed.info(logline("printed", text=line)))
    return Log(writer)


class _WriterHandler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001  as every handler does: what cannot be logged is no reason to fail
            self.handleError(record)


def _dropped(count: int) -> str:
    message = logline("log_lines_dropped", count=count)
    return LineFormatter().format(logging.LogRecord(__name__, logging.WARNING, "", 0, message, None, None))
