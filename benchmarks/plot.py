"""`python -m benchmarks plot FILE`: what --json wrote, as pictures: by batch size, by depth, and as shares of what the
machine could do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.compare import read
from benchmarks.machine_limits import machine_limits
from benchmarks.share import layer_weights, token_bytes
from inference.gguf.reader import read_header
from inference.measuring import Cell
from inference.stores import find_model

__all__ = ["Picture", "command", "pictures"]

FORMATS = ("png", "svg")


@dataclass(slots=True)
class Picture:
    """Lines through medians, each with its quartiles."""

    name: str
    title: str
    across: str
    up: str
    lines: dict[str, list[tuple[float, float, float, float]]] = field(default_factory=dict)
    """By engine: where it is across, then low, median and high."""

    def add(self, across: float, cell: Cell, scale: float = 1.0) -> None:
        """What each engine of the cell reached, times `scale`."""
        for entry in cell.entries:
            if entry.spread is not None:
                spread = entry.spread
                figures = (spread.low * scale, spread.median * scale, spread.high * scale)
                self.lines.setdefault(entry.name, []).append((across, *figures))


@click.command("plot")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder for the pictures."
)
@click.option("--model", "path", help="The model that was measured: with it, shares of this machine's limits too.")
def command(file: Path, out: Path, path: str | None) -> None:
    """Draw what --json wrote: tokens per second by batch size and by depth, as PNG and SVG.

    Shares of the limits are those of the machine that draws: draw where you measured.
    """
    cells = list(read(file).values())
    drawn = pictures(cells)
    if path is not None:
        drawn += _shares(cells, find_model(path))
    if not drawn:
        raise click.ClickException(f"{file} has no cells with batch sizes or depths: measure with --cases overview.")
    out.mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        for written in _save(picture, out):
            click.echo(written)


def pictures(cells: Iterable[Cell]) -> list[Picture]:
    """By batch size and by depth, as far as cells have them."""
    batch = Picture("batch", "Decoding, by sequences at once", "sequences", "tokens/s of all")
    depth = Picture("depth", "Decoding, by tokens in the context", "tokens before", "tokens/s")
    for cell in cells:
        if match := re.fullmatch(r"decode (\d+) together", cell.case):
            batch.add(int(match[1]), cell)
        elif match := re.fullmatch(r"decode at (\d+)", cell.case):
            depth.add(int(match[1]), cell)
        elif cell.case == "decode greedy":
            batch.add(1, cell)
    return [picture for picture in (batch, depth) if any(len(line) > 1 for line in picture.lines.values())]


def _shares(cells: Iterable[Cell], model: Path) -> list[Picture]:
    """What of the memory's bandwidth and of the matrix product's peak engines used."""
    header = read_header(model)
    mine = [cell for cell in cells if cell.model == model.name]
    decode = next((cell for cell in mine if cell.case == "decode greedy"), None)
    prefill = next((cell for cell in mine if cell.case == "prefill"), None)
    measured = [cell for cell in (decode, prefill) if cell is not None]
    if not measured:
        return []
    limits = machine_limits(measured[0].facts["settings"]["threads"])
    picture = Picture("limits", "Share of the machine's limits", "", "share")
    if decode is not None:
        picture.add(0, decode, token_bytes(header) / limits.read)
    if prefill is not None:
        picture.add(1, prefill, 2 * layer_weights(header) / limits.multiply)
    return [picture]


def _save(picture: Picture, folder: Path) -> list[Path]:
    import matplotlib as mpl  # late: it takes a second

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    bars = picture.name == "limits"
    for number, (name, points) in enumerate(sorted(picture.lines.items())):
        across, low, middle, high = zip(*sorted(points), strict=True)
        errors = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        if bars:
            width = 0.8 / len(picture.lines)
            axes.bar([x + number * width for x in across], middle, width, yerr=errors, label=name)
        else:
            axes.errorbar(across, middle, yerr=errors, marker="o", capsize=3, label=name)
    if bars:
        axes.set_xticks([0.4, 1.4], ["decode: memory's bandwidth", "prefill: matrix product"])
        axes.yaxis.set_major_formatter("{x:.0%}")
    else:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel(picture.across)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(picture.up)
    axes.set_title(picture.title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    written = [folder / f"{picture.name}.{form}" for form in FORMATS]
    for path in written:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return written
