"""What a rank that follows holds, under rank 0's handles, and what it does with it when told."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

from backend.core.freed_memory import give_back
from backend.engine.batching.batch import DecodeBatch
from backend.engine.batching.emitted import Emitted
from backend.engine.batching.row import Row
from backend.engine.batching.verification import Draw
from backend.engine.kv.going_back import Pass
from backend.engine.ranks.link import Message
from backend.engine.ranks.mirrored import lengths
from backend.engine.ranks.state import digest
from backend.engine.waits import wait
from mlx_cache.blocks import Block, Layout, Piece, Restorable, State
from mlx_cache.payload import MlxPayload


class Diverged(Exception):
    """This rank holds something else than rank 0."""


class _NoSampling:
    """Stands for a row's sampling, which rank 0 has."""

    def allowed(self) -> None:
        """Nothing is drawn here."""


@dataclass(slots=True, eq=False)
class FollowedRow:
    """A row as a batch knows it."""

    caches: list[Any] | None
    covered: int
    last_token: int = 0
    sampling: _NoSampling = field(default_factory=_NoSampling)


class FollowingBatch(DecodeBatch):
    """A batch that is fed what rank 0 has drawn, and draws nothing."""

    def __init__(self, model: Callable[..., mx.array], begun: Callable[[], None], *, mergeable: bool) -> None:
        super().__init__(model, mergeable=mergeable)
        self._begun = begun
        self._run: Pass | None = None

    def step(self) -> list[Emitted]:
        """Feed every row's last token; there is nothing to emit."""
        logits = self._forward(mx.array([row.last_token for row in self.rows]))
        self._begun()
        wait(logits, self._states())
        self._settled, self.in_flight = True, False
        return []

    def look_at(self, tokens: Sequence[Sequence[int]]) -> None:
        """Run a pass over `tokens` `[rows, width]`."""
        self._run = self._start_pass(tokens)
        self._begun()
        wait(self._run.logits, self._states())

    def keep(self, kept: Sequence[int]) -> None:
        """Leave the caches as if each row had been fed so many of the pass' first tokens, 1 or more."""
        run, self._run = self._run, None
        assert run is not None
        run.keep(kept)
        self._begun()
        wait(self._states())
        for row, n in zip(self.rows, kept, strict=True):
            row.covered += n
        self._settled, self.in_flight = True, False

    def _draw_from(self, logits: mx.array, drafts: Sequence[Sequence[int]]) -> tuple[Draw, list[mx.array]]:
        raise Diverged("rank 0 draws")

    def numbers(self) -> list[int]:
        """What is equal on all ranks."""
        return [row.covered for row in self.rows]


@dataclass(frozen=True, slots=True)
class _KeptBlock:
    """A block, and the layout of the caches that it was copied from."""

    block: Block
    layout: Layout

    def numbers(self) -> list[int]:
        return [self.block.start, self.block.end]


@dataclass(frozen=True, slots=True)
class _KeptState:
    """A state, and the layout of the caches that it was copied from."""

    state: State
    layout: Layout

    def numbers(self) -> list[int]:
        return []


