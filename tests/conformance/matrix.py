"""Architecture x block format x backend: how far each is from exact arithmetic, beside what it may be.

    python -m conformance.matrix            # measures what is missing or of other versions, renders docs/conformance.md
    python -m conformance.matrix --page     # renders it alone
    python -m conformance.matrix --backend torch --format Q4_K --anew

One file for each architecture and format, of random weights; 12 tokens, in one pass and then 8 in one pass and 4 one by
one. Figure and bound are means over the tokens, which so few scatter: a cell beyond its bound is measured again with
64, and that counts. Rows are kept in matrix.jsonl as they come. The backend `metal` computes on MLX's CPU device, in
float32; `rocm` on Triton's interpreter, in float16 or bfloat16 as the model has it on a GPU.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything asks what `rocm` can run on

import click
import numpy as np
from bare_llama import BareLlama
from numpy.typing import NDArray
from quick_interpreter import quicken

from conformance import matrix_page
from conformance.cases import BLOCK_FORMATS, layers_of
from conformance.decoder import Decoder
from conformance.engine import ENGINES
from conformance.files import Recipe, rewrite, write
from conformance.matrix_rows import BACKENDS, LLAMA_CPP, POSITIONS, Key, Row, keep, key, read, wanted
from conformance.near_ties import divergence
from conformance.yardstick import yardstick
from inference.gguf.architectures import ARCHITECTURES
from inference.registry import get_backend
from inference.speeds import versions_of

__all__ = ["measured"]

MORE_POSITIONS = 64
SINGLE = 4
"""Tokens at the end that are fed one by one, the second time."""
SAME_MODEL = 1e-3
"""Of the range of the logits: llama.cpp on the F32 twin by the numpy decoder. More would be another model."""


class File:
    """The file of an architecture and a block format, and what is measured on it."""

    def __init__(self, architecture: str, block_format: str, scratch: Path, positions: int = POSITIONS) -> None:
        self.architecture, self.block_format, self._scratch = architecture, block_format, scratch
        self._positions = positions
        self._path = scratch / "model.gguf"
        recipe = Recipe(architecture=architecture, block_formats=(block_format,), layers=layers_of(architecture))
        write(recipe, self._path)
        self._tokens: list[int] = np.random.default_rng(1).integers(0, 49_152, positions).tolist()

    def row(self, backend: str) -> Row:
        """Measure the backend on it."""
        measured, bound = (
            (self._twins_difference(), SAME_MODEL)
            if backend == LLAMA_CPP
            else (self._divergence(ENGINES[backend]), self._yardstick)
        )
        figures = float(f"{measured:.3g}"), float(f"{bound:.3g}")
        return Row(backend, self.architecture, self.block_format, *figures, self._positions, _versions(backend))

    @cached_property
    def _exact(self) -> NDArray[Any]:
        logits: NDArray[Any] = Decoder(self._path, context_length=self._positions).logits(self._tokens)
        return logits

    @cached_property
    def _yardstick(self) -> float:
        return yardstick(self._path, self._tokens, self._scratch).bound

    def _divergence(self, engine: Callable[[Path], Any]) -> float:
        fed = engine(self._path)
        quicken()
        pieces = ([self._positions], [self._positions - SINGLE, *[1] * SINGLE])
        return max(divergence(self._exact, fed.in_pieces(self._tokens, cut))[0] for cut in pieces)

    def _twins_difference(self) -> float:
        twin = self._scratch / "twin.gguf"
        rewrite(self._path, twin, "F32")
        llama = BareLlama(twin, self._positions, exact=True)
        theirs = llama.logits(self._tokens, range(self._positions))
        llama.free()
        return float(np.abs(self._exact - theirs).max() / np.ptp(theirs))


def measured(keys: Sequence[Key], scratch: Path) -> Iterator[Row]:
    """The rows, file by file."""
    for architecture, form in dict.fromkeys((architecture, form) for _, architecture, form in keys):
        file = File(architecture, form, scratch)
        rows = [file.row(backend) for backend in BACKENDS if (backend, architecture, form) in keys]
        beyond = [row.backend for row in rows if not row.passed]
        yield from (row for row in rows if row.passed)
        if beyond:
            longer = File(architecture, form, scratch, MORE_POSITIONS)
            yield from (longer.row(backend) for backend in beyond)


def _versions(backend: str) -> dict[str, str]:
    """Of what computes; our own version says nothing that CI does not measure."""
    found = versions_of(get_backend(backend))
    return {package: version for package, version in found.items() if package != "native-inference"}


def _missing(rows: Sequence[Row]) -> list[Key]:
    """What is not kept, or was measured with other versions than are installed."""
    current = {backend: _versions(backend) for backend in BACKENDS}
    fresh = {key(row) for row in rows if row.versions == current[row.backend]}
    return [each for each in wanted() if each not in fresh]


@click.command()
@click.option("--backend", "backends", multiple=True, type=click.Choice(BACKENDS), help="Only this one; repeatable.")
@click.option("--architecture", "architectures", multiple=True, type=click.Choice(list(ARCHITECTURES)))
@click.option("--format", "formats", multiple=True, type=click.Choice(BLOCK_FORMATS))
@click.option("--anew", is_flag=True, help="Measure what is kept already, too.")
@click.option("--page", "only_page", is_flag=True, help="Measure nothing.")
def main(
    backends: tuple[str, ...],
    architectures: tuple[str, ...],
    formats: tuple[str, ...],
    anew: bool,
    only_page: bool,
) -> None:
    """Measure architecture x block format x backend, keep the rows, render docs/conformance.md."""
    asked = (backends or BACKENDS, architectures or tuple(ARCHITECTURES), formats or BLOCK_FORMATS)
    rows = {key(row): row for row in read() if key(row) in wanted()}
    keys = [] if only_page else wanted() if anew else _missing(list(rows.values()))
    keys = [each for each in keys if all(part in some for part, some in zip(each, asked, strict=True))]
    with tempfile.TemporaryDirectory() as scratch:
        for number, row in enumerate(measured(keys, Path(scratch)), 1):
            rows[key(row)] = row
            keep(rows.values())
            click.echo(f"{number}/{len(keys)} {' '.join(key(row))} {row.measured:.1e} of {row.bound:.1e}", err=True)
    text = matrix_page.page(list(rows.values()))
    matrix_page.PAGE.write_text(text, encoding="utf-8")
    click.echo(text)
    failed = [" ".join(key(row)) for row in rows.values() if not row.level]
    if failed:
        sys.exit(f"Beyond the bound: {', '.join(failed)}")


if __name__ == "__main__":
    main()
