import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.text import clean, split


@pytest.mark.parametrize(
    ("raw", "text", "repairs"),
    [
        (b"plain", "plain", ()),
        ("schön".encode(), "schön", ()),
        (b"a\xff\xfeb", "a\ufffd\ufffdb", ("invalid_utf8",)),
        (b"\xef\xbb\xbfabc", "abc", ("bom",)),
        (b"a\0b\0", "ab", ("nul",)),
        ("a\ud800b", "a\ufffdb", ("lone_surrogate",)),
        ("\ud83d\ude00", "😀", ("lone_surrogate",)),
        ("\ufeff\0", "", ("bom", "nul")),
        (b"one\r\ntwo\r", "one\r\ntwo\r", ()),
    ],
)
def test_policy(raw: bytes | str, text: str, repairs: tuple[str, ...]) -> None:
    document = clean(raw)
    assert document == (text, text.encode(), repairs)


@given(st.binary(max_size=200) | st.text(st.characters(exclude_categories=()), max_size=100))
def test_clean_text_is_clean_whatever_comes_in(raw: bytes | str) -> None:
    document = clean(raw)
    assert document.data == document.text.encode()
    assert "\0" not in document.text
    assert clean(document.data).text.removeprefix("\ufeff") == document.text.removeprefix("\ufeff")


@given(st.text(max_size=300), st.integers(4, 40))
def test_split_loses_nothing_and_keeps_characters_whole(text: str, max_bytes: int) -> None:
    parts = list(split(io.BytesIO(text.encode()), max_bytes))
    assert b"".join(parts) == text.encode()
    assert all(len(part) <= max_bytes for part in parts)
    assert "".join(part.decode() for part in parts) == text


def test_split_prefers_line_ends() -> None:
    assert list(split(io.BytesIO(b"one\ntwo\nthree"), 9)) == [b"one\ntwo\n", b"three"]
