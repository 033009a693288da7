"""`python -m benchmarks plot FILE`: what --json wrote, as pictures: by batch size, by depth, and as shares of what the
machine could do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import click

from benchmarks.kept import Kept, read
from inference.measuring import Cell

__all__ = ["Picture", "command", "draw", "pictures"]

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
    ticks: list[str] = field(default_factory=list)
    """What the places across are called, where they are no numbers: bars are drawn then."""
    names_models: bool = False

    @property
    def digest(self) -> str:
        """Of all that is drawn. The SVG file holds it, so that one of other figures is known as such."""
        return blake2b(repr(self).encode(), digest_size=12).hexdigest()

    def add(self, across: float, cell: Cell, scale: float = 1.0) -> None:
        """What each engine of the cell reached, times `scale`."""
        for entry in cell.entries:
            if entry.spread is not None:
                spread = entry.spread
                figures = (spread.low * scale, spread.median * scale, spread.high * scale)
                self.lines.setdefault(self.label(entry.name, cell), []).append((across, *figures))

    def label(self, name: str, cell: Cell) -> str:
        """What a line is called: with the model's name where several were measured."""
        return f"{name}, {cell.model}" if self.names_models else name


@click.command("plot")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder for the pictures."
)
def command(file: Path, out: Path) -> None:
    """Draw what --json wrote, as PNG and SVG: tokens per second by batch size and by depth, shares of the limits."""
    drawn = pictures(read(file))
    if not drawn:
        raise click.ClickException(f"{file} has no cells with batch sizes or depths: measure with --cases overview.")
    for written in draw(drawn, out):
        click.echo(written)


def draw(drawn: Iterable[Picture], folder: Path) -> list[Path]:
    """Write the pictures into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return [written for picture in drawn for written in _save(picture, folder)]


def pictures(run: Sequence[Kept]) -> list[Picture]:
    """By batch size, by depth, and the shares of the machine's limits, as far as the run has them."""
    several = len({kept.cell.model for kept in run if kept.cell.model}) > 1
    batch = Picture("batch", "Decoding, by sequences at once", "sequences", "tokens/s of all", names_models=several)
    depth = Picture("depth", "Decoding, by tokens in the context", "tokens before", "tokens/s", names_models=several)
    for cell in (kept.cell for kept in run):
        if match := re.fullmatch(r"decode (\d+) together", cell.case):
            batch.add(int(match[1]), cell)
        elif match := re.fullmatch(r"decode at (\d+)", cell.case):
            depth.add(int(match[1]), cell)
        elif cell.case == "decode greedy":
            batch.add(1, cell)
    drawn = [picture for picture in (batch, depth) if any(len(line) > 1 for line in picture.lines.values())]
    return [*drawn, *([shares] if (shares := _shares(run, several)).ticks else [])]


def _shares(run: Iterable[Kept], several: bool) -> Picture:
    """What engines reached of the tokens per second that the machine's limits allow, in each kind of work."""
    picture = Picture("limits", "Share of what the machine's limits allow", "", "share")
    for kept in run:
        if kept.at_best:
            picture.add(len(picture.ticks), kept.cell, 1 / kept.at_best)
            picture.ticks.append(f"{kept.cell.case}, {kept.cell.model}" if several else kept.cell.case)
    return picture


def _save(picture: Picture, folder: Path) -> list[Path]:
    import matplotlib as mpl  # late: it takes a second

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for number, (name, points) in enumerate(sorted(picture.lines.items())):
        across, low, middle, high = zip(*sorted(points), strict=True)
        errors = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        if picture.ticks:
            width = 0.8 / len(picture.lines)
            axes.bar([x + number * width for x in across], middle, width, yerr=errors, label=name)
        else:
            axes.errorbar(across, middle, yerr=errors, marker="o", capsize=3, label=name)
    if picture.ticks:
        middle = 0.4 - 0.4 / len(picture.lines)
        axes.set_xticks([place + middle for place in range(len(picture.ticks))], picture.ticks, rotation=30, ha="right")
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
        about = {"Date": None, "Description": picture.digest} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=about)
    pyplot.close(figure)
    return written
