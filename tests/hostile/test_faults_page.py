"""docs/faults.md: each fault that it lists is injected by the test that it names, and its table was printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hostile.__main__ import KEPT, PAGE, WAYS, with_table

ROOT = Path(__file__).parents[2]
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/\S+::\S+)`", TEXT))))
def test_each_test_that_the_page_names_is_there(named: str) -> None:
    path, _, test = named.partition("::")
    assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8")


def test_every_line_of_the_tables_names_a_test() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and line.count("|") == 4]
    faults = [line for line in lines if not line.startswith(("| what |", "| --- |"))]
    assert len(faults) > 30
    assert [line for line in faults if "::test_" not in line] == []


def test_the_table_of_files_is_the_one_that_was_printed_and_none_ended_our_process() -> None:
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    assert with_table(TEXT, found) == TEXT, "docs/faults.md is stale: run `make fuzz KEEP=yes`"
    assert found["files"] >= 5000
    assert set(found["came"]) == set(WAYS)
    for way, came in found["came"].items():
        assert sum(came.values()) == found["files"]
        if len(WAYS[way]) > 1:
            assert not {"died", "hung", "stray"} & set(came)
