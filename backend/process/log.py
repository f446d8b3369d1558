"""The log: one line an event on standard error, `key=value`."""

import contextlib
import logging
import sys
import time
import traceback

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
        return f"{head} {message}".replace("\r", "\\r").replace("\n", "\\n")


def _where(error: BaseException) -> str:
    """The error and the places that led to it, innermost first; no local values, which may hold prompts."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


def start_log(level: str) -> None:
    """Send this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A host that stopped reading must not turn log lines into tracebacks.
    logging.raiseExceptions = False
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def last_words(sentence: str) -> None:
    """Write the line that a host shows when the process is gone: one clear sentence, the last on standard error."""
    # Nobody reads, or the host closed it.
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.write(f"mlx-worker: {' '.join(sentence.split())}\n")
        sys.stderr.flush()
