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
from backend.output.channels import Channels
from backend.output.markers import MarkerSet
from backend.output.sections import NOTHING, Section

# Sections that turned out to be text, each of which is read again; an answer with more is not looked at for calls.
_MAX_GIVEN_BACK = 1024
# Characters of them in all, likewise.
_MAX_READ_AGAIN = 1 << 23
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
            off stays, and text goes on where it broke: what was sent of it is read again for calls, and not shown.
        only_call: The answer is held to a call: any beginning of a start marker is one.
        one_call: The answer ends with its first whole call: what follows is dropped.
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
        one_call: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._in_parts = in_parts
        self._one_call = one_call
        self._telling = 1 if only_call else _TELLING
        self._parts: list[CallPart] = []  # of the call that is being read
        self._sent = False  # they have been
        self._around: Section = "content"  # where the call stands whose parts were sent
        self._cut = False
        self._layout = layout
        self._tools = tools
        self._late_reasoning = late_reasoning
        self._text = Channels("reasoning" if opens_reasoning and layout.think_end else "content")
        self._buffer = ""
        self._reader = layout.calls.first_reader(tools) if layout.calls and not opens_reasoning else None
        self._lead = ""  # stands in front of the buffer, and is text if that is no call
        if self._text.section == "content":
            self._begin_content()
        self._given_back = self._read_again = 0
        self._sender = CallSender(new_id or (layout.calls.new_id if layout.calls else str))
        self._deltas: tuple[ToolCallDelta, ...] = ()

    @property
    def has_tool_calls(self) -> bool:
        return self._sender.complete > 0

    @property
    def called(self) -> bool:
        return self._one_call and self.has_tool_calls

    def feed(self, text: str) -> Piece:
        if self.called:
            return NOTHING
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
        self._text.finish()
        return self._collect()

    def _markers(self) -> MarkerSet:
        calls = self._given_back < _MAX_GIVEN_BACK and self._read_again < _MAX_READ_AGAIN
        return self._layout.markers(self._text.section, calls=calls)

    def _send(self, text: str) -> Piece:
        """The fast way for text without markers."""
        text = self._text.push(text)
        if not text:
            return NOTHING
        return Piece(content=text) if self._text.section == "content" else Piece(reasoning=text)

    def _collect(self) -> Piece:
        (content, reasoning), deltas = self._text.take(), self._deltas
        self._deltas = ()
        return (
            Piece(content=content, reasoning=reasoning, tool_calls=deltas)
            if content or reasoning or deltas
            else NOTHING
        )

    def _advance(self, *, final: bool) -> bool:
        """Do the next thing that the buffer allows; False if there is none."""
        if self.called:
            self._drop()
            return False
        if self._reader:
            return self._read_calls(self._reader, final=final)
        start, marker = self._markers().find(self._buffer, final=final and not self._cut)
        self._text.show(self._buffer[:start])
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
            self._text.show(rest)
        else:
            self._text.mark()

    def _meet(self, marker: str) -> None:
        layout, text = self._layout, self._text
        if layout.calls and marker in layout.calls.starts:
            self._reader, self._lead = layout.calls.reader(marker, self._tools), marker
        elif marker == layout.think_end and text.section == "reasoning":
            text.pass_over(len(marker))
            text.switch("content")
            self._begin_content()
        elif marker == layout.think_start and self._may_reason():
            text.pass_over(len(marker))
            text.message("reasoning") if layout.in_messages else text.switch("reasoning")
        elif marker not in layout.ignored and text.started(text.section):
            text.show(marker)  # only spoken of
        else:
            text.pass_over(len(marker))
            text.mark()  # ignored, or a tag that repeats what the template already said

    def _may_reason(self) -> bool:
        return self._text.section == "content" and (self._late_reasoning or not self._text.started("content"))

    def _begin_content(self) -> None:
        """Look for calls that nothing marks where nothing else has been said."""
        if self._reader is None and self._layout.calls and not self._text.started("content"):
            self._reader = self._layout.calls.bare_reader(self._tools)

    def _read_calls(self, reader: CallReader, *, final: bool) -> bool:
        try:
            read = reader.read(self._buffer, final=final)
        except PARSE_ERRORS as error:
            self._break_off(error, final=final)
            return True
        if read is not None and read.unless_cut and self._cut:
            self._drop()
        elif read is not None and read.supposed and self._cut:
            self._break_off(NotACall("cut off"), final=True)
        elif read is not None:
            self._accept(read)
        return read is not None

    def _break_off(self, error: Exception, *, final: bool) -> None:
        if final and self._cut and (self._lead or len(self._buffer.strip()) >= self._telling):
            self._parts = []
            self._drop()
            return
        self._hide_parts(error.at if isinstance(error, BrokenCall) else len(self._buffer))
        section = error.section if isinstance(error, NotACall) else None
        if section and section != self._text.section:
            self._text.message(section)
        self._give_back()

    def _drop(self) -> None:
        """Nothing of the section is text."""
        self._reader, self._lead, self._buffer = None, "", ""
        self._text.mark()

    def _hide_parts(self, end: int) -> None:
        """The call breaks off at `end`: up to there it is not shown if it has been sent."""
        if self._parts and self._sent:
            self._text.hidden = len(self._lead) + end
            self._text.section = self._around
            self._text.mark(self._around)
        self._parts = []

    def _give_back(self) -> None:
        self._given_back += 1
        self._read_again += len(self._buffer)
        self._reader = None
        self._text.show(self._lead)
        self._lead = ""

    def _accept(self, read: Read) -> None:
        if read.part:
            self._take_part(read.part)
        if not read.end and read.open:
            return
        if read.text:
            self._hide_parts(len(read.text) if read.broken_at is None else read.broken_at)
            self._text.show(self._lead + read.text)
        else:
            self._text.pass_over(len(self._lead) + read.end)
        self._lead = ""
        self._buffer = self._buffer[read.end :]
        for call in read.calls[:1] if self._one_call else read.calls:
            self._deltas += self._sender.deltas(call)
        if read.calls:
            self._text.switch("content")
        if read.section:
            self._text.message(read.section)
        if not read.open:
            self._reader = None

    def _take_part(self, part: CallPart) -> None:
        if not self._parts:
            self._sent, self._around = self._in_parts and not self._text.hidden, self._text.section
            if self._sent:
                self._text.switch("content")
                self._deltas += self._sender.begin(part.name, part.id)
        self._parts.append(part)
        if self._sent:
            self._deltas += self._sender.go_on(part.arguments, last=part.last)
        elif part.last:
            arguments = "".join(part.arguments for part in self._parts)
            self._deltas += self._sender.deltas(Call(self._parts[0].name, arguments, self._parts[0].id))
            self._text.switch("content")
        if part.last:
            self._parts = []
