"""Position automata of lexemes, to see where a greedy lexer would go wrong.

Glushkov's construction: a state per occurrence of a character set, an edge where two may stand side by side. Sets
of positions and of characters are bits of integers; characters are grouped into classes that no set of the
grammar tells apart. Counted repetitions are taken as `*` or `+`, which can only report too much.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backend.grammar.gbnf.nodes import Alt, Chars, Lexeme, Node, Ref, Repeat, Rules, Seq, Text, children


class BudgetSpent(Exception):
    """The grammar is too large to analyse."""


class Alphabet:
    """Characters grouped into classes; a set of characters becomes the bits of its classes."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        bounds = {0}
        for node in nodes:
            bounds.update(_bounds(node))
        self._starts = sorted(bounds)

    def bits(self, node: Chars | Text) -> int:
        """Classes of a character set, or of a text's first character."""
        if isinstance(node, Text):
            return 1 << self._class_of(ord(node.value[0]))
        out = 0
        for low, high in node.ranges:
            first, last = self._class_of(low), self._class_of(high)
            out |= ((1 << (last - first + 1)) - 1) << first
        return out

    def _class_of(self, code: int) -> int:
        return bisect_right(self._starts, code) - 1


def _bounds(node: Node) -> Iterator[int]:
    stack = [node]
    while stack:
        current = stack.pop()
        stack.extend(children(current))
        if isinstance(current, Text):
            for char in current.value:
                yield ord(char)
                yield ord(char) + 1
        elif isinstance(current, Chars):
            for low, high in current.ranges:
                yield low
                yield high + 1


@dataclass(slots=True)
class _Part:
    nullable: bool
    first: int
    last: int


class Automaton:
    """One lexeme's positions.

    Attributes:
        nullable: It matches the empty text.
        first, last: Positions where a match may begin and end.
        chars: Per position, the classes of characters it takes.
        follow: Per position, the positions that may come next.
    """

    def __init__(self, node: Node, rules: Rules, alphabet: Alphabet, max_positions: int) -> None:
        self._rules = rules
        self._alphabet = alphabet
        self._max_positions = max_positions
        self.chars: list[int] = []
        self.follow: list[int] = []
        part = self._build(node)
        self.nullable, self.first, self.last = part.nullable, part.first, part.last

    def first_chars(self) -> int:
        """Characters that a match may begin with."""
        return self._chars_of(self.first)

    def _chars_of(self, positions: int) -> int:
        out = 0
        for position in ones(positions):
            out |= self.chars[position]
        return out

    def _build(self, node: Node) -> _Part:
        match node:
            case Chars():
                return self._position(self._alphabet.bits(node))
            case Text(value):
                return self._sequence([Chars(((ord(c), ord(c)),)) for c in value])
            case Seq(items):
                return self._sequence(items)
            case Alt(options):
                parts = [self._build(option) for option in options]
                return _Part(
                    any(p.nullable for p in parts), _union(p.first for p in parts), _union(p.last for p in parts)
                )
            case Repeat(item, low, high):
                return self._repeat(item, low, high)
            case Ref(name):
                return self._build(self._rules[name])
            case Lexeme(inner):
                return self._build(inner)

    def _position(self, chars: int) -> _Part:
        index = len(self.chars)
        if index >= self._max_positions:
            raise BudgetSpent
        self.chars.append(chars)
        self.follow.append(0)
        return _Part(False, 1 << index, 1 << index)

    def _sequence(self, items: Iterable[Node]) -> _Part:
        whole = _Part(True, 0, 0)
        for item in items:
            part = self._build(item)
            self._connect(whole.last, part.first)
            whole = _Part(
                whole.nullable and part.nullable,
                whole.first | part.first if whole.nullable else whole.first,
                part.last | whole.last if part.nullable else part.last,
            )
        return whole

    def _repeat(self, item: Node, low: int, high: int | None) -> _Part:
        if high == 0:
            return _Part(True, 0, 0)
        part = self._build(item)
        if high != 1:
            self._connect(part.last, part.first)
        return _Part(part.nullable or low == 0, part.first, part.last)

    def _connect(self, before: int, after: int) -> None:
        for position in ones(before):
            self.follow[position] |= after


def ones(bits: int) -> Iterator[int]:
    """Indices of the bits that are set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _union(values: Iterable[int]) -> int:
    out = 0
    for value in values:
        out |= value
    return out


class Steps:
    """How much work an analysis may still do."""

    def __init__(self, left: int) -> None:
        self._left = left

    def spend(self, count: int) -> None:
        """Take from what is left.

        Raises:
            BudgetSpent: Nothing is left.
        """
        self._left -= count
        if self._left < 0:
            raise BudgetSpent


def swallows(longer: Automaton, shorter: Automaton, next_chars: int, steps: Steps) -> bool:
    """Whether `longer` may go on where `shorter` is complete, with a character that may follow `shorter`.

    A greedy lexer that expects both would then read on and never see `shorter`. The two may be one.

    Args:
        next_chars: Classes of the characters that may come after `shorter`.
    """
    reached: dict[int, int] = {}
    queue: list[tuple[int, int]] = []

    def reach(positions: int, others: int) -> None:
        for position in ones(positions):
            steps.spend(1)
            known = reached.get(position, 0)
            same = sum(1 << other for other in ones(others & ~known) if shorter.chars[position] & longer.chars[other])
            if same:
                reached[position] = known | same
                queue.append((position, same))

    reach(shorter.first, longer.first)
    while queue:
        position, others = queue.pop()
        after = 0
        for other in ones(others):
            after |= longer.follow[other]
            steps.spend(1)
        if shorter.last >> position & 1 and any(longer.chars[other] & next_chars for other in ones(after)):
            return True
        reach(shorter.follow[position], after)
    return False
