"""The share of the machine's limits that engines reach: of its memory's bandwidth when they decode one sequence, of its
matrix product's peak when they compute a prompt."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine_limits import machine_limits
from inference.gguf.reader import Header, read_header
from inference.measuring import Cell

__all__ = ["decode_remark", "layer_weights", "prefill_remark", "token_bytes"]

EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"


def decode_remark(model: Path, threads: int, engines: Sequence[str], cell: Cell) -> str | None:
    """What of the memory's bandwidth those of `engines` used that decoded: they keep the weights about as small as the
    file does. None if none did."""
    rates = {name: rate for name, rate in _rates(cell).items() if name in engines}
    if not rates:
        return None
    each, limit = token_bytes(read_header(model)), machine_limits(threads).read
    shares = [f"{name} {rate * each / 1e9:.1f} GB/s, {rate * each / limit:.0%}" for name, rate in rates.items()]
    return (
        f"{cell.case}, {model.name}: a token reads {each / 1e6:.1f} MB of the file's tensors (KV memory not counted), "
        f"and {_with(threads)} this machine reads {limit / 1e9:.1f} GB/s at best. Share of that: {'; '.join(shares)}."
    )


def prefill_remark(model: Path, threads: int, cell: Cell) -> str | None:
    """What of the matrix product's peak the competitors used. None if none took part."""
    rates = _rates(cell)
    if not rates:
        return None
    each, limit = 2 * layer_weights(read_header(model)), machine_limits(threads).multiply
    shares = [f"{name} {rate * each / 1e9:.0f} GFLOP/s, {rate * each / limit:.0%}" for name, rate in rates.items()]
    return (
        f"{cell.case}, {model.name}: a token is multiplied with {each / 2e6:.1f} million weights (attention and output "
        f"head not counted), and {_with(threads)} this machine's matrix product reaches {limit / 1e9:.0f} GFLOP/s at "
        f"best. Share of that: {'; '.join(shares)}."
    )


def token_bytes(header: Header) -> int:
    """Bytes of the file's tensors that decoding a token reads: not the experts that it does not use, and not the
    embeddings where the output has a matrix of its own (a row of them is all that is read)."""
    own_output = OUTPUT in header.tensors
    return round(
        sum(
            tensor.size_bytes * _used(header, name)
            for name, tensor in header.tensors.items()
            if not (own_output and name == EMBEDDINGS)
        )
    )


def layer_weights(header: Header) -> int:
    """Weights that each token of a prompt is multiplied with: the layers' matrices, without the experts that it does
    not use. The output head is computed for the last token alone."""
    return round(
        sum(
            tensor.elements * _used(header, name)
            for name, tensor in header.tensors.items()
            if len(tensor.shape) > 1 and name.endswith(".weight") and name not in (EMBEDDINGS, OUTPUT)
        )
    )


def _used(header: Header, name: str) -> float:
    """The part of a tensor that one token needs."""
    if "_exps." not in name:
        return 1.0
    count, used = (header.integer(header.architecture_key(f"expert_{what}")) for what in ("count", "used_count"))
    return used / count


def _rates(cell: Cell) -> Mapping[str, float]:
    """Median tokens per second, by name; empty where the limits cannot be measured."""
    if importlib.util.find_spec("torch") is None:
        return {}
    return {entry.name: entry.spread.median for entry in cell.entries if entry.spread}


def _with(threads: int) -> str:
    return f"with {threads} thread{'s' if threads > 1 else ''}"
