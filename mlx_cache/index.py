"""The index: trees by namespace, plans for inserts, lookups, pins. Not thread-safe and free of mlx.

An insert is a plan (what to copy), copies made without the lock, and a commit that checks that the plan still holds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from mlx_cache.blocks import BLOCK_TOKENS, Block, Layout, Restorable, State
from mlx_cache.eviction import Eviction
from mlx_cache.missing import find_missing
from mlx_cache.plans import Found, InsertPlan, Pin
from mlx_cache.policy import Limits, Storing, Usage, WatchingPolicy
from mlx_cache.stats import Reason
from mlx_cache.tree import Hold, Match, Node, Tokens, Tree


class Index:
    """See the module. Invariant, whenever no call is running: `eviction.nbytes + reserved <= max_bytes`, or pins hold
    all that is left, since a limit that came after them is less than they hold."""

    def __init__(
        self, eviction: Eviction, *, max_bytes: int, max_size: int, max_buffers: int, block_tokens: int = BLOCK_TOKENS
    ) -> None:
        self.eviction = eviction
        self.watching = eviction.policy if isinstance(eviction.policy, WatchingPolicy) else None
        self.max_bytes = max_bytes
        self.max_size = max_size
        self.max_buffers = max_buffers
        self.block_tokens = block_tokens
        self.reserved = 0
        self.tells_of_others = True
        self.spaces: dict[Hashable, dict[Layout, Tree]] = {}
        self.pins: dict[str, Pin] = {}
        self.unsupported: dict[Hashable, str] = {}

    def trees(self) -> Iterator[Tree]:
        """Every live tree."""
        for space in self.spaces.values():
            yield from space.values()

    @property
    def n_sequences(self) -> int:
        """Stored sequences: those that are no prefix of another."""
        return sum(tree.n_leaves for tree in self.trees())

    # Lookup

    def best(self, key: Hashable, tokens: Tokens, limit: int) -> tuple[Tree | None, Match, Node | None, int]:
        """The tree of this namespace with the deepest restorable point at or before `limit`."""
        best: tuple[Tree | None, Match, Node | None, int] = (None, Match([], 0), None, 0)
        for tree in self.spaces.get(key, {}).values():
            match = tree.match(tokens)
            node, length = tree.restorable(match, limit)
            if best[0] is None or (length, match.length) > (best[3], best[1].length):
                best = (tree, match, node, length)
        return best

    def find(self, key: Hashable, tokens: Tokens, limit: int, *, counted: bool = True) -> Found:
        """Look a prompt up, count the use unless nobody has asked, and hold what was found."""
        tree, match, node, length = (self.use if counted else self.best)(key, tokens, limit)
        if self.watching is not None and counted:
            self.watching.asked(key, tokens, limit=limit, length=length)
        reason = self._reason(key, tokens, limit, tree, match, length)
        if tree is None or node is None or length == 0:
            return Found(Restorable(0), reason, match.length)
        state = node.state if tree.layout.has_state else None
        # Only the lists are copied here; which parts of the blocks to read is worked out without the lock.
        spans = [[list(blocks) for blocks in step.spans] for step in node.path()]
        return Found(Restorable(length, [], state), reason, match.length, tree.layout, Hold(node, length), spans)

    def beyond(self, keys: Iterable[Hashable], tokens: Tokens, most: int) -> tuple[int, list[Tokens]]:
        """The longest prefix of the tokens behind which something of these namespaces goes on, and that.

        Of several as long the one that was used last; see `Tree.beyond`.
        """
        best, parts = (0, 0.0), list[Tokens]()
        for tree in (tree for key in keys for tree in self.spaces.get(key, {}).values()):
            match = tree.match(tokens)
            used, behind = tree.beyond(match, most)
            if behind and (match.length, used) > best:
                best, parts = (match.length, used), behind
        return best[0], parts

    def use(self, key: Hashable, tokens: Tokens, limit: int) -> tuple[Tree | None, Match, Node | None, int]:
        """The same as `best`, counted as a use."""
        self.eviction.policy.tick()
        tree, match, node, length = self.best(key, tokens, limit)
        if node is not None and length > 0:
            self._use(match, node, length)
        return tree, match, node, length

    def _use(self, match: Match, last: Node, length: int) -> None:
        policy = self.eviction.policy
        for node in match.nodes:
            if node.start >= length:
                break
            if length < node.end and node.tail_usage is None:
                node.tail_usage = node.usage.copy()
                node.head_end = length
            elif length < node.end:
                node.head_end = max(node.head_end, length)
            elif node.tail_usage is not None:
                node.tail_usage, node.head_end = None, node.end
            policy.used(node.usage, value=self.eviction.value(node))
        if last.state_usage is not None:
            policy.used(last.state_usage, value=self.eviction.state_value(last))
        self.eviction.offer(last)

    def _reason(
        self, key: Hashable, tokens: Tokens, limit: int, tree: Tree | None, match: Match, length: int
    ) -> Reason:
        if tree is None or (match.length == 0 and not (len(tokens) and int(tokens[0]) in tree.root.evicted)):
            return self._reason_for_nothing(key, tokens, tree)
        if length >= limit:
            return Reason.FULL
        if length < min(limit, match.length):
            lost = any(node.lost_state and length < node.end <= match.length for node in match.nodes)
            return Reason.EVICTED if lost else Reason.NO_SNAPSHOT
        node = match.last or tree.root
        if match.length < node.end:
            return Reason.DIVERGED
        if int(tokens[match.length]) in node.evicted:
            return Reason.EVICTED
        return Reason.EXTENDED if node.is_leaf else Reason.DIVERGED

    def _reason_for_nothing(self, key: Hashable, tokens: Tokens, tree: Tree | None) -> Reason:
        if key in self.unsupported:
            return Reason.UNSUPPORTED_LAYER
        if not self.tells_of_others:
            return Reason.DIVERGED if tree is not None and tree.root.children else Reason.EMPTY
        others = (other for k, space in self.spaces.items() if k != key for other in space.values())
        if any(other.match(tokens).length > 0 for other in others):
            return Reason.OTHER_NAMESPACE
        return Reason.DIVERGED if tree is not None and tree.root.children else Reason.EMPTY

    # Insert

    def plan_insert(
        self,
        key: Hashable,
        layout: Layout,
        tokens: Tokens,
        *,
        snapshot: bool,
        state_nbytes: int,
        available: list[int],
        apart: bool = False,
    ) -> InsertPlan | None:
        """Reserve room and hold the path. None when not even a part fits."""
        self.eviction.policy.tick()
        if self.watching is not None:
            storing = Storing(key, layout, tokens, snapshot, state_nbytes, available)
            self.watching.storing(storing, Limits(self.max_bytes, self.max_size, self.max_buffers))
        tree = self.spaces.setdefault(key, {}).get(layout)
        if tree is None:
            tree = self.spaces[key][layout] = Tree(layout, self.block_tokens, key)
        options = {"snapshot": snapshot, "apart": apart}
        missing, version = find_missing(tree, tokens, available=available, **options), tree.version
        hold = Hold(missing.node, missing.at)
        need = missing.nbytes(layout) + (state_nbytes if missing.wants_state else 0)
        room = self._make_room(need, missing.n_new)
        if need > 0 and room < need:
            per_token = sum(group.bytes_per_token for group in layout.groups)
            if not layout.cuttable or room < per_token:
                hold.release()
                return None
            tokens = tokens[: missing.at + room // per_token]
            need = (len(tokens) - missing.at) * per_token
        if tree.version != version or len(tokens) != missing.length:
            # Making room may have shortened the very edge that is being extended.
            missing = find_missing(tree, tokens, available=available, **options)
        self.reserved += need
        return InsertPlan(tree, tokens, missing, tree.version, need, hold, snapshot, apart, available)

    def commit_insert(
        self,
        plan: InsertPlan,
        blocks: list[list[Block]],
        state: State | None,
        cuts: dict[Block, tuple[Block, Block]],
        cache_type: str,
    ) -> bool:
        """Publish the copies; False if the tree has changed so that they no longer fit."""
        tree, missing = plan.tree, plan.missing
        if tree.version != plan.version:
            again = find_missing(tree, plan.tokens, snapshot=plan.snapshot, apart=plan.apart, available=plan.available)
            if again != missing:
                return False
        # Fills and states change what a plan made meanwhile would find, though no edge moves.
        tree.version += 1
        node = tree.split(missing.node, missing.at, cuts) if missing.is_split else missing.node
        if missing.is_split:
            self._count_cuts(cuts)
        for target, group, ranges in reversed(missing.backfills):
            filled, blocks[group] = blocks[group][-len(ranges) :], blocks[group][: -len(ranges)]
            owner = node if target is missing.node else target
            owner.spans[group] = filled + owner.spans[group]
            self._count(filled)
        self._set_state(node, None if missing.length > missing.at else state)
        if missing.length > missing.at:
            parent = node
            node = tree.add(parent, plan.tokens[missing.at : missing.length].copy(), Usage(0.0, 0.0, 0.0))
            node.spans, node.cache_type = blocks, cache_type
            for group in blocks:
                self._count(group)
            self._set_state(node, state)
            node.usage = self.eviction.policy.made(value=self.eviction.value(node))
            self.eviction.offer(parent)
        elif not missing.is_split:
            self.eviction.policy.stored_again(node.usage, value=self.eviction.value(node))
        if node.has_snapshot and node.state_usage is None:
            node.state_usage = self.eviction.policy.made(value=self.eviction.state_value(node))
        self.eviction.offer(node)
        hold = Hold(node, node.end)
        self.enforce()
        hold.release()
        self._extend_pins(tree)
        return True

    def finish_insert(self, plan: InsertPlan) -> None:
        """Give the reservation and the hold back, committed or not."""
        self.reserved -= plan.reserved
        plan.hold.release()

    def _set_state(self, node: Node, state: State | None) -> None:
        if state is None:
            return
        assert node.state is None
        node.state = state
        node.lost_state = False
        self.eviction.nbytes += state.nbytes
        self.eviction.n_buffers += state.n_buffers

    def _count(self, blocks: list[Block]) -> None:
        self.eviction.nbytes += sum(block.nbytes for block in blocks)
        self.eviction.n_buffers += len(blocks)

    def _count_cuts(self, cuts: dict[Block, tuple[Block, Block]]) -> None:
        for whole, parts in cuts.items():
            self._count(list(parts))
            self.eviction.nbytes -= whole.nbytes
            self.eviction.n_buffers -= 1
            self.eviction.trash.append(whole)

    def _make_room(self, need: int, n_buffers: int) -> int:
        """Evict until `need` more bytes fit, or as many as can; returns the bytes that fit now."""
        wanted = min(need, self.max_bytes - self.reserved)
        if wanted > 0:
            left = self.max_bytes - self.reserved - wanted
            self.eviction.shrink(max_bytes=left, max_buffers=self.max_buffers - n_buffers)
        return self.max_bytes - self.reserved - self.eviction.nbytes

    def enforce(self) -> None:
        """Evict down to the cache's own limits, after an insert and after anything was let go."""
        self.trim(n_bytes=self.max_bytes - self.reserved, n_sequences=self.max_size)

    def trim(self, *, n_bytes: int, n_sequences: int) -> None:
        """Evict down to both limits, as far as nothing is held."""
        self.eviction.shrink(max_bytes=n_bytes, max_buffers=self.max_buffers)
        while self.n_sequences > n_sequences and self.eviction.drop_sequence():
            pass

    def drop(self, key: Hashable) -> None:
        """Remove a namespace, its pins too."""
        for tree in self.spaces.pop(key, {}).values():
            tree.alive = False
            for node in tree.nodes():
                self.eviction.forget(node)
        self.unsupported.pop(key, None)
        if self.watching is not None:
            self.watching.dropped(key)
        self.pins = {name: pin for name, pin in self.pins.items() if pin.key != key}

    def forget(self, key: Hashable, tokens: Tokens, keep: int) -> None:
        """Remove what only this sequence has, from its end back to `keep` at most."""
        for tree in self.spaces.get(key, {}).values():
            match = tree.match(tokens)
            # An edge that goes on where the sequence ends is a longer one's.
            if match.last is not None and match.last.end == match.length:
                self.eviction.drop_tail(match.last, keep)

    # Pins

    def pin(self, name: str, key: Hashable, tokens: Tokens) -> int:
        """Hold the stored part of a prefix, now and as it grows; returns how many tokens are held."""
        self.unpin(name)
        self.pins[name] = Pin(key, tokens)
        self._hold_pin(name)
        return self.pins[name].length

    def unpin(self, name: str) -> bool:
        """Let a named prefix go; False if there is none of that name."""
        pin = self.pins.pop(name, None)
        for hold in pin.holds if pin is not None else ():
            hold.release()
        return pin is not None

    def _extend_pins(self, tree: Tree) -> None:
        for name, pin in self.pins.items():
            if pin.length < len(pin.tokens) and self.spaces.get(pin.key, {}).get(tree.layout) is tree:
                self._hold_pin(name)

    def _hold_pin(self, name: str) -> None:
        pin = self.pins[name]
        tree, match, node, length = self.best(pin.key, pin.tokens, len(pin.tokens))
        for hold in pin.holds:
            hold.release()
        pin.holds, pin.length = [], length
        if tree is not None and match.last is not None:
            pin.holds.append(Hold(match.last, match.length, name))
            if node is not None:
                pin.holds.append(Hold(node, length, name))
