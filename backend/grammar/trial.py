"""One grammar, tried out: translated, compiled, its first mask worked out, and what came of it as plain data.

Imported by the trial process, so nothing here imports numpy or MLX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backend.core.constraint import OVER_LIMIT
from backend.core.errors import InternalFault, InvalidRequest, Overloaded, WorkerError
from backend.core.logline import bounded
from backend.core.request import Grammar
from backend.grammar.dialects import to_lark
from backend.grammar.llguidance_engine import GuidanceCompiler, GuidanceError, GuidanceLimit, GuidancePanic, Matcher

# `wrong` and `dear` are the grammar's own and the same next time; `late` and `busy` are the machine's, `fault` ours.
Failure = Literal["wrong", "dear", "late", "busy", "fault"]

MAX_LARK_BYTES = 16 << 20
MAX_REASON = 400


class WrongGrammar(InvalidRequest):
    """A grammar that cannot be; `line` as in `GuidanceError`."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__("Grammar", reason)
        self.line = line


class DearGrammar(Overloaded):
    """A grammar over a limit."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Grammar: {reason}")


@dataclass(frozen=True, slots=True)
class Passed:
    """A grammar that compiles within the limits.

    Attributes:
        lark: It, in llguidance's dialect.
        memory: Bytes that the trial's process grew by; more than a compiled grammar keeps.
    """

    lark: str
    memory: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A grammar that is not taken, and why, in one line: short, for it is remembered, and names may be in it."""

    failure: Failure
    reason: str
    line: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", bounded(" ".join(self.reason.split()), MAX_REASON))

    @property
    def lasting(self) -> bool:
        """Whether another try ends the same way."""
        return self.failure in ("wrong", "dear")

    def error(self) -> WorkerError:
        """What its client is told."""
        match self.failure:
            case "wrong":
                return WrongGrammar(self.reason, self.line)
            case "dear":
                return DearGrammar(self.reason)
            case "fault":
                return InternalFault(f"Grammar: {self.reason}")
            case _:
                return Overloaded(f"Grammar: {self.reason}")


def try_grammar(guidance: GuidanceCompiler, grammar: Grammar) -> Passed | Refused:
    """Translate and compile; `memory` is left to the caller. Takes what the grammar takes: only where it can be killed.

    Raises:
        MemoryError: There is no more.
    """
    try:
        lark = _compiled_lark(guidance, grammar)
    except InvalidRequest as error:
        return Refused("wrong", error.message.removeprefix("Grammar: "))
    except GuidanceLimit as error:
        return Refused("dear", str(error))
    except GuidanceError as error:
        return Refused("wrong", str(error), error.line)
    size = len(lark.encode("utf-8", "replace"))
    if size > MAX_LARK_BYTES:
        return Refused("dear", f"comes to {size} bytes when its rules are written out, limit {MAX_LARK_BYTES}")
    return Passed(lark, 0)


def check_first_mask(matcher: Matcher) -> None:
    """Work out the first mask, where it may take its time.

    Raises:
        GuidanceError: No answer can begin.
        GuidanceLimit: The mask is too dear.
    """
    allows_any = matcher.allows_any()
    if error := matcher.error:
        raise GuidanceLimit(error) if error.startswith(OVER_LIMIT) else GuidanceError(error)
    if not allows_any:
        raise GuidanceError("matches no text that the model's tokens can write")


def _compiled_lark(guidance: GuidanceCompiler, grammar: Grammar) -> str:
    lark = to_lark(grammar)
    try:
        check_first_mask(guidance.compile(lark))
    except GuidancePanic:
        if grammar.kind != "gbnf":
            raise
        # llguidance 1.9.1 panics on options with the same text cut in different places ("ab" "ab" | "abab");
        # single characters leave it nothing to cut.
        lark = to_lark(grammar, finest=True)
        check_first_mask(guidance.compile(lark))
    return lark


def outcome_fields(outcome: Passed | Refused) -> dict[str, Any]:
    """An outcome as JSON has it."""
    if isinstance(outcome, Passed):
        return {"lark": outcome.lark, "memory": outcome.memory}
    return {"failure": outcome.failure, "reason": outcome.reason, "line": outcome.line}


def outcome_from(fields: Mapping[str, Any]) -> Passed | Refused:
    """The outcome that `outcome_fields` wrote."""
    if "lark" in fields:
        return Passed(fields["lark"], fields["memory"])
    return Refused(fields["failure"], fields["reason"], fields["line"])
