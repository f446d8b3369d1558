"""GBNF to Lark, in this process."""

from backend.grammar.gbnf.nodes import GbnfError
from backend.grammar.gbnf.to_lark import gbnf_to_lark
from tests.fuzz.changing import change_text
from tests.fuzz.target import Target
from tests.grammar import host_grammars

GRAMMARS = (
    *(getattr(host_grammars, name) for name in vars(host_grammars) if name.isupper()),
    'root ::= "ab" "ab" | "abab"', 'root ::= [a-z]+ "b"', 'root ::= x | root "," x\nx ::= [0-9]{1,3}',
    'root ::= ("a" | root)? # left\nws ::= ([ \\t\\n] ws)?',
    "root ::= a*\na ::= [^\\x00-\\x1f\"\\\\] | \"\\\\\" [\"\\\\/bfnrt]",
    'root ::= "\\u00e9\\U0001F30D\\x41"{2,} | . ', 'root ::= a b c\na ::= "x"?\nb ::= a a\nc ::= b | "y" c "z"',
)  # fmt: skip


def gbnf_converter() -> Target:
    """What the trial's process does with the text of a grammar; there, time and memory are bounded from outside."""
    seeds = [text.encode() for text in GRAMMARS]
    return Target(
        run=_convert,
        seeds=seeds,
        change=change_text,
        refusals=(GbnfError, RecursionError),
        seconds=10.0,
        memory=512 << 20,
    )


def _convert(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for finest in (False, True):
        gbnf_to_lark(text, finest=finest)
