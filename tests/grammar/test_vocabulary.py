"""What grammars see of a tokenizer."""

from backend.core.request import Grammar
from backend.grammar.compiler import GrammarCompiler
from backend.grammar.vocabulary import MAX_TOKEN_BYTES, read_vocabulary
from tests.grammar.vocabularies import allowed


class Tokenizer:
    """All that is read of a tokenizer: bytes, one run of 20,000 letters, and an end."""

    def __init__(self) -> None:
        self.labels = [bytes([i]) for i in range(256)] + [b"a" * 20_000, b"a" * MAX_TOKEN_BYTES, b"<|end|>"]
        self.added_tokens_decoder = {258: type("Added", (), {"content": "<|end|>", "special": True})()}


def test_a_token_too_long_for_llguidance_is_never_allowed_and_breaks_nothing() -> None:
    tokenizer = Tokenizer()
    vocabulary = read_vocabulary(tokenizer, label_of=tokenizer.labels.__getitem__, size=259, eos_ids=[258])
    compiler = GrammarCompiler(vocabulary)
    try:
        constraint = compiler.compile(Grammar(kind="regex", text="a*")).constraint()
        assert allowed(constraint.mask(), 259) & {ord("a"), 256, 257, 258} == {ord("a"), 257, 258}
    finally:
        compiler.close()


def test_a_model_without_an_end_gets_one_that_it_cannot_say() -> None:
    tokenizer = Tokenizer()
    vocabulary = read_vocabulary(tokenizer, label_of=tokenizer.labels.__getitem__, size=259, eos_ids=[])
    compiler = GrammarCompiler(vocabulary)
    try:
        constraint = compiler.compile(Grammar(kind="regex", text="ab?")).constraint()
        constraint.advance(ord("a"))
        assert allowed(constraint.mask()) == {ord("b"), 259}
        assert not constraint.finished
        constraint.advance(ord("b"))
        assert constraint.finished
    finally:
        compiler.close()
