"""`python -m hostile`: thousands of mutated files through `load_model`, and through raw llama-cpp-python beside it.

PYTHONPATH=tests:tests/backends python -m hostile --files 5000
PYTHONPATH=tests:tests/backends python -m hostile --files 5000 --keep      # and writes the table into docs/faults.md
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from hostile.trials import BAD, Tally, sample, try_all

__all__ = ["KEPT", "PAGE", "with_table"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
KEPT = Path(__file__).parent / "kept.json"
BEGIN, END = "<!-- files: `make fuzz KEEP=yes` writes them -->\n", "<!-- end of files -->\n"
WAYS: dict[str, tuple[str, ...]] = {
    "llama-cpp-python alone": ("by_llama_cpp",),
    "llama_cpp": ("by_load_model", "llama_cpp"),
    "torch": ("by_load_model", "torch"),
    "metal": ("by_load_model", "metal"),
}
"""What takes the files: a function of `attempts`, and the backend."""
LOADED = ("loaded", "loaded, but no chat")
PACKAGES = ("llama-cpp-python", "torch", "mlx", "mlx-lm")


@click.command()
@click.option("--files", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Which of all mutations are drawn.")
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), help="Only this one; repeatable.")
@click.option("--keep", is_flag=True, help="Write the table into docs/faults.md.")
def main(files: int, seed: int, ways: tuple[str, ...], keep: bool) -> None:
    """Try mutated files, and print what came of them. A file of ours that ends a process or hangs is an error."""
    drawn = sample(files, seed)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as name:
        for way in ways or WAYS:
            with click.progressbar(length=len(drawn), label=way, file=sys.stderr) as bar:
                for tally in try_all(drawn, Path(name, "model.gguf"), *WAYS[way]):
                    tallies[way] = tally
                    bar.update(1)
    found = {
        "files": len(drawn),
        "seed": seed,
        "versions": {package: version(package) for package in PACKAGES},
        "came": {way: dict(tally.came) for way, tally in tallies.items()},
    }
    click.echo("\n".join(_table(found)))
    if keep:
        KEPT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    bad = [f"{way}: {what}" for way, tally in tallies.items() for what in tally.bad if WAYS[way][1:]]
    if bad:
        sys.exit("\n".join(bad))


def with_table(page: str, found: Mapping[str, Any]) -> str:
    """The page with the table of what was found."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, "docs/faults.md has lost its marks"
    assert end, "docs/faults.md has lost its marks"
    versions = ", ".join(f"{package} {found['versions'][package]}" for package in PACKAGES)
    about = f"{found['files']:,} files, drawn with seed {found['seed']} of all mutations; {versions}."
    return f"{before}{begin}{about}\n\n" + "\n".join(_table(found)) + f"\n{end}{after}"


def _table(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| | loaded | refused by an error | ended the process | hung | raised what is no error of ours |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way in filter(found["came"].get, WAYS):
        came = Counter(found["came"][way])
        loaded = sum(came.pop(what, 0) for what in LOADED)
        died, hung, stray = (came.pop(what, 0) for what in BAD)
        lines.append(f"| {way} | {loaded:,} | {sum(came.values()):,} | {died:,} | {hung:,} | {stray:,} |")
    return lines


if __name__ == "__main__":
    main()
