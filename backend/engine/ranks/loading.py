"""One load on all ranks: each reads and divides the model by itself, then they try it out together.

Before each pass of the trial rank 0 says whether the load is still wanted, so that no rank begins one alone.
"""

import faulthandler
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend.config import ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine import waits
from backend.engine.loading import LoadedModel, ModelFiles, Progress, load_model
from backend.engine.ranks.arrivals import JOIN_SECONDS
from backend.engine.ranks.leader import Leader
from backend.engine.ranks.link import Message
from backend.engine.ranks.options import refuse_what_does_not_hold, told
from backend.engine.ranks.over import kinds_of, mirrored
from backend.engine.ranks.sharding import divide, join_group, needle, way_of
from mlx_cache.payload import MlxPayload

GROUP_SECONDS = 9
"""For MLX to connect the ranks, all of which are there; while it does, nothing else of the process runs."""
STOP_SECONDS = 30
"""For a rank to give up a load that has failed elsewhere; it may be in the middle of reading a large file."""
STANDARD_ERROR = 2
HEAR_SECONDS = 2.0
TRIAL_SECONDS = 60.0
"""For another rank to end a trial that is over here: their last pass was one."""
_NOT_MINE = "another rank has failed"


def guarded_group(backend: str) -> Any:
    """MLX's group of all ranks, proven to compute; one that does not come up in time ends the process.

    Raises:
        ModelLoadFailed: It cannot be had, or its collectives are wrong.
    """
    # A thread that needs no interpreter lock: MLX holds that while it connects.
    faulthandler.dump_traceback_later(GROUP_SECONDS, exit=True, file=STANDARD_ERROR)
    try:
        group = join_group(backend)
    except (RuntimeError, ValueError) as error:
        raise ModelLoadFailed(f"{backend}: {error}") from None
    finally:
        faulthandler.cancel_dump_traceback_later()
    wrong = needle(group)
    if wrong:
        raise ModelLoadFailed(f"{backend}: {wrong}")
    return group


def wait_with(leader: Leader) -> None:
    """From here on a wait that fails because a rank is gone says so. Engine thread only."""

    def telling(call: Callable[..., None]) -> Callable[..., None]:
        def tell(*arrays: Any) -> None:
            try:
                with leader.waiting():
                    call(*arrays)
            except Exception:
                leader.expect_loss(1.0)
                raise

        return tell

    waits.evaluate, waits.put = telling(waits.evaluate), telling(waits.put)


class LeadingLoad:
    """Rank 0's part in one load; see `backend.engine.loading.sharding.Sharding`. Engine thread only.

    Attributes:
        way: How the model is divided, once it is.
        failures: The other ranks' failures by rank.
    """

    def __init__(self, leader: Leader, group: Any, asked: str, cancelled: Callable[[], bool]) -> None:
        self._leader = leader
        self._group = group
        self._asked = asked
        self._cancelled = cancelled
        self._answers: dict[int, Message] = {}
        self._stopped: set[int] = set()
        self._told_to_stop = False
        self.way = ""
        self.failures: dict[int, str] = {}

    def divide(self, model: Any, settings: Mapping[str, Any]) -> None:
        """Leave this rank's shard."""
        self.way = way_of(model, settings, self._asked, self._group.size())
        divide(model, self.way, self._group)

    def ready(self, kinds: Sequence[str]) -> None:
        """Wait until every rank has its weights.

        Raises:
            ModelLoadFailed: One has not, or has layers of other kinds, or nobody wants them any more.
        """
        for rank, message in self.hear().items():
            if message["ready"] != list(kinds):
                theirs, mine = ", ".join(message["ready"]), ", ".join(kinds)
                raise ModelLoadFailed(f"ranks: rank {rank} has layers with {theirs}, rank 0 with {mine}")
        if self.cancelled():
            raise ModelLoadFailed("loading was cancelled")

    def cancelled(self) -> bool:
        """Whether the load ends here, on all ranks; they ask before each pass."""
        if self._told_to_stop or self._cancelled():
            return True
        self._leader.tell({"go": True})
        return False

    def is_over(self) -> bool:
        """Whether this rank need not read on."""
        self._receive(0)
        return bool(self.failures) or self._cancelled()

    def hear(self, within: float = math.inf) -> Mapping[int, Message]:
        """What each of the other ranks has come to.

        Args:
            within: Seconds after which one that has said nothing is lost.

        Raises:
            ModelLoadFailed: One of them has failed, or nobody wants the model any more.
        """
        until = time.monotonic() + within
        while len(self._answers.keys() | self._stopped) < self._leader.world.size - 1:
            if self._cancelled():
                self._stop()
            if time.monotonic() > until:
                self._leader.lose("the load's trial takes other passes on another rank")
            self._receive(0.05)
        if self.failures or self._told_to_stop:
            raise ModelLoadFailed(_NOT_MINE if self.failures else "loading was cancelled")
        answers, self._answers = self._answers, {}
        return answers

    def serve(self) -> None:
        """All ranks keep what they have loaded."""
        self._leader.tell({"serve": True})

    def give_up(self) -> None:
        """Have all ranks drop what they have, and wait until they have."""
        # What is wrong here is often wrong there too, and best told at once.
        until = time.monotonic() + HEAR_SECONDS
        while len(self._answers.keys() | self._stopped) < self._leader.world.size - 1 and time.monotonic() < until:
            self._receive(0.05)
        self._stop()
        until = time.monotonic() + STOP_SECONDS
        while len(self._stopped) < self._leader.world.size - 1:
            if time.monotonic() > until:
                late = sorted(set(range(1, self._leader.world.size)) - self._stopped)
                self._leader.lose(f"rank {late[0]} does not end a load that has failed")
            self._cancelled()  # a sign of life
            self._receive(0.05)

    def _stop(self) -> None:
        if not self._told_to_stop:
            self._told_to_stop = True
            self._leader.tell({"stop": True})

    def _receive(self, seconds: float) -> None:
        for rank, message in self._leader.received(seconds):
            if message.get("failed"):
                self.failures[rank] = message["failed"]
            if "stopped" in message:
                self._stopped.add(rank)
            else:
                self._answers[rank] = message


