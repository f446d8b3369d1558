"""Text as UTF-8 and back, a slice at a time.

One call for a text of megabytes holds the interpreter lock, and with it the event loop, for tens of milliseconds.
Between two slices others get it. A lone surrogate is taken as the three bytes that it would be.
"""

from collections.abc import Iterator

SLICE = 1 << 18  # characters, or bytes


def utf8_slices(text: str, errors: str = "surrogatepass") -> Iterator[bytes]:
    """The text in UTF-8, in pieces to be joined."""
    for start in range(0, len(text), SLICE):
        yield text[start : start + SLICE].encode("utf-8", errors)


def text_of(data: bytes | memoryview) -> str:
    """The text that these bytes are.

    Raises:
        UnicodeDecodeError: They are not UTF-8.
    """
    view = memoryview(data)
    slices: list[str] = []
    start = 0
    while start < len(view):
        end = _character_start(view, min(start + SLICE, len(view)))
        slices.append(str(view[start:end], "utf-8", "surrogatepass"))
        start = end
    return "".join(slices)


def _character_start(view: memoryview, at: int) -> int:
    """The last position up to `at` where a character begins; `at` itself in what is no UTF-8."""
    for position in range(at, at - 4, -1):
        if position == len(view) or view[position] & 0xC0 != 0x80:
            return position
    return at


def utf8_size(text: str) -> int:
    """Bytes of the text in UTF-8."""
    # isascii is one flag of the string: only other text is worth encoding.
    return len(text) if text.isascii() else sum(map(len, utf8_slices(text)))


def is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogate."""
    try:
        return text.isascii() or all(utf8_slices(text, "strict"))
    except UnicodeEncodeError:
        return False
