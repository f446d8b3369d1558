"""One answer: tokens in, parsed and safe text out."""

from backend.core.events import Piece
from backend.output.sections import NOTHING, SectionParser
from backend.output.text.decoding import TokenDecoder
from backend.output.text.stops import StopScanner


class OutputStream:
    """Decodes, cuts at stop strings, parses. One per request; engine thread only; never raises.

    Stop strings are looked for in the decoded text as the model wrote it, markers included, before it is parsed.
    """

    def __init__(self, decoder: TokenDecoder, stops: tuple[str, ...], parser: SectionParser) -> None:
        self._decoder = decoder
        self._stops = StopScanner(stops) if stops else None
        self._parser = parser

    @property
    def stopped(self) -> bool:
        """A stop string was completed: the request ends here, later tokens add nothing."""
        return self._stops is not None and self._stops.stopped

    @property
    def called(self) -> bool:
        """The one tool call that may come is whole: the request ends here, later tokens add nothing."""
        return self._parser.called

    @property
    def has_tool_calls(self) -> bool:
        """Whether a whole tool call has been sent."""
        return self._parser.has_tool_calls

    def push(self, token: int) -> Piece:
        """Take a sampled token (not the end of the sequence); return what became certain."""
        text = self._decoder.push(token)
        if self._stops is not None and text:
            text = self._stops.push(text)
        return self._parser.feed(text) if text else NOTHING

    def finish(self, *, cut: bool = False) -> Piece:
        """The answer has ended, for whatever reason: everything still held. Call it once.

        Args:
            cut: It was not the model that ended it. A stop string cuts too.
        """
        text = self._decoder.finish()
        if self._stops is not None:
            text = self._stops.push(text) + self._stops.finish()
        return (self._parser.feed(text) if text else NOTHING) + self._parser.finish(cut=cut or self.stopped)
