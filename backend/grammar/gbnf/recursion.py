"""Rewrites rules that only repeat themselves at one end into repetitions, and finds the recursive rest.

`ws ::= ([ \\t\\n] ws)?` is a common way to write `[ \\t\\n]*`. As recursion it runs into llguidance's limit on
parser items after some dozens of characters; as a repetition it belongs to the lexer.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from backend.grammar.gbnf.nodes import (
    EMPTY,
    Alt,
    GbnfError,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    alternatives,
    references,
    sequence,
)


@dataclass(frozen=True, slots=True)
class _Linear:
    """A node as `steps X | ends`, for a rule X. Order of the words: as read from X's side."""

    steps: list[Node]
    ends: list[Node]


def without_linear_recursion(rules: Rules) -> dict[str, Node]:
    """The same rules, those of the forms `X ::= A X | B` and `X ::= X A | B` as `A* B` and `B A*`.

    This is Arden's lemma, once a rule; rules that recur through each other stay as they are.
    """
    return {name: _solved(name, node) for name, node in rules.items()}


def _solved(name: str, node: Node) -> Node:
    if name not in references(node):
        return node
    for right in (True, False):
        linear = _linear(name, node, right=right)
        if linear is None or not linear.ends:
            continue
        steps = [step for step in linear.steps if step != EMPTY]
        ends = alternatives(linear.ends)
        if not steps:
            return ends
        loop = Repeat(alternatives(steps), 0, None)
        return sequence(_joined([loop], ends)) if right else sequence([ends, loop])
    return node


def _joined(before: list[Node], node: Node) -> list[Node]:
    return before if node == EMPTY else [*before, node]


def _linear(name: str, node: Node, *, right: bool) -> _Linear | None:
    """The node taken apart, or None if the rule is referred to anywhere but at the one end."""
    if name not in references(node):
        return _Linear([], [node])
    match node:
        case Ref():
            return _Linear([EMPTY], [])
        case Alt(options):
            parts = [_linear(name, option, right=right) for option in options]
            if any(part is None for part in parts):
                return None
            found = [part for part in parts if part is not None]
            return _Linear([s for part in found for s in part.steps], [e for part in found for e in part.ends])
        case Repeat(item, 0, 1):
            inner = _linear(name, item, right=right)
            return inner and _Linear(inner.steps, [*inner.ends, EMPTY])
        case Seq(items):
            return _linear_sequence(name, items, right=right)
        case _:
            return None


def _linear_sequence(name: str, items: tuple[Node, ...], *, right: bool) -> _Linear | None:
    rest, edge = (items[:-1], items[-1]) if right else (items[1:], items[0])
    if name in references(Seq(rest)):
        return None
    inner = _linear(name, edge, right=right)
    if inner is None:
        return None

    def beside(node: Node) -> Node:
        middle = () if node == EMPTY else (node,)
        return sequence(list((*rest, *middle) if right else (*middle, *rest)))

    return _Linear([beside(step) for step in inner.steps], [beside(end) for end in inner.ends])


def regular_rules(rules: Rules) -> frozenset[str]:
    """Names of the rules that reach no recursive rule: each is a regular expression once written out."""
    uses = {name: set(references(node)) for name, node in rules.items()}
    users = _users(uses)
    ready = [name for name, used in uses.items() if not used]
    regular: set[str] = set()
    while ready:
        done = ready.pop()
        regular.add(done)
        for user in users[done]:
            uses[user].discard(done)
            if not uses[user]:
                ready.append(user)
    return frozenset(regular)


def _users(uses: Mapping[str, Set[str]]) -> dict[str, list[str]]:
    """By rule, the rules that refer to it."""
    users: dict[str, list[str]] = {name: [] for name in uses}
    for name, used in uses.items():
        for other in used:
            users[other].append(name)
    return users


def check_productive(rules: Rules) -> None:
    """Refuse rules that `root` reaches and that no finite text can match, such as `x ::= "a" x`.

    Raises:
        GbnfError: There is one.
    """
    users = _users({name: set(references(node)) for name, node in rules.items()})
    productive: set[str] = set()
    examined = list(rules)
    while examined:
        name = examined.pop()
        if name not in productive and _ends(rules[name], productive):
            productive.add(name)
            examined.extend(users[name])
    reached: set[str] = set()
    wanted = ["root"]
    while wanted:
        name = wanted.pop()
        if name not in reached:
            reached.add(name)
            wanted.extend(references(rules[name]))
    if endless := sorted(reached - productive):
        raise GbnfError(f"no finite text matches the rules {', '.join(endless[:5])}")


def _ends(node: Node, productive: set[str]) -> bool:
    match node:
        case Ref(name):
            return name in productive
        case Seq(items):
            return all(_ends(item, productive) for item in items)
        case Alt(options):
            return any(_ends(option, productive) for option in options)
        case Repeat(item, low, _):
            return low == 0 or _ends(item, productive)
        case _:
            return True
