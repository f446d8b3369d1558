"""The seam between the cache in memory and the disk below it: what is offered when. No mlx.

What is worth writing: what a fetch has hit, what is being evicted, what a pin names, and everything at a flush.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mlx_cache.blocks import Block, State
from mlx_cache.disk.offers import Offer
from mlx_cache.disk.rests import Share, all_of_it
from mlx_cache.disk.tier import DiskTier
from mlx_cache.index import Index
from mlx_cache.plans import Found, Pin
from mlx_cache.results import Fetched
from mlx_cache.stats import Reason
from mlx_cache.tree import Node, Tokens

Namespace = Callable[[Hashable], str | None]


def text_alone(key: Hashable) -> str | None:
    """The namespace of a model key that is text; other keys may not mean the same in another process."""
    return key if isinstance(key, str) else None


class Below:
    """Methods with `index` or `node` are called with the cache's lock held and only take notes."""

    def __init__(self, disk: DiskTier, namespace: Namespace) -> None:
        self.disk = disk
        self._namespace = namespace
        self._noted: list[tuple[str, Offer]] = []
        self._pinned: dict[str, tuple[Pin, int]] = {}

    # Looking up

    def match(self, key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens the disk would give."""
        namespace = self._namespace(key)
        return self.disk.match(namespace, tokens) if namespace is not None else 0

    def match_at_most(self, key: Hashable, tokens: Sequence[int] | Tokens) -> int:
        """How many tokens the disk may give."""
        namespace = self._namespace(key)
        return self.disk.match_at_most(namespace, tokens) if namespace is not None else 0

    def read(
        self,
        key: Hashable,
        tokens: Sequence[int] | Tokens,
        template: Sequence[Any],
        room: int,
        cancelled: Callable[[], bool] | None,
        least: int = 1,
        share: Share = all_of_it,
    ) -> Fetched:
        """See DiskTier.read."""
        namespace = self._namespace(key)
        if namespace is None:
            return Fetched(None, 0, Reason.EMPTY, 0)
        return self.disk.read(namespace, tokens, template, room=room, least=least, cancelled=cancelled, share=share)

    # Upkeep

    def forget(self, key: Hashable, tokens: Sequence[int] | Tokens, keep: int) -> None:
        """Remove the files of a sequence, up to where another needs them, or `keep`."""
        namespace = self._namespace(key)
        if namespace is not None:
            self.disk.forget(namespace, tokens, keep=keep)

    def clear(self, key: Hashable | None) -> None:
        """Remove the files of one key's namespace, or all."""
        namespace = self._namespace(key) if key is not None else None
        if key is None or namespace is not None:
            self.disk.clear(namespace)

    def clear_group(self, key: Hashable) -> None:
        """Remove the files of every namespace with the same first line as this key's."""
        namespace = self._namespace(key)
        if namespace is not None:
            self.disk.clear_group(namespace)

    # Offering

    def hit(self, key: Hashable, tokens: Tokens, found: Found) -> None:
        """A fetch was served from memory. Called without the lock: what was found is held."""
        namespace, layout, length = self._namespace(key), found.layout, found.restorable.length
        if namespace is not None and layout is not None:
            state, ends = found.restorable.state, not layout.cuttable
            offer = Offer([tokens[:length]], layout, found.spans, state, 0, length, with_end=ends, used=True)
            self.disk.offer(namespace, offer)

    def evicting(self, node: Node, start: int) -> None:
        """What this node holds from `start` on is about to go; at its end, only what serves to restore exactly it."""
        namespace = self._namespace(node.tree.key)
        if namespace is not None:
            # Where something longer was stored once, this is no end that a prompt will come back to.
            ends = not node.evicted if node.tree.layout.cuttable else node.has_snapshot
            self._noted.append((namespace, self._offer(node, start, node.end, with_end=ends)))

    def pins_changed(self, index: Index) -> None:
        """Pins were made, taken away, or hold more than before."""
        for name, (pin, _) in list(self._pinned.items()):
            if index.pins.get(name) is not pin:
                del self._pinned[name]
                self.hold(pin.key, pin.tokens, hold=False)
        for name, pin in index.pins.items():
            known = self._pinned.get(name)
            if known is None:
                self.hold(pin.key, pin.tokens, hold=True)
            if known is None or pin.length > known[1]:
                self._pinned[name] = (pin, pin.length)
                self._note_pin(index, pin)

    def hold(self, key: Hashable, tokens: Sequence[int] | Tokens, *, hold: bool) -> None:
        """Hold the files of a sequence, or let them go."""
        namespace = self._namespace(key)
        if namespace is not None:
            (self.disk.protect if hold else self.disk.unprotect)(namespace, tokens)

    def _note_pin(self, index: Index, pin: Pin) -> None:
        namespace = self._namespace(pin.key)
        tree, _, node, length = index.best(pin.key, pin.tokens, len(pin.tokens))
        if namespace is not None and tree is not None and node is not None:
            # A pin that is no end of anything stored is one all the same: a prompt will come back to it.
            ends = tree.layout.cuttable or length == node.end
            self._noted.append((namespace, self._offer(node, 0, length, with_end=ends)))

    def take_notes(self) -> list[tuple[str, Offer]]:
        """What is to be offered once the lock is released. Called with it held."""
        noted, self._noted = self._noted, []
        return noted

    def everything(self, index: Index) -> list[tuple[str, Offer]]:
        """All that is worth keeping, the most valuable first."""
        ranked: list[tuple[float, str, Node]] = []
        for tree in index.trees():
            namespace = self._namespace(tree.key)
            for node in tree.nodes() if namespace is not None else ():
                assert namespace is not None
                if not node.children:
                    ranked.append((node.usage.priority, namespace, node))
                elif node.state_usage is not None:
                    ranked.append((node.state_usage.priority, namespace, node))
        ranked.sort(key=lambda item: -item[0])
        return [(namespace, self._offer(node, 0, node.end, with_end=True)) for _, namespace, node in ranked]

    def _offer(self, node: Node, start: int, end: int, *, with_end: bool) -> Offer:
        path, layout = node.path(), node.tree.layout
        begin = start // self.disk.block_tokens * self.disk.block_tokens
        begin = min([begin, *(max(0, end - group.reach) for group in layout.groups if with_end and not group.is_full)])
        spans: list[list[list[Block]]] = [[list(b) for b in step.spans] for step in path if step.end > begin]
        state: State | None = node.state if end == node.end else None
        return Offer([step.tokens for step in path], layout, spans, state, start, end, with_end=with_end)
