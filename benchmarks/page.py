"""`python -m benchmarks page`: what --json kept, as docs/benchmarks.md, its pictures, and the results in README.md.

A test holds that both files are what the kept run renders to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill

import click

from benchmarks.kept import Kept, read, require_one_run
from benchmarks.plot import draw, pictures
from benchmarks.wanted import REPOSITORY
from inference.measuring import Cell, Entry

__all__ = ["KEPT", "PAGE", "README", "command", "page", "readme"]

PICTURES = REPOSITORY / "docs" / "benchmarks"
KEPT = PICTURES / "overview.jsonl"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- results: `python -m benchmarks page` writes them -->\n", "<!-- end of results -->\n"
WIDTH = 120
OWN = "llama.cpp's own"
COLUMNS = {
    "llama-bench": OWN,
    "llama-batched-bench": OWN,
    "llama_decode of the new tokens": OWN,
    "inference": "inference llama_cpp",
    "llama_cpp": "llama_cpp.Llama",
}
"""Competitors that share a column with another name."""
VECTORS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
"""What of a processor's features says most about its speed, best first."""
SHORT = (
    *("prefill", "decode greedy", "decode 8 together", "decode 32 together", "second chat turn", "classify"),
    *("load to first token", "start to first token", "peak memory"),
)
"""The rows that README.md shows."""
NOTES = {
    "import": "the package alone, without an engine",
    "second chat turn": "to its first token, behind 600 tokens",
    "peak memory": "while a prompt of 512 tokens is read",
    "load to first token": "imports done before",
    "start to first token": "imports and all",
}
"""What a row is, where its name does not say it."""


