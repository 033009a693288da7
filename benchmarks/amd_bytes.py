"""Bytes of weights that the kernels of the backend `rocm` load, beside what the weights take in the file: counted by
the kernels' own index arithmetic, on Triton's interpreter.

python -m benchmarks.amd_bytes
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from inference.gguf.architectures import config_of
from inference.gguf.blocks import BLOCK_LAYOUTS, block_layout
from inference.gguf.reader import Header, read_header
from inference.stores import demo_model

if TYPE_CHECKING:
    from inference_rocm.gpu.device import Device

    from benchmarks.loaded_bytes import Launch

__all__ = ["MOST", "Count", "bytes_of_a_token", "decode_step", "experts", "gathered", "main", "multiplied"]

MOST = 1.05
"""Times the weights' bytes in the file."""
OUTPUTS, INPUTS = 576, 1536
"""SmolLM2's feed-forward network, on its way down."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one launch loads."""

    launch: Launch
    weights: int
    """How many it needs."""
    file_bytes: int
    """What these take in the file."""

    @property
    def ratio(self) -> float:
        return self.launch.touched() / self.file_bytes

    @property
    def activations(self) -> int:
        """Bytes of them, by all load instructions."""
        return self.launch.asked(["vectors"])


@click.command()
@click.option("--wave", type=click.Choice(["32", "64"]), default="64", show_default=True, help="Lanes of a wave.")
@click.option("--units", default=1, show_default=True, help="Compute units. Many of them let a program take few rows.")
@click.option("--step/--no-step", default=True, help="Count a whole decoding step of the demo model, too.")
def main(wave: str, units: int, step: bool) -> None:
    """Print Markdown tables: bytes by block format, and by kernel in a decoding step.

    "Loaded" is what has to come from memory: each byte once. "Asked for" is what all load instructions of all programs
    ask for, most of which caches have.

    The exit code is 1 if a kernel loads too much, or where nothing is.
    """
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before kernels are imported
    import torch
    from inference_rocm.gpu.device import Device

    device = Device(torch.device("cpu"), int(wave), units)
    counts = {name: multiplied(name, OUTPUTS, INPUTS, 1, device) for name in BLOCK_LAYOUTS}
    click.echo(f"One row times {OUTPUTS} x {INPUTS} weights, in blocks for waves of {wave}: bytes for each weight.\n")
    click.echo(format_table(counts))
    faults = [f"{name}: {count.ratio:.3f} x the file's bytes." for name, count in counts.items() if count.ratio > MOST]
    launches = [count.launch for count in counts.values()]
    path = demo_model()
    if step and path is not None:
        header = read_header(path)
        launches += (passed := decode_step(header))
        needed = bytes_of_a_token(header)
        ratio = sum(launch.touched() for launch in passed) / needed
        click.echo(
            f"\nA decoding step of {path.name}, a sequence's first: {ratio:.4f} x {needed:,} bytes in the file.\n"
        )
        click.echo(step_table(passed))
        faults += [f"The step: {ratio:.3f} x the file's bytes."] if ratio > MOST else []
    faults += [
        f"{launch.kernel}: {launch.outside} lanes are where nothing is." for launch in launches if launch.outside
    ]
    for fault in faults:
        click.echo(fault, err=True)
    sys.exit(1 if faults else 0)


# Kernels ------------------------------------------------------------------------------------------------------------


def multiplied(name: str, outputs: int, inputs: int, rows: int, device: Device) -> Count:
    """So many rows of activations times a matrix in a block format."""
    import torch
    from inference_rocm.gpu.linear import TritonLinear
    from inference_rocm.gpu.matrix import Matrix

    from benchmarks.loaded_bytes import loaded_bytes

    linear = TritonLinear(Matrix(_weights(name, outputs, inputs, device), None, device, torch.float32))
    with loaded_bytes() as launches:
        linear(torch.zeros(rows, inputs))
    return _count(launches, name, outputs, inputs)


def experts(name: str, outputs: int, inputs: int, chosen: Sequence[int], device: Device, *, together: bool) -> Count:
    """One row of activations for each expert that is chosen out of 8: as vectors, or `together` in tiles."""
    import torch
    from inference_rocm.gpu.experts import routing_of
    from inference_rocm.gpu.matrix import Matrix, Routing

    from benchmarks.loaded_bytes import loaded_bytes

    matrix = Matrix(_weights(name, 8 * outputs, inputs, device), None, device, torch.float32, experts=8)
    pairs = torch.tensor(chosen)
    rows, out = torch.zeros(1, inputs), torch.zeros(len(pairs), outputs)
    with loaded_bytes() as launches:
        if together:
            matrix.rows(rows, out, routing=routing_of(pairs, 8, 16), share=len(pairs))
        else:
            matrix.vectors(rows, out, routing=Routing(pairs.int()), share=len(pairs))
    return _count(launches, name, outputs * len(set(chosen)), inputs)


