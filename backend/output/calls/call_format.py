"""The common shape of tool-call formats: a call, how one is read, and how it is sent."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from backend.core.call_shape import CallSection, Fixed, FreeText, JsonValue, NotForceable, Shape, TextLimits
from backend.core.events import ToolCallDelta
from backend.output.calls.json_text import NotACall, dump_json, is_utf8, load_json
from backend.output.calls.schema import ToolSchemas
from backend.output.sections import Section

MAX_NAME_LENGTH = 256
# In a frame, a number of the call that the model counts itself.
NUMBER = "\0"
_NUMBER = TextLimits(pattern="[0-9]{1,4}")
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}

# Everything a parser of hostile text can raise; a call that fails to parse is content.
PARSE_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    SyntaxError,
    RecursionError,
    OverflowError,
)


def function_name(name: Any) -> str:
    """The name, if it can be one.

    Raises:
        NotACall: It is empty, no text or not printable.
    """
    if not isinstance(name, str) or not is_function_name(name):
        raise NotACall("no function name")
    return name


def is_function_name(name: str) -> bool:
    """Whether a text in a name's place is taken for one: others say that it is no call."""
    return 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()


@dataclass(frozen=True, slots=True)
class Call:
    """A complete call. `arguments` is JSON text of an object; `id` is the model's own, or empty."""

    name: str
    arguments: str
    id: str = ""

    @classmethod
    def of(cls, name: Any, arguments: Any, call_id: Any = "") -> "Call":
        """A call with arguments given as a value: an object, JSON text of one, or None for none.

        Raises:
            NotACall: The name is empty, no text or not printable, or the arguments are no JSON object.
        """
        name = function_name(name)
        if isinstance(arguments, str):
            arguments = load_json(arguments) if arguments.strip() else {}
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise NotACall("arguments are no object")
        return cls(
            name,
            dump_json(arguments),
            call_id if isinstance(call_id, str) and is_utf8(call_id) else "",
        )


@dataclass(frozen=True, slots=True)
class CallPart:
    """New arguments of a call that is still being written; all parts of a call add up to its JSON.

    Attributes:
        name, id: Of the call; only its first part is asked for them.
        last: The call is complete.
    """

    name: str
    arguments: str
    id: str = ""
    last: bool = False


