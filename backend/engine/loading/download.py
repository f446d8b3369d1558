"""Fetches a hub repository in a process of its own.

A process can be stopped at once, whatever its connections wait for; the hub's download threads cannot, and
they would compete with the event loop for the interpreter lock.
"""

import json
import logging
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from backend.config import TOKEN_VARIABLES
from backend.core.errors import ModelLoadFailed
from backend.core.logline import logline
from backend.engine.loading.progress import LOG_EVERY_S, Progress, ProgressLog

log = logging.getLogger(__name__)

# mlx-lm's own patterns, without Python files: they are fetched only where they may run.
TOKENIZER_FILES = ("*.json", "tokenizer.model", "*.tiktoken", "tiktoken.model", "*.txt", "*.jsonl", "*.jinja")
MODEL_FILES = (*TOKENIZER_FILES, "model*.safetensors")

POLL_S = 0.2
_PROGRAM = Path(__file__).with_name("hub_process.py")


def download(
    repository: str,
    *,
    revision: str,
    patterns: Sequence[str],
    progress: Progress | None,
    cancelled: Callable[[], bool],
    every_s: float = LOG_EVERY_S,
) -> Path:
    """The repository's directory in the hub cache, downloaded as far as it is not there yet.

    A part that an earlier try left is continued. Any thread; returns or raises within a moment of `cancelled`.

    Args:
        every_s: Seconds from one line of the log to the next.

    Raises:
        ModelLoadFailed: One line that names the repository.
    """
    log.info(logline("model_download", repository=repository, revision=revision or None))
    reports = ProgressLog("download", repository, progress, every_s=every_s, at_once=True)
    answer: dict[str, Any] = {}
    with _started(repository, revision, patterns) as process:
        try:
            assert process.stdout is not None
            for line in _lines(process.stdout, cancelled):
                answer = json.loads(line)
                if "done" in answer:
                    reports.report(answer["done"], answer["total"])
        finally:
            # After the last line it has nothing left to do; on any other way out it must not go on.
            process.kill()
    if cancelled():
        raise ModelLoadFailed(f"hub repository {repository!r}: the download was cancelled")
    if "path" not in answer:
        raise ModelLoadFailed(
            f"hub repository {repository!r} {answer.get('error', 'cannot be downloaded: its process ended')}"
        )
    reports.finish()
    return Path(answer["path"])


def _started(repository: str, revision: str, patterns: Sequence[str]) -> subprocess.Popen[bytes]:
    # -P: the program's own directory must not shadow packages.
    command = [sys.executable, "-P", str(_PROGRAM), repository, revision, *patterns]
    environment = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _lines(stream: IO[bytes], cancelled: Callable[[], bool]) -> Iterator[bytes]:
    """Whole lines as they come, until the stream ends or `cancelled`."""
    descriptor, rest = stream.fileno(), b""
    # Not select(): with a thousand connections open it takes no further descriptor.
    with selectors.DefaultSelector() as waiting:
        waiting.register(descriptor, selectors.EVENT_READ)
        while not cancelled():
            if not waiting.select(POLL_S):
                continue
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
