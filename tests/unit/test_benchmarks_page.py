"""`python -m benchmarks page`: the results in the documents are those of the run that is kept."""

from __future__ import annotations

import re

import click
import pytest

from benchmarks.kept import Kept, read
from benchmarks.page import KEPT, PAGE, README, page, readme
from benchmarks.plot import pictures
from inference.measuring import Cell, Entry

SURROUNDINGS = {
    "machine": {
        "cpu": {"name": "A processor", "usable_cores": 2, "features": ["avx2"]},
        "memory_bytes": 8 * 2**30,
        "system": "linux",
    },
    "limits": {"read": 32e9, "multiply": 4e11},
    "python": "3.11.1",
    "arguments": ["--cases", "overview", "--json", "/somewhere/else.jsonl"],
}


def kept(case: str, unit: str, best: float | None = None, **medians: float) -> Kept:
    entries = [
        Entry(name, name.startswith("inference"), {"llama-cpp-python": "0.3"}, dict.fromkeys(range(1, 4), value))
        for name, value in medians.items()
    ]
    cell = Cell(case, "m.gguf", unit, {"tokens": 512}, entries=entries, date="2026-01-02T03:04:05+00:00")
    return Kept(cell, SURROUNDINGS | {"at_best": best})


RUN = [
    kept("prefill", "tokens/s", 4000, **{"inference torch": 2000, "llama-bench": 500, "llama_cpp.Llama": 400}),
    kept("decode 8 together", "tokens/s", **{"inference torch": 600, "llama-batched-bench": 200}),
    kept("peak memory", "MB", **{"inference torch": 400, "llama_cpp.Llama": 200}),
]


def test_the_documents_show_the_run_that_is_kept() -> None:
    run = read(KEPT)
    message = "stale: run `python -m benchmarks page`"
    assert PAGE.read_text(encoding="utf-8") == page(run), message
    text = README.read_text(encoding="utf-8")
    assert text == readme(text, run), message


def test_every_picture_that_is_shown_is_there() -> None:
    shown = re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text(encoding="utf-8"))
    assert len(shown) == 3
    for name in shown:
        assert (PAGE.parent / name).with_suffix(".png").stat().st_size > 0


def test_pictures_show_the_run_that_is_kept() -> None:
    for picture in pictures(read(KEPT)):
        drawn = (KEPT.parent / f"{picture.name}.svg").read_text(encoding="utf-8")
        assert picture.digest in drawn, "stale: run `python -m benchmarks page`"


def test_the_kept_run_failed_nowhere_and_left_out_no_peer() -> None:
    for each in read(KEPT):
        assert [(entry.name, entry.error, entry.skipped) for entry in each.cell.entries if not entry.spread] == []


def test_a_row_has_each_competitor_in_its_column_and_programs_of_llama_cpp_share_one() -> None:
    lines = page(RUN).splitlines()
    assert "| | inference torch | llama.cpp's own | llama_cpp.Llama |" in lines
    assert "| prefill of 512, tokens/s | 2,000 | 500 | 400 |" in lines
    assert "| decode 8 together, tokens/s | 600 | 200 | - |" in lines


def test_times_say_how_much_better_ours_is_whether_more_or_less_is_better() -> None:
    text = page(RUN)
    assert "| prefill | inference torch | llama-bench | 4.00 | 4.00 to 4.00 | 3 |" in text
    assert "| peak memory | inference torch | llama_cpp.Llama | 0.50 | 0.50 to 0.50 | 3 |" in text


def test_shares_are_of_what_the_machine_allows() -> None:
    assert "| prefill | 4,000 | 50% | 12% | 10% |" in page(RUN)


def test_the_command_and_the_machine_stand_beside_the_figures_and_no_path_does() -> None:
    text = " ".join(page(RUN).split())
    assert "`python -m benchmarks --cases overview`" in text
    assert "A processor, 2 cores (avx2), 8 GiB, linux, Python 3.11.1; memory reads 32 GB/s" in text
    assert "somewhere" not in text


def test_a_readme_without_a_place_for_results_is_refused() -> None:
    with pytest.raises(click.ClickException, match="no lines"):
        readme("# Nothing\n", RUN)
