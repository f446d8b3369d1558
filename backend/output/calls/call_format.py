"""What every tool-call format has in common: a call, how one is read, and how it is sent."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from backend.core.events import ToolCallDelta
from backend.output.calls.json_text import NotACall, dump_json, is_utf8, load_json
from backend.output.calls.schema import ToolSchemas
from backend.output.sections import Section

MAX_NAME_LENGTH = 256

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
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise NotACall("no function name")
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
class Read:
    """What a reader found at the start of its text.

    Attributes:
        end: Characters used.
        calls: Complete calls in them.
        text: What of them is no call and goes back to the answer as it was written.
        open: The section goes on after `end`, and its reader with it.
        section: What the text after `end` is, for formats whose messages have headers; None leaves it.
    """

    end: int
    calls: tuple[Call, ...] = ()
    text: str = ""
    open: bool = False
    section: Section | None = None


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
    """

    name: str = ""
    starts: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    think: tuple[str, str] | None = None
    ignored: tuple[str, ...] = ()

    @abstractmethod
    def reader(self, start: str, tools: ToolSchemas) -> CallReader:
        """A reader for one section that `start` opened."""

    @property
    def call_start(self) -> str:
        """Text that opens a call and nothing else."""
        return self.starts[0]

    @property
    def call_end(self) -> str:
        """Text that ends a call section; empty if nothing does."""
        return self.markers[-1] if len(self.markers) > 1 else ""

    def first_reader(self, tools: ToolSchemas) -> CallReader | None:
        """A reader for the very beginning of an answer, where something must stand."""
        return None

    def without_calls(self) -> "CallFormat | None":
        """What is left to read if calls are not to be parsed."""
        return None

    def fitted(self, template: str) -> "CallFormat":
        """This format in the dialect that a chat template writes."""
        return self

    def frame(self, name: str) -> tuple[str, str] | None:
        """Literal text before and after the JSON arguments of a call of `name`, or None if they are not JSON."""
        return None

    def new_id(self) -> str:
        """A fresh call id."""
        return f"call_{uuid4().hex[:24]}"


@dataclass(slots=True)
class CallSender:
    """Numbers the calls of one answer and turns them into deltas."""

    new_id: Callable[[], str]
    _ids: set[str] = field(default_factory=set[str])

    @property
    def count(self) -> int:
        """Calls sent so far."""
        return len(self._ids)

    def deltas(self, call: Call) -> tuple[ToolCallDelta, ...]:
        """The call's name, then its arguments. The model's own id is kept if no earlier call has it."""
        index, call_id = len(self._ids), call.id
        while not call_id or call_id in self._ids:
            call_id = self.new_id()
        self._ids.add(call_id)
        return (
            ToolCallDelta(index=index, id=call_id, name=call.name),
            ToolCallDelta(index=index, arguments=call.arguments),
        )
