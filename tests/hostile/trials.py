"""Many files tried in worker processes, and what came of them, counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile.folder_mutations import FolderMutation
from hostile.mutations import Mutation, mutations
from hostile.tiny_files import ARCHITECTURES, tiny_file
from inference.worker import Worker, WorkerDiedError, WorkerSlowError

__all__ = ["BAD", "Tally", "sample", "try_all", "try_folders"]

BAD = ("died", "hung", "stray")
"""What no file may come to."""

SECONDS = 30.0
"""After which a file hangs."""


@dataclass
class Tally:
    """What came of the files."""

    came: Counter[str] = field(default_factory=Counter)
    """How many loaded, were refused, ended the process, hung; refused are by the error's name."""
    bad: list[str] = field(default_factory=list)
    """The files that ended a process, hung, or came to an error that is none of ours."""


def sample(count: int, seed: int) -> list[tuple[str, Mutation]]:
    """So many mutations, with their architectures, drawn from all."""
    everything = [(name, mutation) for name in ARCHITECTURES for mutation in mutations(tiny_file(name))]
    return random.Random(seed).sample(everything, min(count, len(everything)))


def try_all(files: Iterable[tuple[str, Mutation]], path: Path, function: str, *more: str) -> Iterator[Tally]:
    """Write each file to `path` and call `function` of `attempts` with it; the tally after each."""
    tally = Tally()
    worker = Worker(f"hostile.attempts:{function}")
    try:
        for architecture, mutation in files:
            path.write_bytes(mutation.data)
            came = _came(worker, (str(path), *more) if more else str(path))
            if came.startswith(BAD):
                tally.bad.append(f"{architecture}, {mutation.name}: {came}")
                came = came.split()[0].strip(":")
            tally.came[came] += 1
            yield tally
    finally:
        worker.close()


def try_folders(mutations: Iterable[FolderMutation], folder: Path) -> Tally:
    """Change the folder, load it on `metal`, and change it back; what came of each."""
    tally = Tally()
    worker = Worker("hostile.attempts:by_load_model")
    try:
        for mutation in mutations:
            before = mutation.apply(folder)
            came = _came(worker, (str(folder), "metal"))
            (folder / mutation.file).write_bytes(before)
            if came.startswith(BAD):
                tally.bad.append(f"{mutation.name}: {came}")
            tally.came[came.split()[0].strip(":,")] += 1
    finally:
        worker.close()
    return tally


def _came(worker: Worker, argument: Any) -> str:
    try:
        return str(worker.call(argument, SECONDS))
    except WorkerDiedError as error:
        return f"died: {error}"
    except WorkerSlowError:
        return "hung"
