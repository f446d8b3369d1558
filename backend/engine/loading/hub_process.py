"""Downloads one hub repository: a program of its own, run by `download.py`.

Imports nothing of ours, so that it starts by file name. Arguments: repository, revision (may be empty), then
file patterns. Standard output: JSON lines, `{"done": bytes, "total": bytes}` while it runs and at the end
`{"path": directory}` or `{"error": one line}`. It ends when its standard input does: with its parent.

The hub's library begins a file anew after every interruption of its process. Large files are therefore fetched
here, by its own HTTP client, into a partial file named for the content, and found complete by it afterwards.
"""

import errno
import fcntl
import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import DryRunFileInfo, http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers
from tqdm.std import tqdm

LARGE_BYTES = 8 << 20
# The hub serves larger files through its own protocol only.
MOST_BYTES = constants.MAX_HTTP_DOWNLOAD_SIZE
CONNECTIONS = 4
REPORT_EVERY_S = 0.5
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _say(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class _Tally:
    """Bytes that are on disk, of those that this download must bring; any thread adds."""

    def __init__(self) -> None:
        self.total = 0
        self._done = 0
        self._said_at = 0.0
        self._lock = threading.Lock()

    def add(self, count: float | None) -> None:
        with self._lock:
            self._done += int(count or 0)
            if time.monotonic() - self._said_at >= REPORT_EVERY_S:
                self._said_at = time.monotonic()
                _say(done=min(self._done, self.total), total=self.total)


_TALLY = _Tally()


class _Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """A progress bar that counts into the tally. The hub's bars count bytes on disk, bytes of the wire, and files."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))
        self._counts = options.get("unit") == "B" and not str(options.get("desc", "")).startswith("Downloading")

    def update(self, n: float | None = 1) -> None:
        if self._counts:
            _TALLY.add(n)


class _FileBar(_Bar):
    """The bar of one large file; what an earlier try left counts as done."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"unit": "B"}))
        self._counts = True
        _TALLY.add(options.get("initial"))


def fetch(repository: str, revision: str, patterns: list[str]) -> str:
    """Bring the repository into the hub cache and return its directory."""
    bars: Any = _Bar  # by imitation, which the hub's types do not know
    try:
        files = snapshot_download(
            repository, revision=revision or None, allow_patterns=patterns, tqdm_class=bars, dry_run=True
        )
    except DryRunError:
        files = []  # the hub cannot be reached: the call below answers from the cache, or says why not
    missing = [file for file in files if file.will_download]
    _TALLY.total = sum(file.file_size or 0 for file in missing)
    _check_room(_TALLY.total)
    large = [file for file in missing if LARGE_BYTES <= (file.file_size or 0) <= MOST_BYTES]
    with ThreadPoolExecutor(CONNECTIONS) as executor:
        for _ in executor.map(lambda file: _fetch_large(repository, file), large):
            pass
    return snapshot_download(repository, revision=revision or None, allow_patterns=patterns, tqdm_class=bars)


def _check_room(needed: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"needs {needed} bytes, {free} are free")


def _fetch_large(repository: str, file: DryRunFileInfo) -> None:
    """Fetch one file to where the hub's library looks for its content, from where the last try ended."""
    url = hf_hub_url(repository, file.filename, revision=file.commit_hash)
    etag = get_hf_file_metadata(url).etag
    if not etag:
        return  # nothing to name the content by: left to the hub's library
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    blob, part = folder / etag, folder / f"{etag}.part"
    with part.open("ab") as opened:
        # Two workers may want the same model; the second finds it complete.
        fcntl.flock(opened, fcntl.LOCK_EX)
        if blob.exists():
            part.unlink(missing_ok=True)
            return
        had = opened.seek(0, os.SEEK_END)
        bar: Any = _FileBar
        http_get(
            url,
            opened,
            resume_size=had,
            headers=build_hf_headers(),
            expected_size=file.file_size,
            tqdm_class=bar,
        )
        opened.flush()
        part.replace(blob)


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
            return f"cannot be downloaded: the hub answered {error.response.status_code}"
        case OSError() if error.errno in _DISK_FULL:
            return f"cannot be written to {constants.HF_HUB_CACHE}: {error.strerror}"
        case _:
            return f"cannot be downloaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main(repository: str, revision: str, patterns: list[str]) -> int:
    """Download and report; 0 if the directory is complete."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        path = fetch(repository, revision, patterns)
    # Whatever the hub's library raises becomes the one line that the parent waits for.
    except Exception as error:  # noqa: BLE001
        _say(error=_reason(error))
        return 1
    _say(done=_TALLY.total, total=_TALLY.total)
    _say(path=path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
