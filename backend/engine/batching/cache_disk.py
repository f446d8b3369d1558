"""The prompt cache's disk as the engine thread has it: it asks, and never waits."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from backend.engine.batching.named import NamedPrefix
from backend.engine.conversation_files import KeptConversation
from backend.engine.disk_threads import DiskThreads, Job
from backend.engine.loading.disk import OpenDisk
from backend.engine.name_files import KeptName, disk_namespace
from mlx_cache.disk import DiskTier

# Of the time of a thread that reads while rows decode. What it copies takes a core and the memory's bandwidth, and
# with two cores a step beside a reader without rests takes about twice as long.
BESIDE_ROWS = 0.25
# From then on it hurries: somebody waits for it, and not for ever.
UNHURRIED_SECONDS = 4.0

# Two clocks tell one moment; they are set and drift.
_SAME_TURN_SECONDS = 5.0

T = TypeVar("T")


class CacheDisk:
    """Engine thread only, but for what runs in jobs.

    Args:
        disk: The open directory, or why there is none; empty where none was asked for.
        namespace: Names the KV of a model in this process and in later ones: no load generation is in it.
        notify: Called on another thread when a read or upkeep is over, or there are other files.
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
        if isinstance(disk, OpenDisk):
            disk.tier.changed = notify
            self._reads.begin()
            self._upkeep.begin()
        self._unwritten: dict[str, KeptConversation] = {}

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

    @property
    def waiting_bytes(self) -> int:
        """Of KV that is here until it is written, whatever the prompt cache has of it."""
        return self.tier.waiting_bytes if self.tier is not None else 0

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
            self._upkeep.start(Job(lambda _: work(), self._notify))

    # Names

    def known_names(self) -> list[NamedPrefix]:
        """Those that were kept, as of when the directory was opened."""
        if not isinstance(self._disk, OpenDisk):
            return []
        shift = self._shift()
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

    # Conversations

    def conversation_key(self, tenant: str, conversation_id: str) -> str:
        """What a conversation is known by; where there is a disk, later processes know it by the same."""
        disk = self._disk
        return disk.conversations.key(tenant, conversation_id) if isinstance(disk, OpenDisk) else conversation_id

    def known_conversations(self) -> list[tuple[KeptConversation, float]]:
        """Those that were kept as of when the directory was opened, the idlest first, with when their last turn was."""
        if not isinstance(self._disk, OpenDisk):
            return []
        shift, now = self._shift(), self._clock()
        # A clock that was put back meanwhile makes nobody live longer.
        return [(kept, min(now, kept.last + shift)) for kept in self._disk.conversations.known(self._namespace)]

    def keep_conversation(self, tenant: str, key: str, branches: Sequence[NDArray[np.int32]]) -> None:
        """Have later processes know what a conversation left, and that its last turn was now."""
        disk = self._disk
        if not isinstance(disk, OpenDisk):
            return

        def write() -> None:
            kept = self._unwritten.pop(key, None)
            if kept is not None:
                disk.conversations.write(self._namespace, kept)

        # However slow the disk is, one of each waits for it.
        waits = key in self._unwritten
        self._unwritten[key] = KeptConversation(tenant, key, tuple(branches), time.time())
        if not waits:
            self.later(write)

    def drop_conversation(self, key: str, *, unless: Callable[[], bool]) -> None:
        """Have a conversation be forgotten for good, unless this, asked on a thread that may wait, is true."""
        disk = self._disk
        self._unwritten.pop(key, None)
        if isinstance(disk, OpenDisk):
            self.later(lambda: None if unless() else disk.conversations.remove(self._namespace, key))

    def goes_on_elsewhere(self, key: str, last: float) -> Callable[[], bool]:
        """Whether the directory knows of a later turn than this process; to be asked on a thread that may wait."""
        disk, known = self._disk, last - self._shift()
        if not key or not isinstance(disk, OpenDisk):
            return lambda: False
        return lambda: disk.conversations.last(self._namespace, key) > known + _SAME_TURN_SECONDS

    def _shift(self) -> float:
        """From seconds since the epoch to the clock's."""
        return self._clock() - time.time()

    def clear_notes(self, tenant: str | None) -> None:
        """Have the model's names and conversations of one tenant, or of everybody, be gone for good."""
        disk = self._disk
        for key, kept in list(self._unwritten.items()):
            if tenant in (None, kept.tenant):
                self._unwritten.pop(key, None)
        if isinstance(disk, OpenDisk):

            def which(namespace: str, whose: str) -> bool:
                return namespace == self._namespace and tenant in (None, whose)

            self.later(lambda: disk.names.clear(which))
            self.later(lambda: disk.conversations.clear(which))

    def close(self, timeout: float) -> None:
        """Let the directory go, once what waits is done; after `timeout` seconds a disk that hangs is left behind."""
        disk, self._disk = self._disk, "closed"
        if isinstance(disk, OpenDisk):
            closing = self._upkeep.start(Job(lambda _: disk.close(), lambda: None))
            self._upkeep.close()
            # Who opens the directory next finds the names that were given.
            closing.wait(timeout)
            self._reads.close()
