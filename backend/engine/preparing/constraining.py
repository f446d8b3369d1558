"""The choice of the grammar that a request's answer must match, and from where on. Pure; prep thread."""

from collections.abc import Mapping
from dataclasses import dataclass

from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, GenerationRequest, Grammar
from backend.grammar.tools import is_strict, tool_grammar
from backend.grammar.waiting import Activation
from backend.output import NotForceable, OutputFormat
from backend.prompt.preparer import EncodedPrompt


@dataclass(frozen=True, slots=True)
class WantedGrammar:
    """What to compile, and when it holds."""

    grammar: Grammar
    activation: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarChoice:
    """One model's markers, as far as grammars are concerned.

    Attributes:
        reasoning_start_ids: Tokens of the marker that opens reasoning; empty if the model has none.
        special: Control tokens by text.
    """

    format: OutputFormat
    reasoning_start_ids: tuple[int, ...]
    special: Mapping[str, int]

    def wanted(self, request: GenerationRequest, prompt: EncodedPrompt) -> WantedGrammar | None:
        """The request's own grammar, else what its tool choice asks for.

        Raises:
            InvalidRequest: The tool choice cannot be met.
        """
        conversation = request.prompt if isinstance(request.prompt, Conversation) else None
        if request.grammar is not None:
            return WantedGrammar(request.grammar, self._activation(prompt, conversation is not None, ""))
        if conversation is None:
            return None
        return self._for_tools(conversation, prompt)

    def _for_tools(self, conversation: Conversation, prompt: EncodedPrompt) -> WantedGrammar | None:
        choice, tools = conversation.tool_choice, conversation.tools
        strict = is_strict(tools)
        if choice.mode == "none" or (choice.mode == "auto" and not strict):
            return None
        if choice.mode == "auto" and self.format.calls is None:
            return None
        try:
            calls = self.format.forced_calls(tools, choice.function)
        except NotForceable as error:
            raise InvalidRequest("ToolChoice" if choice.mode != "auto" else "Tools", str(error)) from error
        # Hermes' markers are no tokens of a model that does not write them.
        special = self.special if self.format.calls else {}
        found = tool_grammar(calls, choice, trigger=self.format.tool_call_start, strict=strict, special=special)
        if found is None:
            return None
        return WantedGrammar(found.grammar, self._activation(prompt, True, found.trigger))

    def _activation(self, prompt: EncodedPrompt, may_reason: bool, trigger: str) -> Activation:
        # A template that has opened and closed the reasoning itself has turned it off.
        may_open = may_reason and not prompt.closes_reasoning
        return Activation(
            reasoning_end=self.format.reasoning_end.encode(),
            in_reasoning=prompt.opens_reasoning,
            reasoning_start_ids=self.reasoning_start_ids if may_open else (),
            trigger=trigger.encode(),
        )
