"""Downloads one hub repository: a program of its own, run by `download.py`.

Imports nothing of ours, so that it starts by file name. Arguments: repository, revision (may be empty), then
file patterns. Standard output: JSON lines, `{"done": bytes, "total": bytes}` while it runs and at the end
`{"path": directory}` or `{"error": one line}`. It ends when its standard input does: with its parent.
"""

import errno
import json
import os
import sys
import threading
import time
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.std import tqdm

REPORT_EVERY_S = 0.5
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class _Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """A progress bar that is a line of JSON. The hub's bars count bytes on disk, bytes of the wire, and files."""

    _lock_of_reports = threading.Lock()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))
        # The bar of bytes on disk: what a resumed download already had counts.
        self._reports = str(options.get("desc", "")).startswith("Reconstruct")
        self._reported_at = 0.0

    def update(self, n: float | None = 1) -> None:
        with self._lock_of_reports:
            self.n += n or 0
            if self._reports and time.monotonic() - self._reported_at >= REPORT_EVERY_S:
                self._reported_at = time.monotonic()
                _say(done=int(self.n), total=int(self.total or 0))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)  # threads of the download cannot be asked to stop


def _reason(error: Exception) -> str:
    match error:
        case GatedRepoError():
            return "is gated: accept its terms on the hub and set HF_TOKEN"
        case RepositoryNotFoundError():
            return "does not exist, or is private: check the name, or set HF_TOKEN"
        case RevisionNotFoundError():
            return "has no such revision"
        case IncompleteSnapshotError():
            return "is only partly in the cache, and the hub cannot be reached for the rest"
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            cause = type(error.__cause__ or error).__name__
            return f"is not in the cache, and the hub cannot be reached ({cause})"
        case HfHubHTTPError():
            return f"the hub answered {error.response.status_code}"
        case OSError() if error.errno in _DISK_FULL:
            return f"cannot be written: {error.strerror} ({os.environ.get('HF_HOME') or 'the hub cache'})"
        case _:
            return f"cannot be downloaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main(repository: str, revision: str, patterns: list[str]) -> int:
    """Download and report; 0 if the directory is complete."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        bars: Any = _Bar  # by imitation, which the hub's types do not know
        path = snapshot_download(repository, revision=revision or None, allow_patterns=patterns, tqdm_class=bars)
    # Whatever the hub's library raises becomes the one line that its parent waits for.
    except Exception as error:  # noqa: BLE001
        _say(error=_reason(error))
        return 1
    _say(path=path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
