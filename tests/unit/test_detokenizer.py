from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.detokenizer import Detokenizer


@given(st.lists(st.binary(max_size=5)))
def test_the_joined_texts_are_the_decoded_bytes_however_they_were_cut(pieces: list[bytes]) -> None:
    detokenizer = Detokenizer()
    text = "".join([detokenizer.feed(piece) for piece in pieces]) + detokenizer.flush()
    assert text == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(), st.integers(1, 4))
def test_text_comes_back_exactly_and_never_a_broken_character(text: str, size: int) -> None:
    data = text.encode()
    detokenizer = Detokenizer()
    parts = [detokenizer.feed(data[i : i + size]) for i in range(0, len(data), size)] + [detokenizer.flush()]
    assert "".join(parts) == text
    assert text.count("�") == "".join(parts).count("�")


def test_an_incomplete_character_is_held_back_until_it_is_whole() -> None:
    detokenizer = Detokenizer()
    emoji = "🦙".encode()
    assert [detokenizer.feed(emoji[i : i + 1]) for i in range(4)] == ["", "", "", "🦙"]


def test_bytes_that_cannot_become_a_character_are_replaced_as_soon_as_that_is_certain() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed(b"\xf0\x9f") == ""
    assert detokenizer.feed(b"a") == "�a"


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.feed(b"ok\xe2\x82") == "ok"
    assert detokenizer.flush() == "�"
