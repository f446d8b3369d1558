"""The format of one model's output, and parsers for it."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.core.call_shape import CallSection, ForcedCall
from backend.output.calls.call_format import CallFormat, NotForceable, is_function_name
from backend.output.calls.parameters import call_parameters
from backend.output.calls.schema import ToolSchemas
from backend.output.choice import (
    FORMAT_ALIASES,
    REASONING_ALIASES,
    XTML_IGNORED,
    Vocabulary,
    choose_calls,
    choose_reasoning,
    declared_calls,
    declared_reasoning,
    is_xtml,
    template_text,
)
from backend.output.formats import formats
from backend.output.marker_parser import Layout, MarkerParser
from backend.output.sections import PlainParser, SectionParser

# How a model without a format of its own is made to write calls.
_UNKNOWN = "json_tools"


@dataclass(frozen=True)
class OutputFormat:
    """Immutable; one per model, shared by all its requests.

    Attributes:
        reasoning_start, reasoning_end: Markers around reasoning; empty if the model has none.
        calls: How the model writes tool calls, or None.
        ignored: Markers that carry nothing.
        calls_off: Calls are not to be looked for, whatever the model writes.
    """

    reasoning_start: str = ""
    reasoning_end: str = ""
    calls: CallFormat | None = None
    ignored: tuple[str, ...] = ()
    calls_off: bool = False
    _layouts: tuple[Layout, Layout] = field(init=False, repr=False, compare=False)
    _held_layout: Layout = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        think = (self.reasoning_start, self.reasoning_end)
        rest = self.calls.without_calls() if self.calls else None
        layouts = tuple(Layout(*think, self.ignored, calls) for calls in (rest, self.calls))
        object.__setattr__(self, "_layouts", layouts)
        held = (self.calls or formats()[_UNKNOWN]).held()
        object.__setattr__(self, "_held_layout", Layout(*think, self.ignored, held))

    @classmethod
    def choose(cls, tokenizer: Any, *, tool_parser: str = "", reasoning_parser: str = "") -> "OutputFormat":
        """The format of a model, from its tokenizer (transformers', or mlx-lm's wrapper).

        Args:
            tool_parser, reasoning_parser: Override it by name (see `parser_names`); `none` turns it off. A name that is
                not known changes nothing, as one in the checkpoint does not.
        """
        template = template_text(tokenizer)
        vocab = Vocabulary(tokenizer)
        found = _known(declared_calls(tokenizer) or "") or choose_calls(vocab, template)
        calls = formats().get(_known(tool_parser) or found or "")
        if _plain(tool_parser) == "none":
            calls = calls.without_calls() if calls else None
        calls = calls.fitted(template) if calls else None
        think = ("", "")
        if _plain(reasoning_parser) != "none":
            think = (
                (calls.think if calls else None)
                or REASONING_ALIASES.get(_plain(reasoning_parser))
                or declared_reasoning(tokenizer)
                or choose_reasoning(vocab, template)
                or think
            )
        ignored = (*(calls.ignored if calls else ()), *(XTML_IGNORED if is_xtml(vocab) else ()))
        return cls(*think, calls, ignored, calls_off=_plain(tool_parser) == "none")

    @property
    def reads_calls(self) -> bool:
        """Whether calls of the model's own accord are found."""
        return self.calls is not None and not self.calls_off

    @property
    def format_type(self) -> str:
        """Name of the tool-call format; empty if there is none."""
        return self.calls.name if self.calls else ""

    @property
    def tool_call_start(self) -> str:
        """The text that opens a tool call; empty if there is none."""
        return self.calls.call_start if self.calls else ""

    @property
    def tool_call_end(self) -> str:
        """The text that ends a tool call; empty if there is none."""
        return self.calls.call_end if self.calls else ""

    @property
    def call_sections(self) -> tuple[CallSection, ...]:
        """How forced calls stand in an answer, the form that is asked for first (see `forced_calls`)."""
        return (self.calls or formats()[_UNKNOWN]).sections

    @property
    def markers(self) -> tuple[str, ...]:
        """Every text that parsing looks for."""
        own = (
            self.reasoning_start,
            self.reasoning_end,
            *self.ignored,
            *(self.calls.markers if self.calls else ()),
        )
        return tuple(marker for marker in own if marker)

    def parser(
        self,
        *,
        opens_reasoning: bool,
        late_reasoning: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
        parse_tools: bool = True,
        forced: bool = False,
        strict: bool = False,
        calls_in_parts: bool = False,
        one_call: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> SectionParser:
        """A parser for one answer.

        Args:
            opens_reasoning: The prompt ends inside the reasoning.
            late_reasoning: Reasoning may open after content. Not where a grammar holds the answer, whose text
                may have the marker in a string.
            tools: OpenAI tool objects; their schemas type the arguments.
            parse_tools: Whether calls are looked for; otherwise they are content.
            forced: A grammar holds the answer to a call, in a form that a model without a format of its own has too.
            strict: A grammar holds calls, if there are any.
            calls_in_parts: Calls are sent as they are read, not whole (see `MarkerParser`).
            one_call: The answer ends with its first whole call: what follows is dropped.
            new_id: Makes call ids, in place of random ones.
        """
        layout = self._layouts[bool(parse_tools)]
        if (forced and self.calls is None) or (parse_tools and self.calls and (forced or strict)):
            layout = self._held_layout
        if not (layout.think_end or layout.ignored or layout.calls):
            return PlainParser()
        return MarkerParser(
            layout,
            ToolSchemas(tools),
            opens_reasoning=opens_reasoning,
            late_reasoning=late_reasoning,
            in_parts=calls_in_parts,
            only_call=forced,
            one_call=one_call,
            new_id=new_id,
        )

    def forced_calls(
        self, tools: Sequence[Mapping[str, Any]], function: str = "", *, held: Container[str] | None = None
    ) -> tuple[ForcedCall, ...]:
        """How a call of each tool is written, or of one of them, for constraining an answer to be one.

        Models without a format of their own write Hermes' then.

        Args:
            held: Functions whose arguments must fit their schema, None for all. Of the others any call is taken; one
                that cannot be written at all is left out.

        Raises:
            NotForceable: No grammar can hold calls to a tool's schema in this format; says which tool and why.
        """
        schemas, calls = ToolSchemas(tools), self.calls or formats()[_UNKNOWN]
        if self.calls_off:
            raise NotForceable("calls are turned off for this model")
        found: list[ForcedCall] = []
        for name in schemas.names:
            if function not in ("", name):
                continue
            holds = held is None or name in held
            try:
                if not is_function_name(name):
                    raise NotForceable("its name cannot be written")
                parameters = call_parameters(schemas.parameters(name)) if holds else None
                found.append(ForcedCall(name, calls.shape(name, parameters), calls.lead))
            except NotForceable as error:
                if holds:
                    raise NotForceable(f"function {name!r}: {error}") from error
        return tuple(found)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _known(name: str) -> str:
    """A format's own name for what it was called; names of no format become empty."""
    plain = _plain(name)
    plain = FORMAT_ALIASES.get(plain, plain)
    return plain if plain in formats() else ""
