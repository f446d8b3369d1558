"""What a rank that follows makes of rank 0's commands: it joins the group, loads, and works on its shards."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from backend.core.errors import ModelLoadFailed
from backend.core.logline import logline
from backend.engine.batching.device_share import DeviceShare
from backend.engine.batching.memory import MemoryBudget
from backend.engine.loading import LoadedModel, load_model
from backend.engine.loading.failures import FOREIGN, one_line
from backend.engine.ranks.link import Link, Message
from backend.engine.ranks.loading import guarded_group
from backend.engine.ranks.options import understood
from backend.engine.ranks.over import kinds_of, tokens_of
from backend.engine.ranks.sharding import divide, way_of
from backend.engine.ranks.shards import Shards
from backend.engine.ranks.world import World
from backend.engine.waits import wait
from mlx_cache.payload import MlxPayload

log = logging.getLogger(__name__)

WAIT_SECONDS = 7.0
"""For rank 0 to end a load that has failed here."""


class OutOfStep(Exception):
    """Rank 0 goes on with what has failed here."""


class FollowingLoad:
    """This rank's part in one load; see `backend.engine.loading.sharding.Sharding`."""

    def __init__(self, following: "Following", group: Any, asked: str) -> None:
        self._following = following
        self._group = group
        self._asked = asked
        self.together = False
        self.stopped = False

    def divide(self, model: Any, settings: Mapping[str, Any]) -> None:
        """Leave this rank's shard."""
        divide(model, way_of(model, settings, self._asked, self._group.size()), self._group)

    def ready(self, kinds: Sequence[str]) -> None:
        """Say that the weights are here, for layers of which kinds, and wait for the others'."""
        self._following.say({"ready": list(kinds)})
        self.together = True
        if self.cancelled():
            raise ModelLoadFailed("loading was cancelled")

    def cancelled(self) -> bool:
        """Whether the load ends here, on all ranks: rank 0 says so before each pass."""
        self.stopped = "stop" in self._following.next_message()
        return self.stopped

    def asked_to_stop(self) -> bool:
        """Whether rank 0 has said meanwhile that the load ends.

        Once the ranks go together that comes before a pass, and is read there.
        """
        if not self.together and not self.stopped:
            self.stopped = "stop" in (self._following.heard(0) or {})
        return self.stopped


class Following:
    """The main thread of a rank that follows.

    Args:
        begun: Told when the device is given what a command asks for.
    """

    def __init__(self, world: World, commands: Link, begun: Callable[[], None]) -> None:
        self._world = world
        self._commands = commands
        self._begun = begun
        self._group: Any = None
        self._shards: Shards | None = None
        self._model = 0

    def next_message(self) -> Message:
        """Rank 0's next word."""
        message = self.heard(None)
        assert message is not None
        return message

    def heard(self, timeout: float | None) -> Message | None:
        """Rank 0's next word, if it has come in time; what it holds no more is dropped meanwhile."""
        while True:
            message = self._commands.receive(timeout)
            if message is None or message.get("op") != "drop":
                return message
            self._drop(message["handles"])

    def say(self, message: Message) -> None:
        """Answer rank 0."""
        self._commands.send(message)

    def do(self, message: Message) -> None:
        """Carry out a command. Raises whatever it raises: this rank cannot go on then."""
        match message["op"]:
            case "group":
                self._join()
            case "load":
                self._load(message)
            case "model":
                self._model = message["handle"]
            case _:
                assert self._shards is not None
                self._shards.do(message)

    def _drop(self, handles: list[int]) -> None:
        if self._shards is None:
            return
        self._shards.drop(handles)
        if self._model in handles:
            self._shards.close()
            self._shards, self._model = None, 0
            log.info(logline("shard_freed", rank=self._world.rank))

    def _join(self) -> None:
        try:
            self._group = guarded_group(self._world.backend)
        except ModelLoadFailed as error:
            self.say({"failed": error.message})
        else:
            self.say({"joined": True})

    def _load(self, message: Message) -> None:
        config = understood(message)
        part = FollowingLoad(self, self._group, config.engine.ranks)
        failed = ""
        try:
            loaded = load_model(config, cancelled=part.asked_to_stop, sharding=part)
            if not part.cancelled():
                share = DeviceShare.of(config.engine, loaded)
                self.say(self._report(loaded, share.budget))
                verdict = self.next_message()
                if "serve" in verdict:
                    self._serve(loaded, share)
                    return
                part.stopped = "stop" in verdict
            del loaded
        except ModelLoadFailed as error:
            failed = error.message
        except FOREIGN as error:
            failed = f"{type(error).__name__}: {one_line(error)}"
        gc.collect()
        mx.clear_cache()
        if not part.stopped and not failed:
            raise OutOfStep("rank 0 goes on with the load's trial, which is over here")
        if not part.stopped:
            self.say({"failed": failed})
            self._await_stop(WAIT_SECONDS if part.together else None)
        self.say({"stopped": True})

    def _await_stop(self, seconds: float | None) -> None:
        """Rank 0 ends the load too; if it is in a pass of it, that will never end."""
        while "stop" not in (message := self.heard(seconds) or {}):
            if not message:
                raise OutOfStep("a load has failed here, and rank 0 goes on with it")

    def _report(self, loaded: LoadedModel, budget: MemoryBudget) -> Message:
        return {
            "kinds": kinds_of(MlxPayload(loaded.kept_whole, evaluate=wait), loaded.new_cache(), loaded.model),
            "serial_reason": loaded.serial_reason,
            "speculation_reason": loaded.speculation_reason,
            "uncached_reason": loaded.uncached_reason,
            "kv_tokens": tokens_of(budget.total, budget.cost),
        }

    def _serve(self, loaded: LoadedModel, share: DeviceShare) -> None:
        self._shards = Shards(
            loaded.model,
            loaded.new_cache,
            MlxPayload(loaded.kept_whole, evaluate=wait),
            self._begun,
            share.limit(),
        )
