"""Answers whose parts stand between markers, which is nearly all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from backend.core.events import Piece, ToolCallDelta
from backend.output.calls.call_format import (
    PARSE_ERRORS,
    BrokenCall,
    Call,
    CallFormat,
    CallPart,
    CallReader,
    CallSender,
    Read,
)
from backend.output.calls.json_text import NotACall
from backend.output.calls.schema import ToolSchemas
from backend.output.markers import MarkerSet
from backend.output.sections import NOTHING, Section
from backend.output.trimming import Trimmer

# Sections that turned out to be text, each of which is read again; an answer with more is not looked at for calls.
_MAX_GIVEN_BACK = 1024
# Characters of a start marker that are not taken for text where an answer is cut.
_TELLING = 4


@dataclass(frozen=True)
class Layout:
    """Which markers a `MarkerParser` looks for; immutable, shared by all requests of a model.

    Attributes:
        think_start, think_end: Around reasoning; both empty if the model has none.
        ignored: Markers that are dropped.
        calls: The tool-call format, or None if calls are not parsed.
    """

    think_start: str = ""
    think_end: str = ""
    ignored: tuple[str, ...] = ()
    calls: CallFormat | None = None
    _tables: dict[tuple[Section, bool], MarkerSet] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = self.calls.starts if self.calls else ()
        think = (self.think_start, self.think_end)
        tables: dict[tuple[Section, bool], MarkerSet] = {
            ("content", True): MarkerSet((*think, *self.ignored, *starts)),
            ("content", False): MarkerSet((*think, *self.ignored)),
            ("reasoning", True): MarkerSet((*think, *self.ignored, *starts)),
            ("reasoning", False): MarkerSet((*think, *self.ignored)),
        }
        object.__setattr__(self, "_tables", tables)

    @property
    def in_messages(self) -> bool:
        """The marker before reasoning is a message's header, as other sections have them."""
        return bool(self.calls) and self.think_start.startswith(self.calls.starts)

    def markers(self, section: Section, *, calls: bool) -> MarkerSet:
        """What may end or interrupt a section."""
        return self._tables[section, calls]


