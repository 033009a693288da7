"""`python -m benchmarks plot`: pictures of what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.kept import Kept, read, require_one_run
from benchmarks.plot import pictures
from inference.measuring import Cell, Entry


def cell(case: str, **rates: float) -> Cell:
    entries = [Entry(name, name == "ours", samples={1: rate, 2: rate, 3: rate}) for name, rate in rates.items()]
    return Cell(
        case, "small.gguf", "tokens/s", {"settings": {"threads": 2, "batch_size": 128}, "tokens": 512}, entries=entries
    )


CELLS = [
    cell("decode greedy", ours=10, peer=5),
    cell("decode 8 together", ours=60, peer=30),
    cell("decode at 512", ours=9),
    cell("decode at 2048", ours=7),
    cell("prefill", ours=400, peer=100),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.jsonl"
    path.write_text("".join(each.to_json({"at_best": 1000}) + "\n" for each in CELLS), encoding="utf-8")
    return path


def test_lines_go_through_the_medians_by_batch_size_and_by_depth() -> None:
    batch, depth = pictures([Kept(each, {}) for each in CELLS])
    assert batch.lines == {"ours": [(1, 10, 10, 10), (8, 60, 60, 60)], "peer": [(1, 5, 5, 5), (8, 30, 30, 30)]}
    assert depth.lines == {"ours": [(512, 9, 9, 9), (2048, 7, 7, 7)]}


def test_each_picture_is_there_as_png_and_svg(file: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plot", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    names = ["batch.png", "batch.svg", "depth.png", "depth.svg", "limits.png", "limits.svg"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert (tmp_path / "out" / "batch.png").read_bytes().startswith(b"\x89PNG")
    assert "ours" in (tmp_path / "out" / "batch.svg").read_text(encoding="utf-8")


def test_shares_are_of_what_the_machine_allows() -> None:
    run = [Kept(each, {"at_best": best}) for each, best in zip(CELLS, (100, 600, None, None, 800), strict=True)]
    (*_, limits) = pictures(run)
    assert limits.ticks == ["decode greedy", "decode 8 together", "prefill"]
    assert [share for _, _, share, _ in limits.lines["ours"]] == [0.1, 0.1, 0.5]
    assert [share for _, _, share, _ in limits.lines["peer"]] == [0.05, 0.05, 0.125]


def test_each_model_of_a_run_has_a_line_of_its_own() -> None:
    run = [Kept(replace(each, model=model), {"at_best": 1000}) for each in CELLS for model in ("a.gguf", "b.gguf")]
    batch, _, limits = pictures(run)
    assert [across for across, *_ in batch.lines["ours, a.gguf"]] == [1, 8]
    assert limits.ticks[:2] == ["decode greedy, a.gguf", "decode greedy, b.gguf"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", None])
def test_what_no_run_wrote_is_refused_in_a_sentence(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClickException):
        require_one_run(read(path))


def test_a_run_without_anything_to_draw_says_what_to_measure(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(cell("load", ours=1).to_json({}) + "\n")
    result = CliRunner().invoke(main, ["plot", str(path)])
    assert result.exit_code == 1
    assert "--cases overview" in result.stderr