class Shards:
    """One model's, of one rank. The thread that loaded it only.

    Args:
        begun: Told when the device is given what was asked for.
    """

    def __init__(
        self,
        model: Callable[..., mx.array],
        new_cache: Callable[[], list[Any]],
        payload: MlxPayload,
        begun: Callable[[], None],
        restore_limits: Callable[[], None],
    ) -> None:
        self._model = model
        self._new_cache = new_cache
        self._payload = payload
        self._begun = begun
        self._restore_limits = restore_limits
        self._held: dict[int, Any] = {}

    def do(self, message: Message) -> None:
        """Do what rank 0 has done, or does now. Raises whatever that raises here."""
        getattr(self, f"_{message['op']}")(message)

    def close(self) -> None:
        """Drop all of it and return the memory."""
        self._held.clear()
        del self._model, self._new_cache, self._payload
        gc.collect()
        self._restore_limits()
        mx.clear_cache()
        give_back()

    def drop(self, handles: Sequence[int]) -> None:
        """Rank 0 has these no more."""
        for handle in handles:
            self._held.pop(handle, None)

    def _check(self, message: Message) -> None:
        held: dict[int, Sequence[int]] = {}
        for handle in message["handles"]:
            one = self._held.get(handle)
            held[handle] = [-1] if one is None else lengths(one) if isinstance(one, list) else one.numbers()
        if digest(held) != message["digest"]:
            raise Diverged("holds something else than rank 0")

    def _caches(self, message: Message) -> None:
        self._held[message["handle"]] = self._new_cache()

    def _chunk(self, message: Message) -> None:
        caches = self._held[message["caches"]]
        self._model(mx.array(message["tokens"])[None], cache=caches)
        self._begun()
        wait([cache.state for cache in caches])

    def _batch(self, message: Message) -> None:
        self._held[message["handle"]] = FollowingBatch(self._model, self._begun, mergeable=message["mergeable"])

    def _join(self, message: Message) -> None:
        batch: FollowingBatch = self._held[message["batch"]]
        rows = [
            FollowedRow(self._held[handle], covered)
            for handle, covered in zip(message["caches"], message["covered"], strict=True)
        ]
        batch.join(cast("list[Row]", rows))

    def _step(self, message: Message) -> None:
        batch: FollowingBatch = self._held[message["batch"]]
        for row, token in zip(batch.rows, message["tokens"], strict=True):
            row.last_token = token
        batch.step()

    def _verify(self, message: Message) -> None:
        self._held[message["batch"]].look_at(message["tokens"])

    def _keep(self, message: Message) -> None:
        self._held[message["batch"]].keep(message["kept"])

    def _view(self, message: Message) -> None:
        batch: FollowingBatch = self._held[message["batch"]]
        self._held[message["handle"]] = batch.view(batch.rows[message["row"]])

    def _leave(self, message: Message) -> None:
        batch: FollowingBatch = self._held[message["batch"]]
        batch.leave([batch.rows[place] for place in message["rows"]])

    def _blocks(self, message: Message) -> None:
        caches = self._held[message["caches"]]
        layout = self._payload.layout(caches)
        ranges = [[(start, end) for start, end in group] for group in message["ranges"]]
        copied = self._payload.copy_blocks(caches, layout, ranges)
        for blocks, handles in zip(copied, message["handles"], strict=True):
            for block, handle in zip(blocks, handles, strict=True):
                self._held[handle] = _KeptBlock(block, layout)

    def _state(self, message: Message) -> None:
        caches = self._held[message["caches"]]
        layout = self._payload.layout(caches)
        self._held[message["handle"]] = _KeptState(self._payload.copy_state(caches, layout), layout)

    def _cut(self, message: Message) -> None:
        kept: list[_KeptBlock] = [self._held[handle] for handle, _ in message["blocks"]]
        cuts = [(one.block, at) for one, (_, at) in zip(kept, message["blocks"], strict=True)]
        for one, halves, handles in zip(kept, self._payload.cut(kept[0].layout, cuts), message["handles"], strict=True):
            for half, handle in zip(halves, handles, strict=True):
                self._held[handle] = _KeptBlock(half, one.layout)

    def _restore(self, message: Message) -> None:
        state: _KeptState | None = None if message["state"] is None else self._held[message["state"]]
        pieces = [[(self._held[handle], start, end) for handle, start, end in group] for group in message["pieces"]]
        layout = state.layout if state is not None else next(group[0][0].layout for group in pieces if group)
        restorable = Restorable(
            message["length"],
            [[Piece(kept.block, start, end) for kept, start, end in group] for group in pieces],
            None if state is None else state.state,
        )
        self._held[message["handle"]] = self._payload.restore(layout, restorable, message["room"])
