"""The other ranks come to rank 0: each with a connection for commands and one for signs of life."""

import contextlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from backend import __version__
from backend.core.logline import logline
from backend.engine.ranks.link import Link, LinkLost, Message
from backend.engine.ranks.peer import BEAT_SECONDS, Peer
from backend.engine.ranks.world import World

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
JOIN_SECONDS = 60.0
"""From a load on, for ranks that have not come yet."""


def versions() -> str:
    """What must be equal on all ranks."""
    return f"{__version__} mlx={version('mlx')} mlx_lm={version('mlx-lm')}"


class Arrivals:
    """Any thread. Invariant: a connection is a peer's once it has shown the token, its rank and equal versions.

    Args:
        peers: By rank; what comes is written down there.
        watch: Told of each connection for signs of life, once.
    """

    def __init__(self, world: World, peers: Mapping[int, Peer], watch: Callable[[Peer, Link], None]) -> None:
        self._world = world
        self._peers = peers
        self._watch = watch
        self._came = threading.Condition()
        self._closed = threading.Event()
        self._server: socket.socket | None = None

    def open(self) -> None:
        """Listen for the other ranks.

        Raises:
            OSError: The address cannot be had.
        """
        host, port = self._world.control
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, port), family=family, backlog=2 * self._world.size)
        threading.Thread(target=self._accept, args=(self._server,), name="ranks-accept", daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while not self._closed.is_set() and self.missing():
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
                self._watch(peer, link)
            self._came.notify_all()
        if not self.missing():
            log.info(logline("ranks_joined", size=self._world.size, backend=self._world.backend))

    def _refusal(self, hello: Message) -> str:
        if not hmac.compare_digest(str(hello.get("token", "")).encode(), self._world.token.encode()):
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

    def close(self) -> None:
        """Nobody comes any more."""
        self._closed.set()
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.close()
