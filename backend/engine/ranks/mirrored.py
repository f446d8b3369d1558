"""Rank 0's caches, batches and stored blocks: each operation is done here, and told to the other ranks.

What only rearranges arrays is done here first, and told if it went well. What has collectives in it, which no rank ends
alone, is told first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from backend.engine.batching.batch_host import HostBatch
from backend.engine.batching.emitted import Emitted
from backend.engine.batching.row import Row
from backend.engine.batching.verification import Verification
from backend.engine.kv.going_back import Pass
from backend.engine.loading.kv_cost import leaves
from backend.engine.ranks.leader import Leader
from backend.engine.sampling.host.sampler import HostSampler
from mlx_cache.blocks import Block, Layout, Piece, Restorable, State
from mlx_cache.payload import MlxPayload


class _Held:
    """What the other ranks have under the same handle as long as this is there."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self.handle = leader.new_handle(self)

    def __del__(self) -> None:
        self._leader.forget(self.handle)


class RankCaches(list[Any]):
    """A row's layer caches on this rank; the others have theirs under `handle`."""

    def __init__(self, leader: Leader, caches: Sequence[Any]) -> None:
        super().__init__(caches)
        self._leader = leader
        self.handle = leader.new_handle(self)

    def __del__(self) -> None:
        self._leader.forget(self.handle)

    def numbers(self) -> list[int]:
        """What is equal on all ranks."""
        return lengths(self)


def lengths(caches: Sequence[Any]) -> list[int]:
    """Tokens that a row's layers cover; a layer that does not count them is left out."""
    return sorted({leaf.offset for leaf in leaves(caches) if isinstance(getattr(leaf, "offset", None), int)})


class RankModel(_Held):
    """The model's shard of this rank, as the engine calls it for a prompt's chunk: what is evaluated are the caches."""

    def __init__(self, leader: Leader, model: Callable[..., mx.array]) -> None:
        super().__init__(leader)
        self.shard = model

    def __call__(self, tokens: mx.array, *, cache: RankCaches) -> mx.array:
        """Logits `[1, n, vocab]` of tokens `[1, n]`, lazy; the caches must be evaluated next, all at once."""
        self._leader.command("chunk", caches=cache.handle, tokens=tokens[0].tolist())
        return self.shard(tokens, cache=cache)

    def numbers(self) -> None:
        """Nothing of it changes."""


class RankBatch(HostBatch):
    """Rows that decode together on all ranks; tokens are drawn here."""

    def __init__(self, leader: Leader, model: RankModel, sampler: HostSampler, *, mergeable: bool) -> None:
        super().__init__(model.shard, sampler, mergeable=mergeable)
        self._leader = leader
        self._broken = False
        self.handle = leader.new_handle(self)
        leader.command("batch", handle=self.handle, mergeable=mergeable)

    def __del__(self) -> None:
        self._leader.forget(self.handle)

    def numbers(self) -> list[int] | None:
        """What is equal on all ranks; None of a batch that is lost."""
        return None if self._broken else [row.covered for row in self.rows]

    def join(self, rows: Sequence[Row]) -> None:
        """As DecodeBatch."""
        # Held until the others have been told: what is gone here is dropped there.
        taken = [row.caches for row in rows]
        super().join(rows)
        self._leader.command(
            "join",
            batch=self.handle,
            caches=[_handle(caches or ()) for caches in taken],
            covered=[row.covered for row in rows],
        )

    def step(self) -> list[Emitted]:
        """As HostBatch."""
        self._broken = True
        emitted = super().step()
        self._broken = False
        self._leader.compare_now_and_then()
        return emitted

    def _forward(self, inputs: mx.array) -> mx.array:
        self._leader.command("step", batch=self.handle, tokens=inputs.tolist())
        return super()._forward(inputs)

    def verify(self, drafts: Sequence[Sequence[int]]) -> Verification:
        """As DecodeBatch."""
        # What is compared between ranks is whole again once it is known how much of the pass is kept.
        self._broken = True
        return super().verify(drafts)

    def _start_pass(self, tokens: Sequence[Sequence[int]]) -> Pass:
        self._leader.command("verify", batch=self.handle, tokens=tokens)
        run = super()._start_pass(tokens)
        run.before_keep = self._keep
        return run

    def _keep(self, kept: Sequence[int]) -> None:
        self._leader.command("keep", batch=self.handle, kept=kept)
        self._broken = False

    def view(self, row: Row) -> list[Any]:
        """As DecodeBatch."""
        seen = RankCaches(self._leader, super().view(row))
        self._leader.command("view", batch=self.handle, row=self.rows.index(row), handle=seen.handle)
        return seen

    def leave(self, rows: Sequence[Row]) -> None:
        """As DecodeBatch."""
        gone = {id(row) for row in rows}
        places = [index for index, row in enumerate(self.rows) if id(row) in gone]
        if not places:
            return
        self._broken = True
        super().leave(rows)
        self._broken = False
        self._leader.command("leave", batch=self.handle, rows=places)