def gathered(name: str, tokens: Sequence[int], outputs: int, inputs: int, device: Device) -> Count:
    """Rows of a matrix of embeddings."""
    import torch
    from inference_rocm.gpu.embedding import Embedding

    from benchmarks.loaded_bytes import loaded_bytes

    embedding = Embedding(_weights(name, outputs, inputs, device), device)
    places = torch.zeros(len(tokens), dtype=torch.int32)
    with loaded_bytes() as launches:
        embedding(torch.tensor(tokens, dtype=torch.int32), places, places)
    return _count(launches, name, len(set(tokens)), inputs)


def _weights(name: str, outputs: int, inputs: int, device: Device) -> Any:
    """Zeros: what is loaded does not hang on them."""
    from inference_rocm.gpu.linear import weights_of

    return weights_of(
        block_layout(name), [np.zeros((outputs, _row_bytes(name, inputs)), np.uint8)], outputs, inputs, device
    )


def _count(launches: list[Launch], name: str, outputs: int, inputs: int) -> Count:
    (launch,) = launches
    return Count(launch, outputs * inputs, outputs * _row_bytes(name, inputs))


def _row_bytes(name: str, inputs: int) -> int:
    layout = block_layout(name)
    return inputs // layout.elements * layout.fields.itemsize


# A step -------------------------------------------------------------------------------------------------------------


def decode_step(header: Header) -> list[Launch]:
    """What all kernels of a sequence's first step load: from a token to the next one."""
    from inference_rocm.gpu.device import INTERPRETER
    from inference_rocm.gpu.loading import load_gpu_runner

    from benchmarks.loaded_bytes import loaded_bytes
    from inference.options import GenerateOptions
    from inference.protocols import Row

    runner = load_gpu_runner(header, INTERPRETER, context_length=64, max_slots=1, batch_size=64)
    try:
        runner.resize(1, 64, wait=True)
        runner.open(0, GenerateOptions(), 0, [1])
        with loaded_bytes() as launches:
            runner.step([Row(slot=0, feed=[1], sample=True)]).tokens()
    finally:
        runner.free()
    return launches


def bytes_of_a_token(header: Header) -> int:
    """Of all weights that one needs, in the file: the experts that it is sent to, one row of the embeddings, and all
    else. Where the output is the embeddings these are needed as a whole, besides."""
    rule = config_of(header).experts
    share = 1 if rule is None else rule.used / rule.count
    needed = 0.0
    for tensor in header.tensors.values():
        if tensor.name == "token_embd.weight":
            needed += tensor.size_bytes / tensor.shape[1]
            if "output.weight" in header.tensors:
                continue
        needed += tensor.size_bytes * (share if "_exps." in tensor.name else 1)
    return round(needed)


# Tables -------------------------------------------------------------------------------------------------------------


def format_table(counts: dict[str, Count]) -> str:
    """In Markdown: bytes for each weight."""
    headings = (
        "format", "kernel", "in the file", "loaded", "loaded / file", "asked for", "activations asked for",
    )  # fmt: skip
    rows = [
        (
            name, count.launch.kernel, f"{count.file_bytes / count.weights:.4f}",
            f"{count.launch.touched() / count.weights:.4f}", f"{count.ratio:.4f}",
            f"{count.launch.asked() / count.weights:.4f}", f"{count.activations / count.weights:.4f}",
        )
        for name, count in counts.items()
    ]  # fmt: skip
    return _table(headings, rows, texts=2)


def step_table(launches: Iterable[Launch]) -> str:
    """In Markdown: bytes by kernel, of all of its launches."""
    from benchmarks.loaded_bytes import WEIGHTS

    by_kernel: dict[str, list[Launch]] = {}
    for launch in launches:
        by_kernel.setdefault(launch.kernel, []).append(launch)
    rows = []
    for kernel, several in by_kernel.items():
        others = [launch.arguments.keys() - WEIGHTS for launch in several]
        numbers = (
            len(several),
            sum(launch.touched() for launch in several),
            sum(launch.asked() for launch in several),
            sum(launch.touched(names) for launch, names in zip(several, others, strict=True)),
        )
        rows.append((kernel, *(f"{number:,}" for number in numbers)))
    return _table(("kernel", "launches", "weights loaded", "weights asked for", "all else loaded"), rows, texts=1)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    lines = [headings, [*["---"] * texts, *["---:"] * (len(headings) - texts)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
