"""The prompt cache's disk as the engine thread has it: it asks, and never waits."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from backend.engine.batching.named import NamedPrefix
from backend.engine.disk_threads import DiskThreads, Job
from backend.engine.loading.disk import OpenDisk
from backend.engine.name_files import KeptName, disk_namespace
from mlx_cache.disk import DiskTier

# Of the time of a thread that reads while rows decode. What it copies takes a core and the memory's bandwidth, and
# with two cores a step beside a reader without rests takes about twice as long.
BESIDE_ROWS = 0.25
# From then on it hurries: somebody waits for it, and not for ever.
UNHURRIED_SECONDS = 4.0

T = TypeVar("T")


class CacheDisk:
    """Engine thread only, but for what runs in jobs.

    Args:
        disk: The open directory, or why there is none; empty where none was asked for.
        namespace: Names the KV of a model in this process and in later ones: no load generation is in it.
        notify: Called on another thread when a read is over.
        clock: Monotonic seconds.

    Attributes:
        rows_decode: Reads leave most of the machine to others now.
    """

    def __init__(
        self, disk: OpenDisk | str, namespace: str, notify: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._disk = disk
        self._namespace = namespace
        self._notify = notify
        self._clock = clock
        self.rows_decode = False
        self._reads = DiskThreads()
        # One thread, so that what is written and removed under one name keeps its order.
        self._upkeep = DiskThreads(1)

    @property
    def tier(self) -> DiskTier | None:
        """The files, where there are any."""
        return self._disk.tier if isinstance(self._disk, OpenDisk) else None

    @property
    def state(self) -> str:
        """`on`, or why nothing is written; empty where no directory was asked for."""
        if not isinstance(self._disk, OpenDisk):
            return f"off: {self._disk}" if self._disk else ""
        return str(self._disk.tier.stats()["state"])

    def namespace_of(self, key: Any) -> str:
        """What `PromptCache` calls the namespace of a key that is (load, tenant)."""
        return disk_namespace(self._namespace, key[1])

    def read(self, work: Callable[[Job[T]], T]) -> Job[T] | None:
        """Start reading; None while every thread hangs in a read that was given up."""
        return self._reads.start(Job(work, self._notify)) if self._reads.responsive else None

    def share(self) -> Callable[[], float]:
        """For a read that begins now: the part of the time that it may work, asked on its own thread as it goes on."""
        hurries_at = self._clock() + UNHURRIED_SECONDS
        return lambda: BESIDE_ROWS if self.rows_decode and self._clock() < hurries_at else 1.0

    def later(self, work: Callable[[], None]) -> None:
        """Do what nobody waits for, in order; nothing where there is no disk."""
        if self.tier is not None:
            self._upkeep.start(Job(lambda _: work(), lambda: None))

    # Names

    def known_names(self) -> list[NamedPrefix]:
        """Those that were kept, as of when the directory was opened."""
        if not isinstance(self._disk, OpenDisk):
            return []
        shift = self._clock() - time.time()
        return [
            NamedPrefix(kept.tenant, kept.name, kept.tokens, kept.made_at + shift)
            for kept in self._disk.names.known(self._namespace)
        ]

    def keep_name(self, named: NamedPrefix) -> None:
        """Have a name outlive the process."""
        disk = self._disk
        if isinstance(disk, OpenDisk):
            kept = KeptName(named.tenant, named.name, named.tokens, time.time())
            self.later(lambda: disk.names.write(self._namespace, kept))

    def drop_name(self, tenant: str, name: str) -> None:
        """Have a name be gone for good."""
        disk = self._disk
        if isinstance(disk, OpenDisk):
            self.later(lambda: disk.names.remove(self._namespace, tenant, name))

    def close(self, timeout: float) -> None:
        """Let the directory go, once what waits is done; after `timeout` seconds a disk that hangs is left behind."""
        disk, self._disk = self._disk, "closed"
        if isinstance(disk, OpenDisk):
            closing = self._upkeep.start(Job(lambda _: disk.close(), lambda: None))
            self._upkeep.close()
            # Who opens the directory next finds the names that were given.
            closing.wait(timeout)
            self._reads.close()
