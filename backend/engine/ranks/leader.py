"""Rank 0's side of the other ranks: they come, do what it does, say that they are alive, and end with it."""

import contextlib
import hmac
import logging
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from backend import __version__
from backend.core.logline import logline
from backend.engine.ranks.link import Link, LinkLost, Message
from backend.engine.ranks.state import digest
from backend.engine.ranks.world import World

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
SILENT_SECONDS = 5.0
"""A rank that says nothing for so long is lost: it was stopped, or the network between is."""
BEHIND_SECONDS = 7.0
"""As is one that has not even begun, for so long, what rank 0 is past."""
HELLO_SECONDS = 5.0
ALONE_SECONDS = 60.0
"""As are all when rank 0 is for so long in what the others are done with; of a pipeline it has the last layers."""
CHECK_EVERY = 256
"""Commands between two comparisons of what the ranks hold."""
JOIN_SECONDS = 60.0
"""From a load on, for ranks that have not come yet."""


class RankLost(BaseException):
    """Another rank is gone, stalls or has failed: no collective of this process will end any more.

    Not an Exception: nothing that goes on after an error can go on after this one.
    """


def versions() -> str:
    """What must be equal on all ranks."""
    return f"{__version__} mlx={version('mlx')} mlx_lm={version('mlx-lm')}"


@dataclass(slots=True)
class _Peer:
    """One of the other ranks. `progress` counts up as it begins and ends commands."""

    rank: int
    commands: Link | None = None
    watch: Link | None = None
    heard_at: float = 0.0
    progress: int = 0
    level_at: float = 0.0
    moved_at: float = 0.0


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
        self._peers = {rank: _Peer(rank) for rank in range(1, world.size)}
        self._came = threading.Condition()
        self._turn = threading.Lock()  # of what is sent to all
        self._sent = 0
        self._compared = 0
        self._waits_since: float | None = None
        self._handle = 0
        self._objects: dict[int, weakref.ref[Any]] = {}
        self._forgotten: deque[int] = deque()
        self._lost = ""
        self._ended = threading.Event()
        self._server: socket.socket | None = None

    # Life

    def start(self) -> None:
        """Listen for the other ranks.

        Raises:
            OSError: The address cannot be had.
        """
        host, port = self.world.control
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, port), family=family, backlog=2 * self.world.size)
        threading.Thread(target=self._accept, args=(self._server,), name="ranks-accept", daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while not self._ended.is_set() and self.missing():
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed
            link = Link(connection)
            try:
                self._greet(link)
            except LinkLost as error:
                link.close()
                log.warning(logline("rank_refused", reason=error))
        server.close()

    def _greet(self, link: Link) -> None:
        hello = link.receive(HELLO_SECONDS) or {}
        refusal = self._refusal(hello)
        if refusal:
            link.send({"refused": refusal})
            raise LinkLost(refusal)
        link.send({"welcome": True})
        peer = self._peers[hello["rank"]]
        with self._came:
            if hello["kind"] == "commands":
                peer.commands = link
            else:
                peer.watch, peer.heard_at, peer.level_at = link, time.monotonic(), time.monotonic()
                threading.Thread(target=self._watch, args=(peer, link), name="ranks-watch", daemon=True).start()
            self._came.notify_all()
        if not self.missing():
            log.info(logline("ranks_joined", size=self.world.size, backend=self.world.backend))

    def _refusal(self, hello: Message) -> str:
        if not hmac.compare_digest(str(hello.get("token", "")).encode(), self.world.token.encode()):
            return "wrong token"
        if hello.get("rank") not in list(self._peers) or hello.get("kind") not in ("commands", "watch"):
            return "no rank of this worker"
        peer = self._peers[hello["rank"]]
        if (peer.commands if hello["kind"] == "commands" else peer.watch) is not None:
            return f"rank {peer.rank} is there already"
        if hello.get("versions") != versions():
            return f"rank {peer.rank} runs {hello.get('versions')}, rank 0 runs {versions()}"
        return ""

    def missing(self) -> list[int]:
        """Ranks that have not come yet."""
        return [peer.rank for peer in self._peers.values() if peer.commands is None or peer.watch is None]

    def wait_for_all(self, cancelled: Callable[[], bool]) -> list[int]:
        """Wait until all ranks are there, or it takes too long, or nobody wants it; those that are missing then."""
        until = time.monotonic() + JOIN_SECONDS
        with self._came:
            while (missing := self.missing()) and time.monotonic() < until and not cancelled():
                self._came.wait(BEAT_SECONDS)
        return missing

    def end(self, reason: str) -> None:
        """Have the other ranks end as this one does. Any thread."""
        self._ended.set()
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.close()
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
        with self._came:
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

    def _watch(self, peer: _Peer, link: Link) -> None:
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

    def _hear(self, peer: _Peer, said: Message) -> None:
        peer.heard_at = time.monotonic()
        if "fault" in said:
            self.lose(f"rank {peer.rank}: {said['fault']}")
        progress = int(said.get("progress", peer.progress))
        if progress != peer.progress:
            peer.progress, peer.moved_at = progress, time.monotonic()

    def _check_alive(self, peer: _Peer) -> None:
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
