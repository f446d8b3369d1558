"""A fault at the n-th call of a place, and whose request it was."""

import errno
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from backend.engine import waits
from backend.engine.batching.row import Row
from backend.engine.batching.session import Session
from backend.engine.sampling.device import sampler as device_sampler
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.sampling.host import sampler as host_sampler
from backend.engine.sampling.host.sampler import HostSampler
from backend.engine.sampling.row_sampling import RowSampling
from backend.grammar.constraints import GrammarConstraint
from backend.output.stream import OutputStream
from mlx_cache import PromptCache
from mlx_cache.disk.system import System
from mlx_cache.payload import MlxPayload
from tests.engine.faulty_device import spoil
from tests.engine.owners import names_of, whose

CACHE = ("fetch", "insert", "match_length", "match_disk_at_most", "fetch_from_disk", "trim_to", "continuation")
PLACES: dict[str, tuple[tuple[Any, str], ...]] = {
    "wait": ((waits, "evaluate"),),
    "put": ((waits, "put"),),
    "sampler": ((HostSampler, "draw"), (DeviceSampler, "sample_lazy")),
    "processor": ((host_sampler, "processed"), (device_sampler, "processed")),
    "output": ((OutputStream, "push"), (OutputStream, "finish")),
    "grammar": ((GrammarConstraint, "mask"), (GrammarConstraint, "advance")),
    "cache": (
        *((PromptCache, name) for name in CACHE),
        *((MlxPayload, name) for name in ("layout", "copy_blocks", "copy_state", "restore", "cut")),
    ),
    "disk read": ((System, "read"), (System, "open_file")),
    "disk write": ((System, "write"), (System, "rename"), (System, "sync")),
}
KINDS = ("model", "draft", *PLACES)
STEPS = ("model", "put", "wait", "sampler")


class Planted(Exception):
    """What a device or a library would raise."""


class Planting:
    """Counts the calls of one place since `arm`; the one that is due fails.

    Attributes:
        lost: Names of the requests that must not be answered whole.
        may_lose: Those that may end either way: what the last token did to a grammar no draw asks any more.
        quiet: No call counts.
        happened: How often a fault has, by place.
    """

    def __init__(self, patched: pytest.MonkeyPatch, session: Callable[[], Session | None]) -> None:
        self._session = session
        self.happened: Counter[str] = Counter()
        self._place, self._left, self.quiet = "", 0, False
        self.lost: set[str] = set()
        self.may_lose: set[str] = set()
        for kind, places in PLACES.items():
            for owner, name in places:
                patched.setattr(owner, name, self._watched(kind, getattr(owner, name)))

    @property
    def armed(self) -> bool:
        """Whether a call is due."""
        return self._left > 0

    def arm(self, place: str, n: int) -> None:
        """The n-th call from now."""
        self._place, self._left = place, n

    def disarm(self) -> None:
        """No call any more."""
        self._left = 0

    def model(self, kind: str, inner: Any) -> Callable[..., Any]:
        """A model, or a draft model, whose calls count."""
        return self._watched(kind, inner)

    def _watched(self, kind: str, sound: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._left and kind == self._place and not self.quiet:
                self._left -= 1
                if not self._left:
                    self.happened[kind] += 1
                    self._note(kind, args)
                    if kind == "wait":
                        # The device has computed garbage, and says so.
                        mx.eval(*args)
                        spoil(args)
                    raise OSError(errno.EIO, "planted") if kind.startswith("disk") else Planted("planted")
            return sound(*args, **kwargs)

        return call

    def _note(self, kind: str, args: tuple[Any, ...]) -> None:
        session = self._session()
        if session is None or threading.current_thread() is not threading.main_thread():
            return  # on a disk's thread it is nobody's
        own = self._rows_of(kind, args, session.room.rows)
        (self.may_lose if kind == "grammar" else self.lost).update(names_of(own))

    @staticmethod
    def _rows_of(kind: str, args: tuple[Any, ...], rows: list[Row]) -> list[Row]:
        if kind in ("cache", "draft") or kind.startswith("disk"):
            return []
        if kind == "output":
            return [row for row in rows if row.submit.output is args[0]]
        if kind == "grammar":
            return [row for row in rows if row.submit.constraint is args[0]]
        if kind == "processor" and isinstance(args[1], RowSampling):
            return [row for row in rows if row.sampling is args[1]]
        return whose()
