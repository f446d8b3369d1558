"""The size of text where a limit counts bytes."""


def utf8_size(text: str) -> int:
    """Bytes of the text in UTF-8; a lone surrogate counts as the three that it would take."""
    # isascii is one flag of the string: only other text is worth encoding.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
