"""docs/conformance.md, from the rows of the matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from gguf_files import MODEL, write_model
from inference_rocm.devices import INTERPRETER, interpreting

from conformance.cases import BLOCK_FORMATS, layers_of
from conformance.files import Recipe, write
from conformance.matrix_rows import POSITIONS, Row
from inference.gguf.architectures import ARCHITECTURES
from inference.gguf.block_formats import BLOCK_FORMATS as EVERY_FORMAT
from inference.gguf.block_formats import DECODED
from inference.gguf.header import Header
from inference.gguf.reader import read_header
from inference.options import LoadOptions
from inference.registry import get_backend

__all__ = ["PAGE", "page", "unsupported"]

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
DEVICES = {"metal": "cpu", "rocm": INTERPRETER if interpreting() else None}
"""Where a backend is asked that may have no device of its own here."""
WHERE = {
    "llama_cpp": "the CPU",
    "torch": "the CPU, with the kernels in C",
    "metal": "MLX's CPU device, in float32; nothing was run on Metal",
    "rocm": "Triton's interpreter, in the type of 16 bits that a GPU gets; nothing was run on an AMD GPU",
}
NO_WEIGHTS = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64")
"""Formats of activations, and plain numbers that no model's matrices are stored in."""

HEAD = """# Conformance: architecture x block format x backend

`make matrix` measures, and writes this page from `tests/conformance/matrix.jsonl`. CI fails when a backend, an
architecture or a format is missing here, when versions differ from those that `pyproject.toml` asks for, or when rows
that it measures anew disagree.

Each cell is a file of random weights, all matrices in one format, with a real vocabulary. Twelve tokens are fed in one
pass, and then eight and four single ones. Figure and bound are means over the tokens, which so few scatter: a cell
beyond its bound is measured again with 64 (marked *), and that counts.

The figure is a **share of the bound**: up to 1.0 has passed, 0 is less than a thousandth. Up to 1.25 is level with the
bound: two engines that round alike lie that far apart on 64 tokens. More fails. What is measured:

- `llama_cpp`: the largest difference of logits between llama.cpp and our numpy decoder, on the same weights in F32, by
  the logits' range. The bound is 1e-3.
- the others: mean KL divergence from the numpy decoder in exact arithmetic, on the file itself. The bound is what
  llama.cpp's own rounding loses, on the file or on its weights as Q8_0, whichever is more.
"""


def page(rows: Sequence[Row]) -> str:
    """The page of these rows."""
    parts = [HEAD]
    for backend in dict.fromkeys(row.backend for row in _ordered(rows)):
        parts.append("\n".join([f"## {backend}", "", *_table([row for row in rows if row.backend == backend])]))
        parts.append("")
    parts.append("\n".join(_refusals(list(dict.fromkeys(row.backend for row in _ordered(rows))))))
    return "\n".join(parts) + "\n"


def unsupported(backend: str, architecture: str, block_format: str) -> str | None:
    """Why the backend refuses a file of this architecture whose matrices have this format; None if it takes it."""
    options = LoadOptions(device=DEVICES.get(backend))
    support = get_backend(backend).supports(_header(architecture, block_format), options)
    return None if support.supported else support.reason


def _table(rows: Sequence[Row]) -> Iterator[str]:
    by_cell = {(row.block_format, row.architecture): row for row in rows}
    largest = max(row.share for row in rows)
    versions = ", ".join(f"{package} {version}" for package, version in rows[0].versions.items())
    passed = sum(row.passed for row in rows)
    level = sum(row.level and not row.passed for row in rows)
    told = f"{passed} of {len(rows)} passed" + (f", {level} are level" if level else "")
    yield f"On {WHERE[rows[0].backend]}. {told}, the largest at {largest:.2f}."
    yield f"Versions: {versions}."
    yield ""
    yield "| | " + " | ".join(ARCHITECTURES) + " |"
    yield "| --- |" + " ---: |" * len(ARCHITECTURES)
    for form in BLOCK_FORMATS:
        cells = [by_cell.get((form, architecture)) for architecture in ARCHITECTURES]
        yield f"| {form} | " + " | ".join("-" if row is None else _share(row) for row in cells) + " |"


def _refusals(backends: Sequence[str]) -> Iterator[str]:
    yield "## Unsupported"
    yield ""
    yield "What backends say of block formats that our decoders do not read, and of an architecture without entry:"
    yield ""
    others = [form.name for form in EVERY_FORMAT.values() if form.name not in (*DECODED, *NO_WEIGHTS)]
    told: dict[tuple[str, str], list[str]] = {}
    for title, architecture, form in [*((form, "llama", form) for form in others), ("mamba", "mamba", "Q8_0")]:
        for backend in backends:
            reason = unsupported(backend, architecture, form) or "taken as it is; not compared with anything."
            said = told.setdefault((title, reason.replace(title, "...")), [])
            said.append(f"`{backend}`")
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (title, reason), names in told.items():
        by_reason.setdefault((", ".join(names), reason), []).append(title)
    for (names, reason), titles in by_reason.items():
        yield f"- {', '.join(titles)} by {names}: {reason}"


def _header(architecture: str, block_format: str) -> Header:
    """Of a small file whose matrices say that they have this format."""
    header = _small(architecture)
    tensors = {
        name: replace(tensor, type=block_format if tensor.type == "Q8_0" else tensor.type)
        for name, tensor in header.tensors.items()
    }
    return replace(header, tensors=MappingProxyType(tensors))


@cache
def _small(architecture: str) -> Header:
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "model.gguf")
        if architecture in ARCHITECTURES:
            write(Recipe(architecture=architecture, layers=layers_of(architecture), block_formats=("Q8_0",)), path)
        else:
            keys = {key: value for key, value in MODEL.items() if key.startswith("llama.")}
            own = {key.replace("llama", architecture): value for key, value in keys.items()}
            write_model(path, own | {"general.architecture": architecture})
        header = read_header(path)
    named = Path(path.name)  # what is refused is told by its path
    tensors = {name: replace(tensor, path=named) for name, tensor in header.tensors.items()}
    return replace(header, path=named, paths=(named,), tensors=MappingProxyType(tensors))


def _share(row: Row) -> str:
    told = "0" if row.share < 5e-4 else f"{row.share:.2g}"
    return told if row.positions == POSITIONS else f"{told}*"


def _ordered(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: list(WHERE).index(row.backend))
