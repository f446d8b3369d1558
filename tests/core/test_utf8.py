"""Text to UTF-8 and back, in slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core import utf8

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
LONG = ["\u2603" * 7, "a\u00e9\u2603\U0001f600" * 5, "ab\ud800c", ""]


@given(ANY_TEXT, st.integers(1, 9))
def test_it_survives_the_way_however_it_is_cut(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utf8, "SLICE", max(size, 4))
        data = b"".join(utf8.utf8_slices(text))
        assert data == text.encode("utf-8", "surrogatepass")
        assert utf8.text_of(data) == text
        assert utf8.utf8_size(text) == len(data)


@given(st.binary(max_size=40))
def test_what_is_no_utf8_is_refused_and_never_hangs(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utf8, "SLICE", 4)
        try:
            expected = data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            with pytest.raises(UnicodeDecodeError):
                utf8.text_of(data)
        else:
            assert utf8.text_of(data) == expected


@given(ANY_TEXT)
def test_a_lone_surrogate_is_no_unicode(text: str) -> None:
    assert utf8.is_unicode(text) is not any("\ud800" <= character <= "\udfff" for character in text)
