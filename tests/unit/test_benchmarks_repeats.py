"""`python -m benchmarks repeats`: how many rounds two runs need to agree."""

from __future__ import annotations

from pathlib import Path
from random import Random

from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.repeats import ROUNDS, agreement, rounds_needed
from inference.measuring import Cell, Entry


def scattered(share: float, rounds: int = 40) -> list[float]:
    random = Random(1)
    return [random.gauss(1, share) for _ in range(rounds)]


def test_figures_that_do_not_scatter_need_the_fewest_rounds() -> None:
    assert rounds_needed([1.5] * 10, 0.03) == ROUNDS[0]


def test_more_scatter_needs_more_rounds_until_none_suffice() -> None:
    needed = [rounds_needed(scattered(share), 0.03) for share in (0.01, 0.03, 0.05)]
    assert None not in needed
    assert sorted(set(needed), key=lambda rounds: rounds or 0) == needed
    assert rounds_needed(scattered(0.5), 0.03) is None


def test_more_rounds_agree_more_often() -> None:
    assert agreement(scattered(0.05), 3, 0.03) < agreement(scattered(0.05), 21, 0.03)


def test_the_table_has_a_line_for_each_ratio_of_enough_rounds(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    cells = [
        Cell(case, None, "tokens/s", {}, entries=[entry("inference", True, rounds), entry("peer", False, rounds)])
        for case, rounds in (("many", 30), ("few", 29))
    ]
    path.write_text("".join(cell.to_json({}) + "\n" for cell in cells), encoding="utf-8")
    result = CliRunner().invoke(main, ["repeats", str(path)])
    assert result.exit_code == 0, result.output
    assert "| many | inference / peer | 30 | 1.000 | 3 |" in result.output
    assert "few" not in result.output
    path.write_text(cells[1].to_json({}) + "\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["repeats", str(path)])
    assert result.exit_code == 1
    assert "--repeats" in result.output


def entry(name: str, ours: bool, rounds: int) -> Entry:
    return Entry(name, ours, samples=dict.fromkeys(range(1, rounds + 1), 2.0))
