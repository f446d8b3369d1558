"""Rank 0's side of the other ranks: they do what it does, say that they are alive, and end with it."""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from backend.core.logline import logline
from backend.engine.ranks.arrivals import Arrivals
from backend.engine.ranks.link import Link, LinkLost, Message
from backend.engine.ranks.peer import BEAT_SECONDS, SILENT_SECONDS, Peer
from backend.engine.ranks.state import digest
from backend.engine.ranks.world import World

log = logging.getLogger(__name__)

BEHIND_SECONDS = 7.0
"""A rank that has not even begun, for so long, what rank 0 is past, is lost, as one is that says nothing."""
ALONE_SECONDS = 60.0
"""All are lost when rank 0 is for so long in what the others are done with; of a pipeline it has the last layers."""
CHECK_EVERY = 256
"""Commands between two comparisons of what the ranks hold."""


class RankLost(BaseException):
    """Another rank is gone, stalls or has failed: no collective of this process will end any more.

    Not an Exception: nothing that goes on after an error can go on after this one.
    """


class Leader:
    """Every other rank, as one that does the same.

    Commands are sent by the engine thread; a thread for each rank listens to it. What this rank holds with a handle is
    held by the others under the same, until it is forgotten here.

    Args:
        on_lost: Told once, from any thread, why the ranks cannot go on.
    """

    def __init__(self, world: World, on_lost: Callable[[str], None]) -> None:
        self.world = world
        self._on_lost = on_lost
        self._peers = {rank: Peer(rank) for rank in range(1, world.size)}
        self.arrivals = Arrivals(world, self._peers, self._begin_to_watch)
        self._turn = threading.Lock()  # of what is sent to all
        self._sent = 0
        self._compared = 0
        self._waits_since: float | None = None
        self._handle = 0
        self._objects: dict[int, weakref.ref[Any]] = {}
        self._forgotten: deque[int] = deque()
        self._lost = ""
        self._losing = threading.Lock()
        self._ended = threading.Event()

    # Life

    def end(self, reason: str) -> None:
        """Have the other ranks end as this one does. Any thread."""
        self._ended.set()
        self.arrivals.close()
        for peer in self._peers.values():
            if peer.watch is not None:
                with contextlib.suppress(LinkLost):
                    peer.watch.send({"end": reason, "clean": not self._lost})

    @property
    def lost(self) -> str:
        """Why the ranks cannot go on; empty while they can."""
        return self._lost

    def lose(self, reason: str) -> None:
        """The ranks cannot go on. Any thread."""
        with self._losing:
            if self._lost or self._ended.is_set():
                return
            self._lost = reason
        log.error(logline("rank_lost", reason=reason))
        self.end(reason)
        self._on_lost(reason)

    def expect_loss(self, seconds: float) -> None:
        """An error may be what the loss of a rank looks like here: raise `RankLost` if it turns out to be so."""
        until = time.monotonic() + seconds
        while not self._lost and time.monotonic() < until:
            time.sleep(0.02)
        if self._lost:
            raise RankLost(self._lost)

    # Watching

    def _begin_to_watch(self, peer: Peer, link: Link) -> None:
        threading.Thread(target=self._watch, args=(peer, link), name="ranks-watch", daemon=True).start()

    def _watch(self, peer: Peer, link: Link) -> None:
        try:
            while not self._ended.is_set():
                link.send({"progress": self._progress})
                self._flush_idle()
                said = link.receive(BEAT_SECONDS)
                if said is not None:
                    self._hear(peer, said)
                self._check_alive(peer)
                self._check_company()
                self._check_launcher()
        except LinkLost as error:
            self.lose(f"rank {peer.rank} is gone: {error}")

    def _hear(self, peer: Peer, said: Message) -> None:
        peer.heard_at = time.monotonic()
        if "fault" in said:
            self.lose(f"rank {peer.rank}: {said['fault']}")
        progress = int(said.get("progress", peer.progress))
        if progress != peer.progress:
            peer.progress, peer.moved_at = progress, time.monotonic()

    def _check_alive(self, peer: Peer) -> None:
        now = time.monotonic()
        if now - peer.heard_at > SILENT_SECONDS:
            self.lose(f"rank {peer.rank} has said nothing for {now - peer.heard_at:.1f} s")
        if peer.progress >= self._progress:
            peer.level_at = now
        elif now - peer.level_at > BEHIND_SECONDS:
            self.lose(f"rank {peer.rank} stalls: it has not begun what rank 0 is past for {now - peer.level_at:.1f} s")

    def _check_launcher(self) -> None:
        # Between it and this process is mlx.launch, which outlives it.
        if self.world.launcher:
            try:
                os.kill(self.world.launcher, 0)
            except ProcessLookupError:
                self.lose("the process that started the ranks is gone")

    @property
    def _progress(self) -> int:
        return 2 * self._sent + 1 if self._sent else 0

    def _flush_idle(self) -> None:
        # Never waits: the engine thread may hold the turn in a send to a rank that does not read.
        if self._forgotten and self._turn.acquire(blocking=False):
            try:
                self._send_all(self._drops())
            finally:
                self._turn.release()

    @contextlib.contextmanager
    def waiting(self) -> Generator[None]:
        """Rank 0 waits for the device. Engine thread only."""
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = None

    def _check_company(self) -> None:
        """The others are done with what this rank waits for: so should it be, after what it computes by itself."""
        since, peers = self._waits_since, self._peers.values()
        if since is None or any(peer.progress <= self._progress for peer in peers):
            return
        alone = time.monotonic() - max(since, *(peer.moved_at for peer in peers))
        if alone > ALONE_SECONDS:
            self.lose(f"rank 0 has been alone in a step for {alone:.0f} s")

    # Commands

    def new_handle(self, held: Any) -> int:
        """A handle for what the others are about to make as well; engine thread only."""
        self._handle += 1
        self._objects[self._handle] = weakref.ref(held)
        return self._handle

    def forget(self, handle: int) -> None:
        """What has this handle is gone here. Any thread, for the collector runs on any."""
        self._forgotten.append(handle)

    def command(self, op: str, **fields: Any) -> None:
        """Have every other rank do something after all that they were told before. Engine thread only.

        Raises:
            RankLost: They cannot.
        """
        with self._turn:
            self._send_all([{"op": op, **fields}, *self._drops()])
            self._sent += 1

    def flush(self) -> None:
        """Have the others drop now what this rank holds no more. Engine thread only."""
        with self._turn:
            self._send_all(self._drops())

    def tell(self, message: Message) -> None:
        """A word within a command, to all. Engine thread only."""
        with self._turn:
            self._send_all([message])

    def compare_now_and_then(self) -> None:
        """Have every other rank compare what it holds with what this one holds, if it was not done for a while.

        Engine thread only, where the others have been told of all that this rank has done.
        """
        if self._sent - self._compared < CHECK_EVERY:
            return
        self._compared = self._sent
        # Held meanwhile: the collector may run on another thread.
        alive = {handle: one for handle, reference in list(self._objects.items()) if (one := reference()) is not None}
        held = {handle: numbers for handle, one in alive.items() if (numbers := one.numbers()) is not None}
        self.command("check", handles=list(held), digest=digest(held))

    def _drops(self) -> list[Message]:
        ids: list[int] = []
        while self._forgotten:
            ids.append(self._forgotten.popleft())
            self._objects.pop(ids[-1], None)
        return [{"op": "drop", "handles": ids}] if ids else []

    def _send_all(self, messages: list[Message]) -> None:
        if self._lost:
            raise RankLost(self._lost)
        for peer in self._peers.values():
            if peer.commands is None or not messages:
                continue
            try:
                peer.commands.send(*messages)
            except LinkLost as error:
                self.lose(f"rank {peer.rank} is gone: {error}")
                raise RankLost(self._lost) from None

    def received(self, seconds: float) -> list[tuple[int, Message]]:
        """What the other ranks have answered meanwhile, each with its rank. Engine thread only.

        Raises:
            RankLost: One of them is gone.
        """
        if self._lost:
            raise RankLost(self._lost)
        answers: list[tuple[int, Message]] = []
        for peer in self._peers.values():
            if peer.commands is None:
                continue
            try:
                answer = peer.commands.receive(seconds / len(self._peers))
            except LinkLost as error:
                self.lose(f"rank {peer.rank} is gone: {error}")
                raise RankLost(self._lost) from None
            if answer is not None:
                answers.append((peer.rank, answer))
        return answers
