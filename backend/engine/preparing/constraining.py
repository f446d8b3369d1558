"""The choice of the grammar that a request's answer must match, and from where on. Pure; prep thread."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.core.errors import InvalidRequest, Overloaded
from backend.core.request import Conversation, GenerationRequest, Grammar
from backend.grammar.tools import strict_functions, tool_grammar
from backend.grammar.trial import DearGrammar, WrongGrammar
from backend.grammar.waiting import Activation
from backend.output import NotForceable, OutputFormat
from backend.prompt.preparer import EncodedPrompt

_PLACE = re.compile(r"^line \d+, column \d+: ")
_MOST_NAMES = 300  # characters


@dataclass(frozen=True, slots=True)
class WantedGrammar:
    """What to compile, and when it holds; `functions` as in `ToolGrammar`, empty where a client wrote it."""

    grammar: Grammar
    activation: Activation
    functions: tuple[str, ...] = ()

    def refusal(self, error: WrongGrammar | DearGrammar) -> InvalidRequest | Overloaded:
        """What whoever asked for it is told: one who sent tools knows nothing of a grammar and its lines."""
        names = dict.fromkeys(name for name in self.functions if name)
        if not names:
            return error
        line = error.line if isinstance(error, WrongGrammar) else 0
        own = self.functions[line - 1] if line else ""
        where = f"function {', '.join(map(repr, [own] if own else names))}"[:_MOST_NAMES]
        reason = _tools_words(_PLACE.sub("", error.message.removeprefix("Grammar: ")))
        if isinstance(error, DearGrammar):
            return Overloaded(f"Tools: {where}: {reason}")
        return InvalidRequest("Tools", f"{where}: {reason}")


def _tools_words(reason: str) -> str:
    """A grammar's fault as one of the schema that it was made of."""
    if reason.startswith("no text matches it"):
        return "no arguments fit its schema; does a 'pattern' or a '$ref' leave no text?"
    return f"'pattern' is an {reason}" if reason.startswith("invalid regular expression") else reason


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarChoice:
    """One model's markers, as far as grammars are concerned.

    Attributes:
        reasoning_start_ids: Tokens of the marker that opens reasoning; empty if the model has none.
        special: Control tokens by text.
        ends: It has a token that ends an answer; without one it could not say that no further call follows.
    """

    format: OutputFormat
    reasoning_start_ids: tuple[int, ...]
    special: Mapping[str, int]
    ends: bool = True

    def wanted(self, request: GenerationRequest, prompt: EncodedPrompt) -> WantedGrammar | None:
        """The request's own grammar, else what its tool choice asks for.

        Raises:
            InvalidRequest: The tool choice cannot be met.
        """
        conversation = request.prompt if isinstance(request.prompt, Conversation) else None
        if request.grammar is not None:
            return WantedGrammar(request.grammar, self._activation(prompt, conversation is not None, ()))
        if conversation is None:
            return None
        return self._for_tools(conversation, prompt)

    def _for_tools(self, conversation: Conversation, prompt: EncodedPrompt) -> WantedGrammar | None:
        choice, tools = conversation.tool_choice, conversation.tools
        optional, strict = choice.mode == "auto", strict_functions(tools)
        if choice.mode == "none" or (optional and not (strict and self.format.reads_calls)):
            return None
        try:
            calls = self.format.forced_calls(tools, choice.function, held=strict if optional else None)
        except NotForceable as error:
            raise InvalidRequest("Tools", str(error)) from error
        found = tool_grammar(
            calls,
            choice,
            sections=self.format.call_sections,
            strict=bool(strict),
            several=self.ends and not conversation.one_call,
            # Hermes' markers are no tokens of a model that does not write them.
            special=self.special if self.format.calls else {},
        )
        if found is None:
            return None
        return WantedGrammar(found.grammar, self._activation(prompt, True, found.triggers), found.functions)

    def _activation(self, prompt: EncodedPrompt, may_reason: bool, triggers: Sequence[str]) -> Activation:
        # A template that has opened and closed the reasoning itself has turned it off.
        may_open = may_reason and not prompt.closes_reasoning
        return Activation(
            reasoning_end=self.format.reasoning_end.encode(),
            in_reasoning=prompt.opens_reasoning,
            reasoning_start_ids=self.reasoning_start_ids if may_open else (),
            triggers=tuple(trigger.encode() for trigger in triggers),
        )
