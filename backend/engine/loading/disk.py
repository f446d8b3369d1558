"""The prompt cache's directory: opened at a load, on a thread of its own, for a disk may not answer."""

import logging
from dataclasses import dataclass
from pathlib import Path

from backend.config import CacheConfig
from backend.core.logline import logline
from backend.engine.conversation_files import ConversationFiles
from backend.engine.name_files import NameFiles
from mlx_cache.disk import DiskTier, DiskUnusable

log = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A tier that is open, with the names and the conversations beside it."""

    tier: DiskTier
    names: NameFiles
    conversations: ConversationFiles

    def close(self) -> None:
        """Let it go; harmless when it is closed already."""
        self.tier.close(CLOSE_SECONDS)


def _place(named: str, model_path: str) -> Path:
    """Where the directory is. Raises ValueError, and says why, where a relative one is not below `model_path`."""
    if Path(named).is_absolute():
        return Path(named)
    if not model_path:
        raise ValueError(f"{named}: is relative, and there is no ModelPath for it to be below")
    root = Path(model_path).resolve()
    place = Path(model_path).absolute() / named
    # Links on the way count by where they lead; the directory itself is no link, or not used.
    real = place.parent.resolve() / place.name
    if ".." in Path(named).parts or not real.is_relative_to(root) or place.resolve() == root:
        raise ValueError(f"{named}: is not below ModelPath")
    return place


def open_disk(cache: CacheConfig, model_path: str) -> OpenDisk | str:
    """Open the directory that a load names; what keeps it from being used, in one line, if anything does.

    Args:
        model_path: What a relative directory is below.
    """
    try:
        directory = _place(cache.directory, model_path)
    except ValueError as error:
        log.warning(logline("prompt_cache_disk_off", reason=str(error)))
        return str(error)
    tier = DiskTier(directory, max_bytes=cache.disk_bytes, daily_bytes=cache.disk_daily_bytes)
    try:
        tier.open()
    except DiskUnusable as error:
        log.warning(logline("prompt_cache_disk_off", reason=str(error)))
        return str(error)
    stats = tier.stats()
    log.info(logline("prompt_cache_disk", directory=directory, files=stats["files"], bytes=stats["bytes"]))
    opened = OpenDisk(tier, NameFiles(tier.place), ConversationFiles(tier.place, tier.label))
    opened.names.read()
    try:
        opened.conversations.read()
    except OSError as error:
        log.warning(logline("conversations_not_tidied", reason=error.strerror))
    return opened
