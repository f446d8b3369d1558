"""GBNF to the Lark dialect of llguidance."""

import json
from collections.abc import Callable

from backend.grammar.gbnf.lexemes import cut_into_lexemes
from backend.grammar.gbnf.nodes import Alt, Chars, Lexeme, Node, Ref, Repeat, Rules, Seq, Text, references
from backend.grammar.gbnf.parser import parse_gbnf
from backend.grammar.gbnf.recursion import check_productive, without_linear_recursion


def gbnf_to_lark(text: str, *, finest: bool = False) -> str:
    """A Lark grammar of the same texts.

    Args:
        finest: With lexemes of single characters only.

    Raises:
        GbnfError: It is not GBNF, or uses what is not supported.
    """
    parsed = parse_gbnf(text)
    check_productive(parsed)
    rules = without_linear_recursion(parsed)
    return _Writer(rules, cut_into_lexemes(rules, finest=finest)).written()


class _Writer:
    """Names are numbers, because GBNF's may hold what Lark's may not and case means something in Lark."""

    def __init__(self, rules: Rules, parsed: Rules) -> None:
        self._rules = rules
        self._parsed = parsed
        self._rule_names = {name: "start" if name == "root" else f"r{i}" for i, name in enumerate(parsed)}
        self._terminal_names = {name: f"T{i}" for i, name in enumerate(rules)}
        self._lexeme_names: dict[Node, str] = {}
        self._used_terminals: dict[str, None] = {}

    def written(self) -> str:
        lines = [f"{self._rule_names[name]}: {self._rule(node)}" for name, node in self._parsed.items()]
        lines += [f"{name}: {self._terminal(node)}" for node, name in self._lexeme_names.items()]
        lines += [f"{self._terminal_names[name]}: {self._terminal(self._rules[name])}" for name in self._terminals()]
        return "\n".join(lines) + "\n"

    def _terminals(self) -> list[str]:
        """The rules that lexemes need, with those that these need."""
        wanted = [name for node in self._lexeme_names for name in references(node)]
        while wanted:
            name = wanted.pop()
            if name not in self._used_terminals:
                self._used_terminals[name] = None
                wanted.extend(references(self._rules[name]))
        return list(self._used_terminals)

    def _rule(self, node: Node) -> str:
        if isinstance(node, Lexeme):
            return self._lexeme_names.setdefault(node.node, f"L{len(self._lexeme_names)}")
        return _compound(node, self._rule, self._rule_names)

    def _terminal(self, node: Node) -> str:
        match node:
            case Text(value):
                return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            case Chars(ranges):
                return "/[" + "".join(_range(low, high) for low, high in ranges) + "]/"
            case _:
                return _compound(node, self._terminal, self._terminal_names)


def _compound(node: Node, write: Callable[[Node], str], names: dict[str, str]) -> str:
    match node:
        case Ref(name):
            return names[name]
        case Seq(items):
            return " ".join(f"({write(i)})" if isinstance(i, Alt) else write(i) for i in items) if items else '""'
        case Alt(options):
            return " | ".join(write(option) for option in options)
        case Repeat(_, _, 0):
            return '""'
        case Repeat(item, low, high):
            return f"({write(item)}){_quantifier(low, high)}"
        case _:
            raise AssertionError(f"{type(node).__name__} is not compound")


def _quantifier(low: int, high: int | None) -> str:
    known: dict[tuple[int, int | None], str] = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return known.get((low, high)) or (f"{{{low},}}" if high is None else f"{{{low},{high}}}")


def _range(low: int, high: int) -> str:
    # A regular expression knows no surrogates, not even as the end of a range.
    low = 0xE000 if 0xD800 <= low <= 0xDFFF else low
    high = 0xD7FF if 0xD800 <= high <= 0xDFFF else high
    if low > high:
        return ""
    return f"\\u{{{low:x}}}" if low == high else f"\\u{{{low:x}}}-\\u{{{high:x}}}"
