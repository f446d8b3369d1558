"""The characters that may come next: FIRST and FOLLOW sets of a grammar that is cut into lexemes."""

from collections.abc import Callable

from backend.grammar.gbnf.automata import Automaton, Steps
from backend.grammar.gbnf.nodes import Alt, Lexeme, Node, Ref, Repeat, Seq


class Following:
    """Which characters may come after each lexeme: FIRST and FOLLOW sets, by fixed point over the rules."""

    def __init__(self, parsed: dict[str, Node], automaton: Callable[[Node], Automaton], steps: Steps) -> None:
        self._parsed = parsed
        self._automaton = automaton
        self._steps = steps
        self._first: dict[str, tuple[bool, int]] = dict.fromkeys(parsed, (False, 0))
        self._after_rule: dict[str, int] = dict.fromkeys(parsed, 0)
        self._after_lexeme: dict[Node, int] = {}

    def chars_after_lexemes(self) -> dict[Node, int]:
        """Per lexeme's node, the classes of characters that may come after it, of all its places together.

        Raises:
            BudgetSpent: The grammar is too large.
        """
        self._settle(self._update_first)
        self._settle(self._update_follow)
        return self._after_lexeme

    @staticmethod
    def _settle(update: Callable[[], bool]) -> None:
        while update():
            pass

    def _update_first(self) -> bool:
        before = dict(self._first)
        for name, node in self._parsed.items():
            self._first[name] = self._begin(node)
        return before != self._first

    def _update_follow(self) -> bool:
        before = (dict(self._after_rule), dict(self._after_lexeme))
        for name, node in self._parsed.items():
            self._spread(node, self._after_rule[name])
        return before != (self._after_rule, self._after_lexeme)

    def _begin(self, node: Node) -> tuple[bool, int]:
        """Whether the node may be empty, and the characters it may begin with."""
        self._steps.spend(1)
        match node:
            case Lexeme(inner):
                automaton = self._automaton(inner)
                return automaton.nullable, automaton.first_chars()
            case Ref(name):
                return self._first[name]
            case Seq(items):
                chars = 0
                for item in items:
                    nullable, more = self._begin(item)
                    chars |= more
                    if not nullable:
                        return False, chars
                return True, chars
            case Alt(options):
                begins = [self._begin(option) for option in options]
                chars = 0
                for _, more in begins:
                    chars |= more
                return any(nullable for nullable, _ in begins), chars
            case Repeat(item, low, high):
                nullable, chars = self._begin(item)
                return nullable or low == 0, chars if high != 0 else 0
            case _:
                raise AssertionError(f"the parser has no {type(node).__name__}")

    def _spread(self, node: Node, after: int) -> None:
        """Tell every lexeme and rule inside the node what may come after it, given what comes after the node."""
        match node:
            case Lexeme(inner):
                self._after_lexeme[inner] = self._after_lexeme.get(inner, 0) | after
            case Ref(name):
                self._after_rule[name] |= after
            case Seq(items):
                for item in reversed(items):
                    self._spread(item, after)
                    nullable, chars = self._begin(item)
                    after = after | chars if nullable else chars
            case Alt(options):
                for option in options:
                    self._spread(option, after)
            case Repeat(item, _, high):
                again = 0 if high == 1 else self._begin(item)[1]
                self._spread(item, after | again)
            case _:
                raise AssertionError(f"the parser has no {type(node).__name__}")