class _Stored(_Held):
    """The data of a block or a state of the prompt cache on this rank."""

    def __init__(self, leader: Leader, data: Any, numbers: list[int]) -> None:
        super().__init__(leader)
        self.data = data
        self._numbers = numbers

    def numbers(self) -> list[int]:
        """What is equal on all ranks."""
        return self._numbers


class RankPayload:
    """The prompt cache's payload: each rank keeps its own part of the KV, rank 0's index decides for all."""

    def __init__(self, leader: Leader, inner: MlxPayload) -> None:
        self._leader = leader
        self._inner = inner

    def layout(self, prompt_cache: Sequence[Any]) -> Layout:
        """See Payload."""
        return self._inner.layout(prompt_cache)

    def offset(self, prompt_cache: Sequence[Any]) -> int | None:
        """See Payload."""
        return self._inner.offset(prompt_cache)

    def available(self, prompt_cache: Sequence[Any], layout: Layout) -> list[int]:
        """See Payload."""
        return self._inner.available(prompt_cache, layout)

    def state_nbytes(self, prompt_cache: Sequence[Any], layout: Layout) -> int:
        """See Payload."""
        return self._inner.state_nbytes(prompt_cache, layout)

    def copy_blocks(
        self, prompt_cache: Sequence[Any], layout: Layout, ranges: list[list[tuple[int, int]]]
    ) -> list[list[Block]]:
        """See Payload."""
        blocks = [
            [self._stored(block) for block in group] for group in self._inner.copy_blocks(prompt_cache, layout, ranges)
        ]
        handles = [[block.data.handle for block in group] for group in blocks]
        self._leader.command("blocks", caches=_handle(prompt_cache), ranges=ranges, handles=handles)
        return blocks

    def copy_state(self, prompt_cache: Sequence[Any], layout: Layout) -> State:
        """See Payload."""
        state = self._inner.copy_state(prompt_cache, layout)
        held = _Stored(self._leader, state.data, [])
        self._leader.command("state", caches=_handle(prompt_cache), handle=held.handle)
        return State(state.nbytes, state.n_buffers, held)

    def cut(self, layout: Layout, cuts: list[tuple[Block, int]]) -> list[tuple[Block, Block]]:
        """See Payload."""
        made = self._inner.cut(layout, [(_own(block), at) for block, at in cuts])
        halves = [(self._stored(left), self._stored(right)) for left, right in made]
        self._leader.command(
            "cut",
            blocks=[[block.data.handle, at] for block, at in cuts],
            handles=[[left.data.handle, right.data.handle] for left, right in halves],
        )
        return halves

    def restore(self, layout: Layout, restorable: Restorable, room: int, *, as_stored: bool = False) -> list[Any]:
        """See Payload."""
        if as_stored:
            raise ValueError("what ranks keep comes back in one form alone")
        state = restorable.state
        own = Restorable(
            restorable.length,
            [[Piece(_own(piece.block), piece.start, piece.end) for piece in group] for group in restorable.pieces],
            None if state is None else State(state.nbytes, state.n_buffers, state.data.data),
        )
        made = RankCaches(self._leader, self._inner.restore(layout, own, room))
        self._leader.command(
            "restore",
            length=restorable.length,
            room=room,
            pieces=[
                [[piece.block.data.handle, piece.start, piece.end] for piece in group] for group in restorable.pieces
            ],
            state=None if state is None else state.data.handle,
            handle=made.handle,
        )
        return made

    def _stored(self, block: Block) -> Block:
        held = _Stored(self._leader, block.data, [block.start, block.end])
        return Block(block.start, block.end, block.nbytes, held)


def _own(block: Block) -> Block:
    return Block(block.start, block.end, block.nbytes, block.data.data)


def _handle(caches: Sequence[Any]) -> int:
    assert isinstance(caches, RankCaches)
    return caches.handle