class RankLoader:
    """Loads models over all ranks, with the signature of `load_model`. Engine thread only, but for its making."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._group: Any = None

    def load(
        self,
        config: ModelConfig,
        files: ModelFiles | None = None,
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        known: LoadedModel | None = None,
    ) -> LoadedModel:
        """Load on every rank.

        Raises:
            ModelLoadFailed: Naming the ranks that failed, each with its own line.
        """
        del known  # no model sleeps here
        refuse_what_does_not_hold(config)
        self._join(cancelled)
        self._leader.flush()
        self._leader.command("load", **told(config))
        part = LeadingLoad(self._leader, self._group, config.engine.ranks, cancelled)
        try:
            return self._load_and_hear(config, files, progress, part)
        except ModelLoadFailed as error:
            own = error.message
        # Out here: the exception's frames hold the model.
        part.give_up()
        raise ModelLoadFailed(_by_rank(own, part.failures, self._leader.world.size))

    def _load_and_hear(
        self,
        config: ModelConfig,
        files: ModelFiles | None,
        progress: Progress | None,
        part: LeadingLoad,
    ) -> LoadedModel:
        loaded = load_model(config, files, progress=progress, cancelled=part.is_over, sharding=part)
        if part.cancelled():
            raise ModelLoadFailed("loading was cancelled")
        kinds = kinds_of(MlxPayload(loaded.kept_whole, evaluate=waits.wait), loaded.new_cache(), loaded.model)
        reports = part.hear(TRIAL_SECONDS)
        part.serve()
        world = self._leader.world
        facts = {"ranks": f"{world.size}, {part.way} parallel over {world.backend}"}
        return mirrored(loaded, self._leader, reports, kinds=kinds, facts=facts)

    def _join(self, cancelled: Callable[[], bool]) -> None:
        leader = self._leader
        if self._group is not None:
            return
        missing = leader.arrivals.wait_for_all(cancelled)
        if missing:
            names = ", ".join(f"rank {rank}" for rank in missing)
            raise ModelLoadFailed(f"{names}: not there within {JOIN_SECONDS:g} s")
        wait_with(leader)
        leader.command("group")
        failures: dict[int, str] = {}
        answered = 0
        group = None
        try:
            group = guarded_group(leader.world.backend)
        except ModelLoadFailed as error:
            failures[0] = error.message
        while answered < leader.world.size - 1:
            for rank, message in leader.received(0.05):
                answered += 1
                failures |= {rank: message["failed"]} if "failed" in message else {}
        if failures:
            raise ModelLoadFailed(_by_rank("", failures, leader.world.size))
        self._group = group


def _by_rank(own: str, failures: Mapping[int, str], size: int) -> str:
    """Every rank's failure by its rank, or that of all."""
    lines = dict(failures)
    if not lines:
        return own
    if own and own != _NOT_MINE and not own.endswith("cancelled"):
        lines[0] = own
    if len(lines) == size and len(set(lines.values())) == 1:
        return lines[0]
    return "; ".join(f"rank {rank}: {text}" for rank, text in sorted(lines.items()))
