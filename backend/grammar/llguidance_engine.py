"""All that this worker asks of llguidance."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance._tokenizer import TokenizerWrapper

from backend.core.constraint import OVER_LIMIT
from backend.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:  # the process that tries grammars out does without numpy: its BLAS would start threads
    import numpy as np
    from numpy.typing import NDArray

# All but the states are llguidance's defaults, said here so that an upgrade does not change them. Those of a step
# bound a mask: about 10 ms of a processor for lexers made to be dear, over a vocabulary of 150,000 tokens.
_LIMITS = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    # A state takes up to 0.5 kB and stays as long as its grammar is cached, for all answers that use it.
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)

_OVER_LIMIT = re.compile(
    r"fuel exhausted|too many (?:expressions|items|states)|items; max is|too big \(limit|schema too large",
    re.IGNORECASE,
)
_STOPPED = {
    "NoExtension": "no text matches it from here on",
    "NoExtensionBias": "no text matches it; does a rule or a $ref refer only to itself?",
}

# Of a forced text, what is spelt at once: working it out takes 0.1 us a byte.
_MAX_FORCED_BYTES = 2048
_LONGEST_CHARACTER = 4

_POSITION = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*?\])", re.DOTALL)
_REGEX_ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)


class GuidanceError(ValueError):
    """A grammar that llguidance does not take; the message is one line.

    Attributes:
        line: Of the grammar, from 1 on, where the fault is; 0 if it is not known.
    """

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


class GuidanceLimit(GuidanceError):
    """A grammar over one of llguidance's limits, which the message names."""


class GuidancePanic(GuidanceError):
    """llguidance failed in itself, on a grammar that may be in order."""


class Matcher:
    """One answer's place in a grammar. One thread at a time."""

    def __init__(self, matcher: LLMatcher, tokenizer: LLTokenizer) -> None:
        self._matcher = matcher
        self._tokenizer = tokenizer

    def copy(self) -> "Matcher":
        """Another one at the same place; takes microseconds and shares what the lexer has learned."""
        return Matcher(self._matcher.deep_copy(), self._tokenizer)

    def fill(self, mask: "NDArray[np.uint32]") -> None:
        """Write the allowed tokens into a contiguous mask of the vocabulary's words. Lets other threads run."""
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def allows_any(self) -> bool:
        """Work out the mask; whether it allows a token. Lets other threads run."""
        return any(self._matcher.compute_bitmask())

    def consume(self, token: int) -> bool:
        """Go past a token; False if the grammar does not allow it."""
        return self._matcher.consume_token(token)

    def consume_text(self, text: str) -> bool:
        """Go past a text, whatever its tokens; False if the grammar does not allow it, and nothing is consumed."""
        tokens = self._tokenizer.greedy_tokenize(text)
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        return self._matcher.consume_tokens(tokens)

    def forced(self) -> list[int]:
        """Tokens, each the longest that fits, of the text that must come next; empty for none. Changes nothing."""
        text = _whole_characters(self._matcher.deep_copy().compute_ff_bytes()[:_MAX_FORCED_BYTES])
        return self._tokenizer.greedy_tokenize(text) if text else []

    def valid(self, tokens: Sequence[int]) -> int:
        """How many of the tokens may be consumed one after the other. Changes nothing."""
        # A copy: an id out of range, or one of llguidance's limits, would end this matcher.
        return self._matcher.deep_copy().validate_tokens(list(tokens))

    @property
    def complete(self) -> bool:
        """The text so far matches, and nothing but the end may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> str | None:
        """Why it cannot go on, in one line."""
        return _bounded_reason(self._matcher.get_error()) if self._matcher.is_error() else None


class GuidanceCompiler:
    """Compiles Lark for one vocabulary. Making one holds the interpreter lock (0.25 s for 150,000 tokens)."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Tokens(vocabulary)), eos_token=list(vocabulary.eos_ids), slices=None
        )

    def compile(self, lark: str) -> Matcher:
        """A matcher at the beginning. Lets other threads run.

        Raises:
            GuidanceError: Not a grammar, or not supported.
            GuidanceLimit: Over a limit.
            GuidancePanic: llguidance failed.
        """
        grammar = LLMatcher.grammar_from_lark(lark)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            error = matcher.get_error()
            if error.startswith("panic"):
                raise GuidancePanic("llguidance fails on this grammar")
            reason = _bounded_reason(error)
            position = _POSITION.match(error)
            line = int(position[1]) if position else 0
            raise GuidanceLimit(reason, line) if reason.startswith(OVER_LIMIT) else GuidanceError(reason, line)
        return Matcher(matcher, self._tokenizer)


class _Tokens:
    """The vocabulary in the shape that llguidance reads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted({*vocabulary.special.values(), *vocabulary.eos_ids})

    def __call__(self, text: Any) -> Sequence[int]:
        # Asked for only to force tokens, which grammars here turn off.
        return []


def _whole_characters(data: bytes) -> str:
    """The text up to a character that is cut off at the end; empty where one is cut off at the beginning."""
    for cut in range(_LONGEST_CHARACTER):
        try:
            return data[: len(data) - cut].decode()
        except UnicodeDecodeError:
            continue
    return ""


def _bounded_reason(error: str) -> str:
    """One line, that begins with `OVER_LIMIT` where that is the reason."""
    reason = _reason(error.removesuffix("<non-verbose/>").strip())
    return OVER_LIMIT + reason if _OVER_LIMIT.search(reason) else reason


def _reason(error: str) -> str:
    """llguidance's message as one line, with what it knows of the place."""
    if error in _STOPPED:
        return _STOPPED[error]
    if unimplemented := _UNIMPLEMENTED.search(error):
        return f"JSON schema: unsupported keyword {', '.join(map(repr, json.loads(unimplemented[1])))}"
    if schema := re.search(r"failed to compile JSON schema: (.*)", error):
        return f"JSON schema: {_schema_fault(schema[1], error)}"
    position = _POSITION.match(error)
    where = f"line {position[1]}, column {position[2]}: " if position else ""
    rest = error[position.end() :] if position else error
    detail = _REGEX_ERROR.search(rest)
    if detail and "regex parse error" in rest:
        return f"{where}invalid regular expression: {detail[1]}"
    return where + _one_line(rest.split("\n   1 |")[0].split("\n  ")[0])


def _schema_fault(fault: str, error: str) -> str:
    """What is wrong with a schema, by its keyword."""
    if fault.startswith("regex parse error"):
        detail = _REGEX_ERROR.search(error)
        return f"'pattern' is an invalid regular expression: {detail[1] if detail else fault}"
    if fault.startswith("oneOf constraints"):
        return "unsupported keyword 'oneOf' of options that one value may fit together"
    return f"'$ref': {fault}" if fault.startswith("Pointer") else fault


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