@click.command("page")
@click.option("--pictures/--no-pictures", "drawing", default=True, show_default=True, help="Draw the pictures too.")
def command(drawing: bool) -> None:
    """Render docs/benchmarks/overview.jsonl, which `--cases overview --json` kept.

    That is docs/benchmarks.md, its pictures, and the results in README.md.
    """
    run = read(KEPT)
    require_one_run(run)
    PAGE.write_text(page(run), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8"), run), encoding="utf-8")
    written = [PAGE, README, *(draw(pictures(run), PICTURES) if drawing else [])]
    for path in written:
        click.echo(path.relative_to(REPOSITORY))


def page(run: Sequence[Kept]) -> str:
    """docs/benchmarks.md."""
    return "\n".join(
        [
            "# Benchmarks: results",
            "",
            _paragraph(f"Measured by `{_measured_by(run)}`, rendered by `python -m benchmarks page`. {_machine(run)}"),
            "",
            "Competitors take turns in each round; figures are medians. A dash is work that a competitor does not",
            "do, or that the plan does not ask of it. `benchmarks/README.md` says how it is measured.",
            "Of llama.cpp's own, the second chat turn is a bare loop over `llama_decode`.",
            "",
            *_table(run),
            "",
            "How many times as fast as each peer, or as small (median of the ratios within each round, and quartiles):",
            "",
            *_ratios(run),
            "",
            "Share of what the machine's memory bandwidth and matrix product allow (`benchmarks/share.py`). A program",
            "whose weights are wider than the file's reads more than is reckoned; products of 8-bit integers may",
            "pass 100 %.",
            "",
            *_shares(run),
            "",
            *(f"![{name}](benchmarks/{name}.svg)" for name in (picture.name for picture in pictures(run))),
            "",
            f"Versions: {_versions(run)}.",
            "",
        ]
    )


def readme(text: str, run: Sequence[Kept]) -> str:
    """README.md with the results of this run between its marks.

    Raises:
        click.ClickException: it has no such marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise click.ClickException(f"README.md has no lines {BEGIN.strip()} and {END.strip()}.")
    section = [
        _paragraph(f"Medians of one run of `{_measured_by(run)}`. {_machine(run)}"),
        "",
        *_table([kept for kept in run if kept.cell.case in SHORT]),
        "",
        "![Decoding, by sequences at once](docs/benchmarks/batch.svg)",
        "",
    ]
    return before + begin + "\n".join(section) + end + after


def _table(run: Sequence[Kept]) -> Iterator[str]:
    columns = list(dict.fromkeys(_column(entry) for kept in run for entry in kept.cell.entries))
    columns.sort(key=lambda name: not name.startswith("inference"))  # ours first
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * len(columns)
    for kept in run:
        figures = {_column(entry): _figure(entry) for entry in kept.cell.entries}
        yield f"| {_title(kept.cell)} | " + " | ".join(figures.get(name, "-") for name in columns) + " |"


def _ratios(run: Sequence[Kept]) -> Iterator[str]:
    yield "| | ours | peer | times | quartiles | rounds |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for kept in run:
        more_is_better = kept.cell.unit.endswith("/s")
        for ratio in kept.cell.ratios:
            figures = [ratio.spread.low, ratio.spread.median, ratio.spread.high]
            low, middle, high = figures if more_is_better else [1 / figure for figure in reversed(figures)]
            yield (
                f"| {kept.cell.case} | {ratio.ours} | {ratio.peer} "
                f"| {middle:.2f} | {low:.2f} to {high:.2f} | {len(ratio.per_round)} |"
            )


def _shares(run: Sequence[Kept]) -> Iterator[str]:
    reckoned = [kept for kept in run if kept.at_best]
    columns = list(dict.fromkeys(_column(entry) for kept in reckoned for entry in kept.cell.entries))
    yield "| | at best, tokens/s | " + " | ".join(columns) + " |"
    yield "| --- | ---: |" + " ---: |" * len(columns)
    for kept in reckoned:
        best = kept.at_best or 1.0
        shares = {_column(entry): f"{entry.spread.median / best:.0%}" for entry in kept.cell.entries if entry.spread}
        yield f"| {kept.cell.case} | {_number(best)} | " + " | ".join(shares.get(name, "-") for name in columns) + " |"


def _paragraph(text: str) -> str:
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _title(cell: Cell) -> str:
    size = f" of {cell.facts['tokens']}" if cell.case == "prefill" else ""
    note = f" ({NOTES[cell.case]})" if cell.case in NOTES else ""
    return f"{cell.case}{size}, {cell.unit}{note}"


def _column(entry: Entry) -> str:
    return COLUMNS.get(entry.name, entry.name)


def _figure(entry: Entry) -> str:
    if entry.spread is None:
        return "failed" if entry.error else "-"
    return _number(entry.spread.median)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _measured_by(run: Sequence[Kept]) -> str:
    arguments = run[-1].surroundings["arguments"]
    plain = [
        word
        for place, word in enumerate(arguments)
        if "--json" not in (word, arguments[place - 1] if place else "") and not word.startswith("--json=")
    ]
    return " ".join(["python -m benchmarks", *plain])


def _machine(run: Sequence[Kept]) -> str:
    about = run[-1].surroundings
    machine, limits = about["machine"], about["limits"]
    cpu = machine["cpu"]
    vectors = next((name for name in VECTORS if name in cpu["features"]), "")
    model = next(kept.cell.model for kept in run if kept.cell.model)
    sentence = (
        f"Model: {model}. Machine: {cpu['name']}, {cpu['usable_cores']} cores{f' ({vectors})' if vectors else ''}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python {about['python']}"
    )
    if limits:
        read_rate, product = limits["read"] / 1e9, limits["multiply"] / 1e9
        sentence += f"; memory reads {read_rate:.0f} GB/s at best, matrix products reach {product:.0f} GFLOP/s"
    return f"{sentence}. {run[-1].cell.date[:10]}."


def _versions(run: Sequence[Kept]) -> str:
    found: Mapping[str, str] = {
        package: version for kept in run for entry in kept.cell.entries for package, version in entry.versions.items()
    }
    return ", ".join(f"{package} {version}" for package, version in sorted(found.items()))
