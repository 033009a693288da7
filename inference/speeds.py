"""How fast this machine's engines were measured to be: a file in the user's cache, which `inference tune` writes.

A figure counts for what it was measured on: this machine and its drivers, the engine's version, and models of the same
architecture, block formats and size (to a factor of two).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, fsum, log, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from inference.user_cache import cache_folder

if TYPE_CHECKING:
    from inference.folder import Folder
    from inference.gguf.reader import Header
    from inference.options import Workload
    from inference.protocols import Backend

__all__ = ["Speed", "Speeds", "Subject", "machine_key", "packages_of", "speed", "subject_of", "versions_of"]

FILE = "speeds.json"
VERSION = 1
"""Of the file's form."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What of a model decides which engine is the fastest."""

    architecture: str
    formats: str
    """Block formats of its matrices, the one with most weights first: "Q4_K+Q6_K"."""
    size: int
    """The power of two that is next to the bytes of its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one engine reached on one kind of model."""

    machine: Mapping[str, Any]
    """As `machine_key` gives it."""
    versions: Mapping[str, str]
    """Of the packages that decide how fast the engine is."""
    subject: Subject
    backend: str
    device: str
    """The name that `device=` takes."""
    rates: Mapping[str, Mapping[str, float]]
    """Tokens/s by workload and work: {"decode": {"1 sequence": 90.0, ...}, "prefill": ...}; 0 for what it failed at."""
    date: str = field(default="")
    """Of the measurement, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """All that was measured on this machine with the engines as they are now."""

    entries: tuple[Speed, ...] = ()

    @classmethod
    def kept(cls, file: Path | None = None) -> Self:
        """What the file holds, the user's own by default. One that is damaged is as good as none, which a warning
        says."""
        file = file or cache_folder() / FILE
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("Measured speeds cannot be read and are ignored: %s", error)
            return cls()
        try:
            return cls(tuple(_entries(json.loads(text))))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            _log.warning("%s is damaged and is ignored (%s). `inference tune` writes it anew.", file, reason)
            return cls()

    def of(self, subject: Subject, workload: Workload) -> dict[tuple[str, str], float]:
        """Tokens/s by backend and device: the geometric mean over the works of a workload. Only what was measured with
        this machine and these versions counts."""
        about = _counting([entry for entry in self.entries if entry.subject == subject])
        return {(entry.backend, entry.device): speed(entry.rates.get(workload, {})) for entry in about}

    def with_(self, new: Iterable[Speed]) -> Speeds:
        """These and `new` ones, which take the place of what they were measured on before. What other versions or
        drivers were measured with is dropped: it counts no more."""
        new = tuple(new)
        places = {(entry.subject, entry.backend, entry.device) for entry in new}
        kept = _counting(self.entries)
        return Speeds((*(entry for entry in kept if (entry.subject, entry.backend, entry.device) not in places), *new))

    def keep(self, file: Path | None = None) -> Path:
        """Write the file, whole or not at all; where it is.

        Raises:
            OSError: it cannot be written.
        """
        file = file or cache_folder() / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        document = {"version": VERSION, "speeds": [asdict(entry) for entry in self.entries]}
        handle, part = tempfile.mkstemp(prefix=FILE, dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                json.dump(document, written, indent=1)
            Path(part).replace(file)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        return file


def speed(rates: Mapping[str, float]) -> float:
    """The geometric mean; 0 where there are none, or one of them is 0."""
    if not rates or min(rates.values()) <= 0:
        return 0.0
    return exp(fsum(map(log, rates.values())) / len(rates))


def subject_of(model: Header | Folder) -> Subject:
    """What a model counts as. Reads no weights."""
    from inference.gguf.header import Header  # late, as all that reads models

    formats = model.quantization
    if isinstance(model, Header):
        weights: Counter[str] = Counter()
        for tensor in model.tensors.values():
            if len(tensor.shape) > 1:
                weights[tensor.type] += tensor.elements
        formats = "+".join(name for name, _ in weights.most_common())
    return Subject(model.architecture, formats, round(log2(max(model.size_bytes, 1))))


def machine_key() -> dict[str, Any]:
    """What of this machine decides how fast an engine is: processor, cores, GPUs, drivers."""
    from inference.hardware import drivers, machine

    here = machine()
    return {
        "system": f"{here.system} {here.architecture}",
        "cpu": here.cpu.name,
        "cores": here.cpu.usable_cores,
        "gpus": [gpu.name for gpu in here.gpus],
        "drivers": drivers(),
    }


def packages_of(backend: Backend) -> tuple[str, ...]:
    """This one, and those that `backend` says decide its speed."""
    from inference.protocols import VersionedBackend

    return ("native-inference", *(backend.packages if isinstance(backend, VersionedBackend) else ()))


def versions_of(backend: Backend) -> dict[str, str]:
    """Of `packages_of` it."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages_of(backend):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _counting(entries: Sequence[Speed]) -> list[Speed]:
    """Those that were measured on this machine as it is now, with the engines as they are now."""
    if not entries:  # which spares asking what this machine is
        return []
    from inference.registry import list_backends

    here, names = machine_key(), {entry.backend for entry in entries}
    versions = {backend.name: versions_of(backend) for backend in list_backends() if backend.name in names}
    return [entry for entry in entries if entry.machine == here and entry.versions == versions.get(entry.backend)]


def _entries(document: Any) -> Iterable[Speed]:
    if document["version"] != VERSION:
        raise ValueError(f"its form is {document['version']!r}, and {VERSION} is known")
    for entry in document["speeds"]:
        subject = Subject(**entry.pop("subject"))
        rates = {
            workload: {work: float(rate) for work, rate in works.items()}
            for workload, works in entry.pop("rates").items()
        }
        yield Speed(subject=subject, rates=rates, **entry)
