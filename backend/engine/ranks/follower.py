"""A rank that follows: it does with its shard what rank 0 tells, in that order, and ends when that does."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Never

from backend.core.logline import logline
from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.ranks.arrivals import JOIN_SECONDS, versions
from backend.engine.ranks.link import Link, LinkLost
from backend.engine.ranks.peer import BEAT_SECONDS, SILENT_SECONDS
from backend.engine.ranks.world import World

log = logging.getLogger(__name__)

# So long after SIGTERM rank 0 has let its requests end, or never will.
TERM_SECONDS = 20.0
# So long after this rank's own failure rank 0 has ended all, or cannot.
FAULT_SECONDS = 4.0


class Follower:
    """One rank, from its start to its end. The main thread computes; `watch` is another's.

    Args:
        leave: Ends the process, from any thread: whether that was meant, and why.
    """

    def __init__(self, world: World, leave: Callable[[bool, str], Never]) -> None:
        self._world = world
        self._leave = leave
        self._progress = 0
        self._heard_at = 0.0
        self._number = 0

    def run(self) -> Never:
        """Follow rank 0."""
        try:
            commands, watch = self._connect("commands"), self._connect("watch")
        except LinkLost as error:
            self._leave(False, f"rank {self._world.rank}: {error}")
        self._heard_at = time.monotonic()
        threading.Thread(target=self._watch, args=(watch,), name="watch", daemon=True).start()
        threading.Thread(target=self._await_signal, name="signals", daemon=True).start()
        log.info(logline("rank_ready", rank=self._world.rank, size=self._world.size, pid=os.getpid()))
        try:
            self._follow(commands)
        except LinkLost as error:
            self._leave_soon(f"rank 0 is gone: {error}")
        except FOREIGN as error:
            log.error(logline("rank_failed", error=type(error).__name__, text=one_line(error)))
            log.debug("rank_failed", exc_info=error)
            with contextlib.suppress(LinkLost):
                watch.send({"fault": f"{type(error).__name__}: {one_line(error)}"})
            self._leave_soon(f"rank {self._world.rank}: {type(error).__name__}: {one_line(error)}")

    def _leave_soon(self, sentence: str) -> Never:
        """Rank 0 says whether this was meant, if it still can."""
        time.sleep(FAULT_SECONDS)
        self._leave(False, sentence)

    def _connect(self, kind: str) -> Link:
        until = time.monotonic() + JOIN_SECONDS
        while True:
            try:
                link = Link(socket.create_connection(self._world.control, timeout=SILENT_SECONDS))
                break
            except OSError as error:
                if time.monotonic() > until:
                    host, port = self._world.control
                    raise LinkLost(f"rank 0 does not listen at {host}:{port}: {error}") from None
                time.sleep(BEAT_SECONDS / 5)
        link.send({"token": self._world.token, "rank": self._world.rank, "kind": kind, "versions": versions()})
        answer = link.receive(SILENT_SECONDS) or {"refused": "no answer"}
        if "refused" in answer:
            raise LinkLost(f"rank 0 refuses: {answer['refused']}")
        return link

    def _await_signal(self) -> None:
        number = signal.sigwait({signal.SIGTERM, signal.SIGINT})
        # It came to all ranks, most likely: rank 0 needs this one until its requests have ended.
        time.sleep(TERM_SECONDS)
        self._leave(True, f"stopped by {signal.Signals(number).name}")

    def _watch(self, watch: Link) -> None:
        try:
            while True:
                watch.send({"progress": self._progress})
                said = watch.receive(BEAT_SECONDS)
                now = time.monotonic()
                if said is not None:
                    self._heard_at = now
                    if "end" in said:
                        self._leave(said["clean"], said["end"])
                if now - self._heard_at > SILENT_SECONDS:
                    self._leave(False, f"rank 0 has said nothing for {now - self._heard_at:.1f} s")
        except LinkLost as error:
            self._leave(False, f"rank 0 is gone: {error}")

    def _follow(self, commands: Link) -> Never:
        from backend.engine.ranks.following import Following  # imports MLX

        following = Following(self._world, commands, self._begun)
        while True:
            message = following.next_message()
            self._number += 1
            # What only rearranges arrays has begun by now; what goes to the device says so itself.
            if message["op"] not in ("step", "chunk", "verify"):
                self._begun()
            following.do(message)
            self._progress = 2 * self._number + 2

    def _begun(self) -> None:
        self._progress = 2 * self._number + 1


def follow(world: World, blas: str, leave: Callable[[bool, str], Never]) -> Never:
    """Import what computes, then follow rank 0; it ends by `leave`."""
    from backend.engine.thread import warm_up

    # Blocked in all threads, those of libraries too: one that waits for it is told even while another computes.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        warm_up(blas)
    except FOREIGN as error:
        leave(False, f"rank {world.rank}: {one_line(error)}")
    Follower(world, leave).run()
