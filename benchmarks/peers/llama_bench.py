"""llama.cpp's own benchmarks, built by `make peers` from the sources of the installed library.

They feed tokens of no meaning, look at no logits and make no text: what is left is what llama.cpp can do at most.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from inference.measuring import Passes, Settings

__all__ = ["LlamaBatchedBench", "LlamaBench", "built"]

CACHE = Path(__file__).parent.parent.parent / ".cache"
PACKAGE = "llama-cpp-python"
SUFFIX = ".exe" if os.name == "nt" else ""
ALL_LAYERS = 999


@dataclass(frozen=True, slots=True)
class LlamaBench:
    """One sequence: a prompt, or tokens behind a history."""

    name: ClassVar[str] = "llama-bench"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = (PACKAGE,)

    def reason_unavailable(self) -> str | None:
        return _reason_unavailable(self.name)

    def own_rate(self, model: Path, settings: Settings, passes: Passes) -> float:
        wanted = ["-p", passes.prompt, "-n", passes.tokens, "-d", passes.depth, "-r", 1]
        kind = settings.kv_cache_type
        options = ["-ctk", kind, "-ctv", kind, "-fa", int(settings.flash_attention), "-o", "jsonl"]
        (line,) = _lines(self.name, model, settings, [*wanted, *options])
        return float(line["avg_ts"])


@dataclass(frozen=True, slots=True)
class LlamaBatchedBench:
    """Several sequences that decode together."""

    name: ClassVar[str] = "llama-batched-bench"
    ours: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = (PACKAGE,)

    def reason_unavailable(self) -> str | None:
        return _reason_unavailable(self.name)

    def own_rate(self, model: Path, settings: Settings, passes: Passes) -> float:
        wanted = ["-npp", passes.prompt, "-ntg", passes.tokens, "-npl", passes.sequences]
        kind, attention = settings.kv_cache_type, "on" if settings.flash_attention else "off"
        length = settings.context_length * passes.sequences
        options = ["-c", length, "-ctk", kind, "-ctv", kind, "-fa", attention, "--output-format", "jsonl"]
        (line,) = _lines(self.name, model, settings, [*wanted, *options])
        return float(line["speed_tg"])


def built(name: str) -> Path:
    """Where the program of this name belongs, for the installed version of the library.

    Raises:
        PackageNotFoundError: the library is not installed.
    """
    return CACHE / f"{PACKAGE}-{version(PACKAGE)}" / f"{name}{SUFFIX}"


def _reason_unavailable(name: str) -> str | None:
    try:
        return None if built(name).exists() else f"{name} is not built: run `make peers`."
    except PackageNotFoundError:
        return f"{PACKAGE} is not installed."


def _lines(name: str, model: Path, settings: Settings, options: Sequence[object]) -> list[dict[str, Any]]:
    """What the program printed as JSON, a line for each of its tests.

    Raises:
        RuntimeError: it failed; with the last line of its complaint.
    """
    layers = ALL_LAYERS if settings.gpu_layers < 0 else settings.gpu_layers
    shared = [
        "-m",
        model,
        "-t",
        settings.threads,
        "-b",
        settings.batch_size,
        "-ub",
        settings.batch_size,
        "-ngl",
        layers,
    ]
    command = [str(word) for word in (built(name), *shared, *options)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing."]
        raise RuntimeError(f"{name} failed with exit code {done.returncode}: {last[0]}")
    return lines
