"""A model loaded, used and closed again and again, in a worker's process: what the process then holds must not grow."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hostile.attempts import CPU_DEVICES
from hostile.tiny_files import tiny_file

from inference import load_model
from inference.worker import Worker
from soak.resources import Resources

__all__ = ["BACKENDS", "cycle", "growth"]

BACKENDS = ("llama_cpp", "torch", "metal", "rocm")
SECONDS = 1800.0
"""That all loads of a backend may take."""
SCATTER, PER_LOAD = 4 * 2**20, 32 * 2**10
"""Bytes that the resident set may scatter by, and for each load: a model that were kept would weigh a hundred
kilobytes, and its context more."""


def cycle(wanted: tuple[str, str, int]) -> list[list[int]]:
    """Load so many times; memory, threads and descriptors after the first fifth, and at the end."""
    path, backend, count = wanted
    device = CPU_DEVICES.get(backend)
    seen = []
    for number in range(count):
        with load_model(path, backend=backend, device=device, context_length=256) as model:
            model.generate("the", max_tokens=2, ignore_eos=True).text()
            next(model.classify(["the"], labels=["a", "b"]))
        del model
        if number in (count // 5, count - 1):
            now = Resources.now()
            seen.append([now.memory, now.threads, now.descriptors])
    return seen


def growth(backend: str, count: int) -> tuple[Resources, Resources, list[str]]:
    """What the process held after the first fifth and at the end, and what of it grew."""
    worker = Worker("soak.loads:cycle")
    with TemporaryDirectory() as name:
        path = Path(name, "model.gguf")
        path.write_bytes(tiny_file("llama"))
        try:
            first, last = (Resources(*held) for held in worker.call((str(path), backend, count), SECONDS))
        finally:
            worker.close()
    return first, last, last.beyond(first, memory=SCATTER + PER_LOAD * count)
