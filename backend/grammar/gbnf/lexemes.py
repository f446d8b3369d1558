"""Cuts a grammar into lexemes: what the lexer matches whole, and what the parser puts together.

llguidance's lexer is greedy: of all lexemes that may come next it follows the longest match, and never goes back.
`a "b"` with `a ::= [a-z]+` would then never end, because the lexer keeps the `b`. Large lexemes make fast masks,
single characters are always right. So: begin with the largest lexemes (whole non-recursive parts), look for a
lexeme that may go on where another is complete and the next character fits both, cut it one level finer, and
look again. Single characters never go on, so this ends, and then nothing is lost to greed.
"""

from collections.abc import Iterator

from backend.grammar.gbnf.automata import Alphabet, Automaton, BudgetSpent, Steps, swallows
from backend.grammar.gbnf.following import Following
from backend.grammar.gbnf.nodes import (
    Alt,
    Lexeme,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Text,
    alternatives,
    children,
    references,
    sequence,
)
from backend.grammar.gbnf.recursion import regular_rules

MAX_POSITIONS = 4_000
MAX_STEPS = 2_000_000


def cut_into_lexemes(rules: Rules, *, finest: bool = False) -> dict[str, Node]:
    """The rules that the parser keeps, from `root` on, with `Lexeme` nodes for what the lexer takes.

    The rules that lexemes refer to are those given. A grammar too large to analyse within the limits keeps its
    largest lexemes: it may then refuse texts that it should allow, but allows none that it should refuse.

    Args:
        finest: Cut down to single characters without looking.
    """
    cutter = _Cutter(rules)
    parsed = cutter.coarse()
    if finest:
        return cutter.finest(parsed)
    try:
        return cutter.refined(parsed)
    except BudgetSpent:
        return parsed


class _Cutter:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._regular = regular_rules(rules)
        self._alphabet = Alphabet(rules.values())
        self._automata: dict[Node, Automaton] = {}
        self._steps = Steps(MAX_STEPS)

    def coarse(self) -> dict[str, Node]:
        """The largest lexemes."""
        parsed: dict[str, Node] = {}
        wanted = ["root"]
        while wanted:
            name = wanted.pop()
            if name not in parsed:
                parsed[name] = self._coarse(self._rules[name])
                wanted.extend(references_of_parser(parsed[name]))
        return parsed

    def _is_regular(self, node: Node) -> bool:
        return all(name in self._regular for name in references(node))

    def _coarse(self, node: Node) -> Node:
        if self._is_regular(node):
            return Lexeme(node)
        match node:
            case Seq(items):
                return sequence(self._grouped(items))
            case Alt(options):
                regular = [option for option in options if self._is_regular(option)]
                rest = [self._coarse(option) for option in options if not self._is_regular(option)]
                return alternatives([Lexeme(alternatives(regular)), *rest] if regular else rest)
            case Repeat(item, low, high):
                return Repeat(self._coarse(item), low, high)
            case _:
                return node

    def _grouped(self, items: tuple[Node, ...]) -> list[Node]:
        """Neighbours that are regular become one lexeme."""
        out: list[Node] = []
        run: list[Node] = []
        for item in items:
            if self._is_regular(item):
                run.append(item)
                continue
            if run:
                out.append(Lexeme(sequence(run)))
                run = []
            out.append(self._coarse(item))
        return [*out, Lexeme(sequence(run))] if run else out

    def refined(self, parsed: dict[str, Node]) -> dict[str, Node]:
        """Cut until no lexeme can swallow what should follow another.

        Raises:
            BudgetSpent: The grammar is too large.
        """
        while greedy := self._greedy(parsed):
            parsed = self._cut_all(parsed, greedy)
        return parsed

    def finest(self, parsed: dict[str, Node]) -> dict[str, Node]:
        """Cut until there are only single characters."""
        while large := {node for root in parsed.values() for node in _lexemes(root) if _can_be_cut(node)}:
            parsed = self._cut_all(parsed, large)
        return parsed

    def _cut_all(self, parsed: dict[str, Node], greedy: set[Node]) -> dict[str, Node]:
        out = {name: self._cut(node, greedy) for name, node in parsed.items()}
        wanted = [name for node in out.values() for name in references_of_parser(node)]
        for name in wanted:
            if name not in out:
                out[name] = Lexeme(self._rules[name])
        return out

    def _cut(self, node: Node, greedy: set[Node]) -> Node:
        match node:
            case Lexeme(inner):
                return _finer(inner) if inner in greedy else node
            case Seq(items):
                return Seq(tuple(self._cut(item, greedy) for item in items))
            case Alt(options):
                return Alt(tuple(self._cut(option, greedy) for option in options))
            case Repeat(item, low, high):
                return Repeat(self._cut(item, greedy), low, high)
            case _:
                return node

    def _automaton(self, node: Node) -> Automaton:
        if node not in self._automata:
            self._automata[node] = Automaton(node, self._rules, self._alphabet, MAX_POSITIONS)
            self._steps.spend(len(self._automata[node].chars))
        return self._automata[node]

    def _greedy(self, parsed: dict[str, Node]) -> set[Node]:
        """The lexemes to cut: each may go on past the end of a lexeme that stands where it may stand too."""
        following = Following(parsed, self._automaton, self._steps).chars_after_lexemes()
        greedy: set[Node] = set()
        for longer in following:
            if not _can_be_cut(longer):
                continue
            for shorter, next_chars in following.items():
                self._steps.spend(1)
                if next_chars and self._swallows(longer, shorter, next_chars):
                    greedy.add(longer)
                    break
        return greedy

    def _swallows(self, longer: Node, shorter: Node, next_chars: int) -> bool:
        left, right = self._automaton(longer), self._automaton(shorter)
        if not left.first_chars() & right.first_chars():
            return False
        return swallows(left, right, next_chars, self._steps)


def references_of_parser(node: Node) -> Iterator[str]:
    """Rules that the parser's part of a node refers to, those inside lexemes left out."""
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, Ref):
            yield current.name
        elif not isinstance(current, Lexeme):
            stack.extend(children(current))


def _lexemes(node: Node) -> Iterator[Node]:
    """The nodes that the lexer takes whole."""
    if isinstance(node, Lexeme):
        yield node.node
        return
    for child in children(node):
        yield from _lexemes(child)


def _can_be_cut(node: Node) -> bool:
    match node:
        case Text(value):
            return len(value) > 1
        case Seq(items):
            return bool(items)
        case _:
            return isinstance(node, Alt | Repeat | Ref)


def _finer(node: Node) -> Node:
    """A lexeme's node, cut one level."""
    match node:
        case Text(value):
            return Seq(tuple(Lexeme(Text(char)) for char in value))
        case Seq(items):
            return Seq(tuple(Lexeme(item) for item in items))
        case Alt(options):
            return Alt(tuple(Lexeme(option) for option in options))
        case Repeat(item, low, high):
            return Repeat(Lexeme(item), low, high)
        case _:
            return node
