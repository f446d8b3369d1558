"""The log: one line an event on standard error, as `key=value` pairs or as JSON."""

import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Final, Protocol

from backend.config import LogFormat
from backend.core.logline import MAX_VALUE, LogLine, bounded, logline, visible
from backend.process.log_writer import LineStream, LogWriter, without_waiting

STANDARD_ERROR: Final = 2
# Characters of a line; more than any line of ours has.
MAX_LINE: Final = 8192
# What the end of the process waits for a reader that does not read.
LAST_LINES_SECONDS: Final = 0.2

_LIBRARIES = ("asyncio", "filelock", "grpc", "httpcore", "httpx", "huggingface_hub", "transformers", "urllib3")


class LineForm(Protocol):
    """How lines look; each is exactly one, and a traceback is cut to where it was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """A record's line."""
        ...

    def last_words(self, sentence: str) -> str:
        """The line that a host shows when the process is gone."""
        ...


class LineFormatter(logging.Formatter):
    """Text: `time=... level=... logger=... <message>`, newlines escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """A record's line."""
        head = f"time={_time(record)} level={record.levelname.lower()} logger={record.name}"
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f' error="{_where(record.exc_info[1])}"'
        return visible(bounded(f"{head} {message}", MAX_LINE))

    def last_words(self, sentence: str) -> str:
        """The sentence itself."""
        return visible(bounded(f"mlx-worker: {sentence}", MAX_LINE))


class JsonFormatter(logging.Formatter):
    """JSON: an object a line, with `time`, `level`, `logger`, `event` and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """A record's line; what is not an event of ours is the `text` of an event `logged`."""
        head = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line = record.msg
        said = {"event": line.event, **line.fields} if isinstance(line, LogLine) else _logged(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = _where(record.exc_info[1])
        return _json(head | said)

    def last_words(self, sentence: str) -> str:
        """An event `ended`."""
        return self.format(_record(logging.CRITICAL, logline("ended", text=sentence)))


_FORMS: Final[Mapping[LogFormat, type[LineFormatter | JsonFormatter]]] = {"text": LineFormatter, "json": JsonFormatter}


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"


def _logged(text: str) -> dict[str, object]:
    return {"event": "logged", "text": text}


def _json(fields: Mapping[str, object]) -> str:
    """The fields as JSON; where they are long, their texts are cut until the line is not."""
    line = ""
    for most in (MAX_VALUE, MAX_VALUE // 8, MAX_VALUE // 64):
        line = json.dumps({key: _plain(value, most) for key, value in fields.items()})
        if len(line) <= MAX_LINE:
            break
    return line


def _plain(value: object, most: int) -> object:
    if isinstance(value, float):
        # JSON has no word for what is not finite.
        return round(value, 3) if math.isfinite(value) else str(value)
    return value if isinstance(value, bool | int) else bounded(str(value), most)


def _record(level: int, line: LogLine) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, "", 0, line, None, None)


def _where(error: BaseException) -> str:
    """The error and the places that led to it, innermost first; no local values, which may hold prompts."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


class Log:
    """The process's log. Whatever reads it, or does not, writing to it never waits."""

    def __init__(self, writer: LogWriter, form: LineForm) -> None:
        self._writer = writer
        self._form = form

    def last_words(self, sentence: str) -> None:
        """Write the line that a host shows when the process is gone: one clear sentence, the last on standard error."""
        self._writer.finish(self._form.last_words(" ".join(sentence.split())))

    def close(self) -> None:
        """Give a reader that reads the rest; one that does not must not hold up the end of the process."""
        self._writer.drain(LAST_LINES_SECONDS)


def start_log(level: str, form: LogFormat = "text") -> Log:
    """Send this process's log to standard error, and there what libraries print."""
    formatter = _FORMS[form]()
    writer = LogWriter(os.dup(STANDARD_ERROR), lambda count: formatter.format(_dropped(count)))
    without_waiting(STANDARD_ERROR)
    handler = _WriterHandler(writer)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A host that stopped reading must not turn log lines into tracebacks.
    logging.raiseExceptions = False
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    # Every line is an event: what reads the log must not have to tell ours from theirs.
    printed = logging.getLogger("printed")
    sys.stdout = sys.stderr = LineStream(lambda line: printed.info(logline("printed", text=line)))
    return Log(writer, formatter)


class _WriterHandler(logging.Handler):
    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001  as every handler does: what cannot be logged is no reason to fail
            self.handleError(record)


def _dropped(count: int) -> logging.LogRecord:
    return _record(logging.WARNING, logline("log_lines_dropped", count=count))
