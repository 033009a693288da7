"""`python -m benchmarks compare`: what got slower, by ratios within each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from inference.measuring import Cell, Entry

ROUNDS = 16


def cell(
    ours: Sequence[float] | float,
    peer: float = 100.0,
    *,
    case: str = "decode",
    unit: str = "tokens/s",
    error: str | None = None,
    facts: dict[str, int] | None = None,
) -> Cell:
    """Rounds in which the machine gets ever slower, for both."""
    values = [ours] * ROUNDS if isinstance(ours, float) else ours
    entries = [Entry("ours", ours=True, error=error), Entry("peer", ours=False)]
    for number in range(ROUNDS):
        drift = 1 - 0.03 * number
        entries[0].samples[number + 1] = values[number] * drift
        entries[1].samples[number + 1] = peer * drift
    return Cell(case, "model.gguf", unit, facts or {"threads": 2}, entries=entries)


def write(path: Path, *cells: Cell) -> str:
    path.write_text("".join(each.to_json({}) + "\n" for each in cells), encoding="utf-8")
    return str(path)


def compare(tmp_path: Path, old: Cell | list[Cell], new: Cell | list[Cell], *more: str) -> tuple[int, str, str]:
    files = [
        write(tmp_path / name, *(cells if isinstance(cells, list) else [cells]))
        for name, cells in (("old.jsonl", old), ("new.jsonl", new))
    ]
    result = CliRunner().invoke(main, ["compare", *files, *more])
    return result.exit_code, result.stdout, result.stderr


def test_a_machine_that_is_slower_today_is_no_slower_engine(tmp_path: Path) -> None:
    code, table, _ = compare(tmp_path, cell(150.0, 100.0), cell(75.0, 50.0))
    assert code == 0
    assert "| decode | model.gguf | ours / peer | 1.500 | 1.500 | 1.000 |  |" in table


def test_an_engine_that_got_slower_beside_its_peer_fails_the_comparison(tmp_path: Path) -> None:
    code, table, errors = compare(tmp_path, cell(150.0), cell(135.0))
    assert code == 1
    assert "| 0.900 | slower |" in table
    assert "decode, model.gguf: ours / peer got slower: 0.900 of what it was." in errors
    assert compare(tmp_path, cell(150.0), cell(135.0), "--threshold", "0.2")[0] == 0


@pytest.mark.parametrize("unit", ["s", "ms", "MB", "modules"])
def test_of_seconds_and_bytes_less_is_better(tmp_path: Path, unit: str) -> None:
    assert compare(tmp_path, cell(2.0, unit=unit), cell(3.0, unit=unit))[0] == 1
    code, table, _ = compare(tmp_path, cell(3.0, unit=unit), cell(2.0, unit=unit))
    assert code == 0
    assert "| 1.500 | faster |" in table


def test_nothing_by_something_stays_nothing(tmp_path: Path) -> None:
    assert compare(tmp_path, cell(0.0, unit="modules"), cell(0.0, unit="modules"))[0] == 0
    code, table, _ = compare(tmp_path, cell(0.0, unit="modules"), cell(3.0, unit="modules"))
    assert code == 1
    assert "| 0.000 | slower |" in table
    assert compare(tmp_path, cell(3.0, unit="modules"), cell(0.0, unit="modules"))[0] == 0


def test_what_lies_within_the_scatter_of_the_rounds_is_told_and_does_not_fail(tmp_path: Path) -> None:
    wild = [100.0, 200.0] * (ROUNDS // 2)
    wilder = [90.0, 180.0] * (ROUNDS // 2)
    code, table, _ = compare(tmp_path, cell(wild), cell(wilder))
    assert code == 0
    assert "slower, within the noise" in table


def test_an_engine_that_failed_now_and_not_before_fails_the_comparison(tmp_path: Path) -> None:
    both = [cell(150.0), cell(150.0, case="prefill")]
    code, _, errors = compare(tmp_path, both, [both[0], cell(150.0, case="prefill", error="out of memory")])
    assert code == 1
    assert "prefill, model.gguf: ours failed, and did not before: out of memory" in errors


def test_what_one_run_alone_has_or_measured_otherwise_is_told(tmp_path: Path) -> None:
    old = [cell(1.0), cell(1.0, case="prefill")]
    new = [cell(1.0), cell(1.0, case="load"), cell(1.0, case="prefill", facts={"threads": 3})]
    code, _, errors = compare(tmp_path, old, new)
    assert code == 0
    assert "load, model.gguf: only the new run has it." in errors
    assert "prefill, model.gguf: only the new run has it, with these settings and engines." in errors


def test_a_case_that_is_missing_now_fails_the_comparison(tmp_path: Path) -> None:
    code, _, errors = compare(tmp_path, [cell(1.0), cell(1.0, case="load")], cell(1.0))
    assert code == 1
    assert "load, model.gguf: it was measured before, and is missing now." in errors


def test_the_same_case_with_other_engines_is_another_measurement(tmp_path: Path) -> None:
    other = cell(50.0)
    other.entries[1].name = "another peer"
    code, table, _ = compare(tmp_path, [cell(100.0), other], [cell(100.0), other])
    assert code == 0
    assert "ours / peer" in table
    assert "ours / another peer" in table


def test_two_runs_with_nothing_in_common_cannot_be_compared(tmp_path: Path) -> None:
    code, _, errors = compare(tmp_path, cell(1.0), cell(1.0, case="load"))
    assert code == 1
    assert "Nothing was measured in both." in errors


@pytest.mark.parametrize("line", ["", "{}", "no json", "[]", '{"case": 1}'])
def test_a_line_that_is_no_cell_is_named(tmp_path: Path, line: str) -> None:
    good = write(tmp_path / "good.jsonl", cell(1.0))
    bad = tmp_path / "bad.jsonl"
    bad.write_text(cell(1.0).to_json({}) + "\n" + line + "\n")
    result = CliRunner().invoke(main, ["compare", good, str(bad)])
    assert result.exit_code == 1
    assert "bad.jsonl, line 2 is no cell" in result.stderr


def test_the_last_of_several_measurements_counts(tmp_path: Path) -> None:
    assert compare(tmp_path, cell(100.0), [cell(50.0), cell(100.0)])[0] == 0