class BrokenCall(NotACall):
    """A call of which parts were read cannot go on: `at` is where the text begins that is none of it."""

    def __init__(self, at: int) -> None:
        super().__init__("a call that breaks off")
        self.at = at


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader found at the start of its text.

    Attributes:
        end: Characters used: none before a call's last part, so that all of it can be given back.
        calls: Complete calls in them.
        part: The next part of a call.
        broken_at: In `text`, where a call broke off whose parts were read.
        text: What of them is no call and goes back to the answer as it was written.
        open: The section goes on after `end`, and its reader with it.
        supposed: The call is whole only if the model has ended its turn: an answer that was cut does not have it.
        section: What the text after `end` is, for formats whose messages have headers; None leaves it.
        unless_cut: It is so only if it was the model that ended the answer; else nothing was found.
    """

    end: int
    calls: tuple[Call, ...] = ()
    part: CallPart | None = None
    text: str = ""
    broken_at: int | None = None
    open: bool = False
    supposed: bool = False
    section: Section | None = None
    unless_cut: bool = False


class CallReader(Protocol):
    """Reads one tool-call section of one answer. Engine thread only."""

    def read(self, body: str, *, final: bool) -> Read | None:
        """Read calls from the start of `body`, the text after the start marker or after the last `Read`.

        Between two reads `body` only grows. None asks for more text; with `final` there is none.

        Raises:
            ValueError: It is no call; the section's text is given back. (Any of `PARSE_ERRORS` will do.)
        """
        ...


class CallFormat(ABC):
    """One way in which models write tool calls. Immutable; one per model.

    Attributes:
        name: As mlx-lm calls the format.
        starts: Texts that open a section for `reader`, in content and in reasoning.
        markers: Every special text of the format: tokens within it are visible to the parser.
        think: Markers around reasoning, where they belong to the format.
        ignored: Markers that carry nothing.
        writable: Function names that can be written.
        lead: What may stand before `call_start` where an answer must be a call.
        sections: How calls are written, the form that is asked for first: the others are what the reader takes as well.
    """

    name: str = ""
    starts: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    think: tuple[str, str] | None = None
    ignored: tuple[str, ...] = ()
    lead: str = ""
    sections: tuple[CallSection, ...] = (CallSection(),)
    writable: re.Pattern[str] = re.compile(r"[^\n]{1,256}")

    @abstractmethod
    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        """A reader for one section that `start` opened."""

    @property
    def call_start(self) -> str:
        """Text that opens a call and nothing else; empty if nothing does."""
        return self.sections[0].trigger

    @property
    def call_end(self) -> str:
        """Text that ends a call section; empty if nothing does."""
        return self.markers[-1] if len(self.markers) > 1 else ""

    def first_reader(self, tools: ToolSchemas) -> CallReader | None:
        """A reader for the very beginning of an answer, where something must stand."""
        return None

    def bare_reader(self, tools: ToolSchemas) -> CallReader | None:
        """A reader for where the content begins, of calls that nothing marks."""
        return None

    def without_calls(self) -> "CallFormat | None":
        """What is left to read if calls are not to be parsed."""
        return None

    def fitted(self, template: str) -> "CallFormat":
        """This format in the dialect that a chat template writes."""
        return self

    def frame(self, name: str) -> tuple[str, str]:
        """A call's own text before and after its JSON arguments; a format has this or a `shape` of its own.

        `NUMBER` may stand once in the first.
        """
        raise NotImplementedError

    def shape(self, name: str, parameters: Mapping[str, Any] | None) -> Shape:
        """How a call of `name` is written, with arguments that fit a JSON schema: all that it admits is read as such.

        What `sections` have around calls is no part of it.

        Args:
            parameters: None for any arguments.

        Raises:
            NotForceable: The format cannot hold arguments to this schema.
        """
        if self.writable.fullmatch(name) is None:
            raise NotForceable("its name cannot be written")
        before, after = self.frame(name)
        head, number, rest = before.rpartition(NUMBER)
        begin = (Fixed(head), FreeText(end=rest, limits=(_NUMBER,))) if number else (Fixed(rest),)
        return *begin, JsonValue(ANY_OBJECT if parameters is None else parameters), Fixed(after)

    def held(self) -> "CallFormat":
        """This format where a grammar holds the calls: all markup is as the format writes it."""
        return self

    def new_id(self) -> str:
        """A fresh call id."""
        return f"call_{uuid4().hex[:24]}"


@dataclass(slots=True)
class CallSender:
    """Numbers the calls of one answer and turns them into deltas.

    Attributes:
        complete: Calls of which all has been sent.
    """

    new_id: Callable[[], str]
    complete: int = 0
    _ids: set[str] = field(default_factory=set[str])

    def begin(self, name: str, call_id: str) -> tuple[ToolCallDelta]:
        """A call's name. The model's own id is kept if no earlier call has it."""
        index = len(self._ids)
        while not call_id or call_id in self._ids:
            call_id = self.new_id()
        self._ids.add(call_id)
        return (ToolCallDelta(index=index, id=call_id, name=name),)

    def go_on(self, arguments: str, *, last: bool) -> tuple[ToolCallDelta, ...]:
        """Arguments of the call that began last."""
        self.complete += last
        return (ToolCallDelta(index=len(self._ids) - 1, arguments=arguments),) if arguments else ()

    def deltas(self, call: Call) -> tuple[ToolCallDelta, ...]:
        """A whole call: its name, then its arguments."""
        return (*self.begin(call.name, call.id), *self.go_on(call.arguments, last=True))
