"""What Python costs the backend `rocm` in a decoding step beside its captured pass: the demo model, with a pass that
does nothing. Copies go between tensors of the CPU, so what HIP takes for them, and to launch the graph, is not in it.

python -m benchmarks.amd_overhead
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Sequence
from statistics import median
from time import perf_counter

import click

from inference.stores import demo_model

__all__ = ["main", "step_times"]

WANTED = 150
"""Microseconds."""
STEPS = 2000


@click.command()
@click.option("--slots", default="1,8,32", show_default=True, help="Sequences that decode together.")
@click.option("--steps", default=STEPS, show_default=True, help="Steps of each.")
def main(slots: str, steps: int) -> None:
    """Print a Markdown table: microseconds from a step's call to its tokens, and how many are wanted."""
    os.environ.setdefault("TRITON_INTERPRET", "1")  # nothing is compiled, and no GPU is needed
    if demo_model() is None:
        sys.exit("There is no demo model; `make setup` brings it.")
    click.echo("| sequences | median, microseconds | 90 % below | wanted |\n| ---: | ---: | ---: | ---: |")
    for count in map(int, slots.split(",")):
        times = sorted(step_times(count, steps))
        click.echo(f"| {count} | {1e6 * median(times):.0f} | {1e6 * times[len(times) * 9 // 10]:.0f} | {WANTED} |")


def step_times(count: int, steps: int) -> Sequence[float]:
    """Seconds of each step of so many sequences: launching it, and reading the tokens of the one before."""
    from inference_rocm.gpu.device import INTERPRETER
    from inference_rocm.gpu.graphs import Graphs
    from inference_rocm.gpu.loading import load_gpu_runner

    from inference.gguf.reader import read_header
    from inference.options import GenerateOptions
    from inference.protocols import Row

    class NothingCaptured(Graphs):
        def __contains__(self, key: Hashable) -> bool:
            return True

        def run(self, key: Hashable) -> None:
            """Nothing, where the GPU would be told to run all kernels."""

    path = demo_model()
    assert path is not None
    length = steps + 8
    runner = load_gpu_runner(read_header(path), INTERPRETER, context_length=length, max_slots=count, batch_size=512)
    runner._graphs = NothingCaptured(INTERPRETER)
    try:
        runner.resize(count, length, wait=True)
        for slot in range(count):
            runner.open(slot, GenerateOptions(), 0, [1])
        rows = [Row(slot) for slot in range(count)]
        before = runner.step(rows)
        times = []
        for _ in range(steps):
            began = perf_counter()
            launched = runner.step(rows)
            before.tokens()
            times.append(perf_counter() - began)
            before = launched
        return times
    finally:
        runner.free()


if __name__ == "__main__":
    main()
