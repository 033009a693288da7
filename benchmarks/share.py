"""The share of the machine's limits that engines reach: what its memory's bandwidth and its matrix product allow of a
model's tokens per second, whichever is less (the roofline)."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.machine_limits import MachineLimits, machine_limits
from inference.gguf.reader import Header, read_header
from inference.hardware import machine
from inference.measuring import Cell

__all__ = ["Work", "at_best", "best_of", "layer_weights", "share_remark", "token_bytes"]

EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class Work:
    """What one pass over the weights computes."""

    tokens: int
    outputs: int
    """Tokens of which logits are wanted."""
    depth: int = 0
    """Tokens of history, whose keys and values each token reads."""

    @classmethod
    def of(cls, cell: Cell) -> Self | None:
        """What a pass of this cell computes; None of a cell whose unit is not a model's tokens per second."""
        if cell.case == "prefill":
            return cls(min(cell.facts["tokens"], cell.facts["settings"]["batch_size"]), 1)
        if match := re.fullmatch(r"decode (\d+) together", cell.case):
            return cls(int(match[1]), int(match[1]))
        if match := re.fullmatch(r"decode at (\d+)", cell.case):
            return cls(1, 1, int(match[1]))
        return cls(1, 1) if cell.case in ("decode greedy", "decode sampled") else None


def share_remark(model: Path, threads: int, cell: Cell) -> str | None:
    """What of the machine's limit each competitor used; None if none took part, or the limits cannot be measured. An
    engine whose weights are wider than the file's reads more than is reckoned here, so that its share is smaller."""
    rates = {entry.name: entry.spread.median for entry in cell.entries if entry.spread}
    work = Work.of(cell)
    if not rates or work is None or not _is_told(model):
        return None
    header, limits = read_header(model), machine_limits(threads)
    best = at_best(header, work, limits)
    by_memory, by_products = _seconds(header, work, limits)
    if by_memory > by_products:
        why = f"{_bytes(header, work) / 1e6:.1f} MB are read for a pass, and memory gives {limits.read / 1e9:.1f} GB/s"
    else:
        each = _operations(header, work) / work.tokens
        why = f"{each / 1e6:.0f} MFLOP a token, and the matrix product reaches {limits.multiply / 1e9:.0f} GFLOP/s"
    shares = "; ".join(f"{name} {rate / best:.0%}" for name, rate in rates.items())
    with_threads = f"with {threads} thread{'s' if threads > 1 else ''}"
    return f"{cell.case}, {model.name}: at best {best:.0f} tokens/s {with_threads} ({why}). Share of that: {shares}."


def best_of(model: Path, threads: int, cell: Cell) -> float | None:
    """Tokens per second that this machine's limits allow in the cell's work; None where that cannot be told."""
    work = Work.of(cell)
    if work is None or not _is_told(model):
        return None
    return at_best(read_header(model), work, machine_limits(threads))


def at_best(header: Header, work: Work, limits: MachineLimits) -> float:
    """Tokens per second that the limits allow. Attention's products are not counted, nor activations."""
    return work.tokens / max(_seconds(header, work, limits))


def token_bytes(header: Header, tokens: int = 1) -> int:
    """Bytes of the file's tensors that a pass over `tokens` tokens reads: of experts those that it may be expected to
    use, and not the embeddings where the output has a matrix of its own (a row of them is all that is read)."""
    own_output = OUTPUT in header.tensors
    return round(
        sum(
            tensor.size_bytes * (1 - (1 - _used(header, name)) ** tokens)
            for name, tensor in header.tensors.items()
            if not (own_output and name == EMBEDDINGS)
        )
    )


def layer_weights(header: Header) -> int:
    """Weights that each token is multiplied with in the layers' matrices, without the experts that it does not use."""
    return round(
        sum(
            tensor.elements * _used(header, name)
            for name, tensor in header.tensors.items()
            if len(tensor.shape) > 1 and name.endswith(".weight") and name not in (EMBEDDINGS, OUTPUT)
        )
    )


def _is_told(model: Path) -> bool:
    """Whether the limits can be measured, and the model's tensors be read from a header (a folder has none). Measured
    are the processor's: where there is a GPU, they say nothing of it."""
    return importlib.util.find_spec("torch") is not None and model.is_file() and not machine().gpus


def _seconds(header: Header, work: Work, limits: MachineLimits) -> tuple[float, float]:
    """Of a pass, by memory and by products."""
    return _bytes(header, work) / limits.read, _operations(header, work) / limits.multiply


def _bytes(header: Header, work: Work) -> float:
    history = work.tokens * work.depth * header.kv_bytes_per_token() if work.depth else 0
    return token_bytes(header, work.tokens) + history


def _operations(header: Header, work: Work) -> float:
    head = header.tensors.get(OUTPUT) or header.tensors[EMBEDDINGS]
    return 2 * (work.tokens * layer_weights(header) + work.outputs * head.elements)


def _used(header: Header, name: str) -> float:
    """The part of a tensor that one token needs."""
    if "_exps." not in name:
        return 1.0
    count, used = (header.integer(header.architecture_key(f"expert_{what}")) for what in ("count", "used_count"))
    return used / count