class MarkerParser:
    """Reasoning between two markers, calls behind start markers, the rest content.

    A call is sent when it is complete and known to parse, its name first. One that does not parse is given back
    as text of the section it stands in: its start marker becomes text and reading goes on behind it.
    A call inside reasoning ends the reasoning, as in mlx-lm.

    Args:
        in_parts: Send a call as it is read, as soon as its arguments have begun. What has been sent of one that breaks
            off stays, and text goes on where it broke.
        only_call: The answer is held to a call: any beginning of a start marker is one.
        late_reasoning: Reasoning may open after content, as in mlx-lm; else its marker is text there.
    """

    def __init__(
        self,
        layout: Layout,
        tools: ToolSchemas,
        *,
        opens_reasoning: bool = False,
        late_reasoning: bool = True,
        in_parts: bool = False,
        only_call: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._in_parts = in_parts
        self._telling = 1 if only_call else _TELLING
        self._parts: list[CallPart] = []  # of the call that is being read
        self._cut = False
        self._layout = layout
        self._tools = tools
        self._late_reasoning = late_reasoning
        self._section: Section = "reasoning" if opens_reasoning and layout.think_end else "content"
        self._content = Trimmer()
        self._reasoning = Trimmer(after_marker=True)
        self._buffer = ""
        self._reader = layout.calls.first_reader(tools) if layout.calls and not opens_reasoning else None
        self._lead = ""  # goes back in front of the buffer if its text is no call
        if self._section == "content":
            self._begin_content()
        self._given_back = 0
        self._sender = CallSender(new_id or (layout.calls.new_id if layout.calls else str))
        self._out: dict[str, str] = {"content": "", "reasoning": ""}
        self._deltas: tuple[ToolCallDelta, ...] = ()

    @property
    def has_tool_calls(self) -> bool:
        return self._sender.complete > 0

    def feed(self, text: str) -> Piece:
        if not self._buffer and not self._reader and self._markers().absent(text):
            return self._send(text)
        self._buffer += text
        while self._advance(final=False):
            pass
        return self._collect()

    def finish(self, *, cut: bool = False) -> Piece:
        self._cut = cut
        while self._advance(final=True):
            pass
        # Reasoning never ends in white space: what follows it is an end marker or nothing.
        self._out["content"] += self._content.finish()
        return self._collect()

    def _markers(self) -> MarkerSet:
        return self._layout.markers(self._section, calls=self._given_back < _MAX_GIVEN_BACK)

    def _send(self, text: str) -> Piece:
        """The fast way for text without markers."""
        if self._section == "content":
            text = self._content.push(text)
            return Piece(content=text) if text else NOTHING
        text = self._reasoning.push(text)
        return Piece(reasoning=text) if text else NOTHING

    def _collect(self) -> Piece:
        out, deltas = self._out, self._deltas
        if not (out["content"] or out["reasoning"] or deltas):
            return NOTHING
        self._out, self._deltas = {"content": "", "reasoning": ""}, ()
        return Piece(content=out["content"], reasoning=out["reasoning"], tool_calls=deltas)

    def _emit(self, text: str) -> None:
        channel = self._content if self._section == "content" else self._reasoning
        self._out[self._section] += channel.push(text)

    def _advance(self, *, final: bool) -> bool:
        """Do the next thing that the buffer allows; False if there is none."""
        if self._reader:
            return self._read_calls(self._reader, final=final)
        start, marker = self._markers().find(self._buffer, final=final and not self._cut)
        self._emit(self._buffer[:start])
        self._buffer = self._buffer[start + len(marker) :]
        if marker:
            self._meet(marker)
        elif final and self._cut:
            self._end_in_marker()
        return bool(marker)

    def _end_in_marker(self) -> None:
        """The answer was cut where a marker may begin: one of a call is dropped, if it is long enough to tell."""
        starts = self._layout.calls.starts if self._layout.calls else ()
        rest, self._buffer = self._buffer, ""
        if len(rest) < self._telling or not any(start.startswith(rest) for start in starts):
            self._emit(rest)
        else:
            self._content.mark()

    def _meet(self, marker: str) -> None:
        layout = self._layout
        if layout.calls and marker in layout.calls.starts:
            self._reader, self._lead = layout.calls.reader(marker, self._tools), marker
        elif marker == layout.think_end and self._section == "reasoning":
            self._switch("content")
            self._begin_content()
        elif marker == layout.think_start and self._may_reason():
            self._begin_message("reasoning") if layout.in_messages else self._switch("reasoning")
        elif marker in layout.ignored:
            self._content.mark()
        elif (self._reasoning if self._section == "reasoning" else self._content).started:
            self._emit(marker)  # only spoken of
        else:
            self._content.mark()  # a tag that repeats what the template already said

    def _may_reason(self) -> bool:
        return self._section == "content" and (self._late_reasoning or not self._content.started)

    def _begin_content(self) -> None:
        """Look for calls that nothing marks where nothing else has been said."""
        if self._reader is None and self._layout.calls and not self._content.started:
            self._reader = self._layout.calls.bare_reader(self._tools)

    def _switch(self, section: Section) -> None:
        self._content.mark()
        self._section = section

    def _read_calls(self, reader: CallReader, *, final: bool) -> bool:
        try:
            read = reader.read(self._buffer, final=final)
        except PARSE_ERRORS as error:
            self._break_off(error, final=final)
            return True
        if read and read.unless_cut and self._cut:
            self._drop(len(self._buffer))
        elif read:
            self._accept(read)
        return read is not None

    def _break_off(self, error: Exception, *, final: bool) -> None:
        sent = self._in_parts and bool(self._parts)
        self._parts = []
        if sent:
            at = error.at if isinstance(error, BrokenCall) else len(self._buffer)
            self._drop(at)
            self._enter(error.section if isinstance(error, NotACall) else None)
        elif final and self._cut and (self._lead or len(self._buffer.strip()) >= self._telling):
            self._drop(len(self._buffer))
        else:
            self._enter(error.section if isinstance(error, NotACall) else None)
            self._give_back()

    def _enter(self, section: Section | None) -> None:
        """Text of another section begins."""
        if section and section != self._section:
            self._begin_message(section)

    def _begin_message(self, section: Section) -> None:
        self._switch(section)
        (self._content if section == "content" else self._reasoning).separate("\n\n")

    def _drop(self, end: int) -> None:
        """Nothing of the section up to `end` is text, and what follows is."""
        self._buffer = self._buffer[end:]
        self._reader, self._lead = None, ""
        self._content.mark()

    def _give_back(self) -> None:
        self._given_back += 1
        self._reader = None
        self._emit(self._lead)
        self._lead = ""

    def _accept(self, read: Read) -> None:
        if read.part:
            self._take_part(read.part)
        if not read.end and read.open:
            return
        if read.text:
            self._return_text(read.text, read.broken_at)
        self._lead = ""
        self._buffer = self._buffer[read.end :]
        for call in read.calls:
            self._deltas += self._sender.deltas(call)
        if read.calls:
            self._switch("content")
        if read.section:
            self._begin_message(read.section)
        if not read.open:
            self._reader = None

    def _take_part(self, part: CallPart) -> None:
        if self._in_parts and not self._parts:
            self._switch("content")
            self._deltas += self._sender.begin(part.name, part.id)
        self._parts.append(part)
        if self._in_parts:
            self._deltas += self._sender.go_on(part.arguments, last=part.last)
        elif part.last:
            arguments = "".join(part.arguments for part in self._parts)
            self._deltas += self._sender.deltas(Call(self._parts[0].name, arguments, self._parts[0].id))
            self._switch("content")
        if part.last:
            self._parts = []

    def _return_text(self, text: str, broken_at: int | None) -> None:
        """Give back a call that its reader skipped, but for what has been sent of it."""
        sent = self._in_parts and bool(self._parts)
        self._parts = []
        self._emit(text[broken_at:] if sent else self._lead + text)
