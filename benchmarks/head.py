"""`python -m benchmarks.head MODEL [THREADS]`: the seconds that one row of the output head costs among others.

It is a program of its own: llama.cpp's threads would slow the engine that is measured later in the same process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.peers.llama_cpp_bare import BareSession
from inference.measuring import Settings, first_line

__all__ = ["head_seconds", "row_seconds"]

ROWS = 32
"""Outputs in one pass: about what a batch of short sentences has."""
REPEATS = 12


def head_seconds(model: Path, threads: int) -> float:
    """What this program prints, from a fresh process."""
    return float(first_line([sys.executable, "-m", "benchmarks.head", str(model), str(threads)])[0])


def row_seconds(model: Path, threads: int) -> float:
    """A pass over the same tokens with an output for each costs more than one with a single output: by the head, and by
    bringing its logits to where they can be read. This is the median of the differences, by rows."""
    session = BareSession(model, Settings(threads=threads, context_length=256, batch_size=ROWS))
    differences = []
    for number in range(REPEATS + 1):
        # Which of the two comes first changes, so that a machine that gets slower favours neither.
        order = (1, ROWS) if number % 2 else (ROWS, 1)
        seconds = {outputs: _timed(session, outputs) for outputs in order}
        if number:  # the first is the warm-up
            differences.append((seconds[ROWS] - seconds[1]) / (ROWS - 1))
    session.close()
    return max(median(differences), 0.0)


def _timed(session: BareSession, outputs: int) -> float:
    began = perf_counter()
    session.compute(range(1000, 1000 + ROWS), outputs)
    return perf_counter() - began


if __name__ == "__main__":
    path, *rest = sys.argv[1:]
    sys.stdout.write(f"{row_seconds(Path(path), int(rest[0]) if rest else Settings.here().threads)}\n")
