"""The parts of a GBNF grammar, as values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MAX_CODE_POINT = 0x10FFFF


class GbnfError(ValueError):
    """A grammar that cannot be read or is not supported; the message says where."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of inclusive ranges of code points, sorted and apart."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Text:
    """These characters, one or more."""

    value: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Whatever the rule matches."""

    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    """The items one after another; none is the empty text."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """Any of the options."""

    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The item at least `low` and at most `high` times; None is without end."""

    item: "Node"
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A part that the lexer matches as one piece: it refers to no recursive rule."""

    node: "Node"


Node = Chars | Text | Ref | Seq | Alt | Repeat | Lexeme
Rules = Mapping[str, Node]
EMPTY = Seq(())


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside."""
    match node:
        case Seq(items):
            return items
        case Alt(options):
            return options
        case Repeat(item) | Lexeme(item):
            return (item,)
        case _:
            return ()


def references(node: Node) -> Iterator[str]:
    """Names of the rules that the node refers to, in order and with repeats."""
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, Ref):
            yield current.name
        stack.extend(reversed(children(current)))


def sequence(items: list[Node]) -> Node:
    """The items one after another, without a sequence of one."""
    return items[0] if len(items) == 1 else Seq(tuple(items))


def alternatives(options: list[Node]) -> Node:
    """Any of the options, without a choice of one."""
    return options[0] if len(options) == 1 else Alt(tuple(options))
