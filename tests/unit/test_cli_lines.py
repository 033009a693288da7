from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cli import lines


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"aaaaa"]), max_size=40).map(b"".join))
def test_each_line_comes_whole_or_as_its_beginning(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "LONGEST", 4)
        file = BytesIO(content)
        for wanted in BytesIO(content):
            line, is_whole = lines.read_line(file)
            assert (line, is_whole) == ((wanted, True) if len(wanted) <= 4 else (wanted[:5], False))
        assert lines.read_line(file) == (b"", True)
