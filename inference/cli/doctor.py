"""`inference doctor`: what this machine is, what can run on it, and what would make the rest run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from inference.cli.model_name import MODEL
from inference.cli.report import bytes_text, show_json, show_rows, show_table
from inference.errors import BackendError, InferenceError
from inference.hardware import Machine, machine
from inference.loading import choose, read_model
from inference.options import LoadOptions
from inference.protocols import Backend
from inference.registry import default_backend, list_backends
from inference.types import Availability

__all__ = ["command"]

X86 = {"sse4_2", "avx", "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni"}
X86_16_BIT = {"avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
ARM = {"neon", "asimd", "asimdhp", "asimddp", "dotprod", "fphp", "fp16", "i8mm", "bf16", "sve", "sve2", "sme", "sme2"}
"""CPU features that kernels are written for, of all those that the JSON has."""

Probed = list[tuple[Backend, list[Availability]]]


@click.command("doctor")
@click.argument("model", type=MODEL, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """Show which backends can run here, and what would make the others run.

    With MODEL, also which backend would run that file. The exit code is 0 if a backend is available, and 1 if none is
    or none can run MODEL.
    """
    here = machine()
    probed = [(backend, backend.probe()) for backend in list_backends()]
    default = _default()
    choice, error = (None, None) if model is None else _choice(model)
    if as_json:
        show_json(_document(here, probed, default, choice, error))
    else:
        show_rows(_machine_rows(here))
        show_table(("Backend, device", "Available", "Memory", "Device", "Why"), _device_rows(probed))
        show_rows(_verdict_rows(probed, default, choice))
    if error is not None:
        raise error
    if not any(entry.available for _, entries in probed for entry in entries):
        ctx.exit(1)


def _default() -> str | None:
    try:
        return default_backend().name
    except BackendError:
        return None


def _choice(model: str) -> tuple[dict[str, Any] | None, InferenceError | None]:
    """The backend that would run the file and why, or the error that `run` would end with."""
    try:
        described = read_model(model)
        choice = choose(described, LoadOptions())
    except InferenceError as error:
        return None, error
    return {
        "path": str(described.path),
        "backend": choice.backend.name,
        "reason": choice.reason,
        "weight_bytes": choice.support.weight_bytes,
        "kv_bytes_per_token": choice.support.kv_bytes_per_token,
    }, None


def _document(
    here: Machine, probed: Probed, default: str | None, choice: dict[str, Any] | None, error: InferenceError | None
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "machine": asdict(here),
        "backends": [
            {"backend": backend.name, "devices": [asdict(entry) for entry in entries]} for backend, entries in probed
        ],
        "default_backend": default,
    }
    if choice is not None or error is not None:
        document["model"] = choice or {"error": str(error)}
    return document


def _machine_rows(here: Machine) -> Iterator[tuple[str, str]]:
    yield "system", f"{here.system} {here.architecture}"
    cpu = here.cpu
    yield "cpu", f"{cpu.name}, {cpu.physical_cores} physical cores, {cpu.usable_cores} usable"
    mattering = sorted((X86 | X86_16_BIT | ARM) & {feature.lower().removeprefix("feat_") for feature in cpu.features})
    yield "cpu features", " ".join(mattering) or "unknown"
    yield "memory", f"{bytes_text(here.memory_bytes)}, {bytes_text(here.available_memory_bytes)} available"
    for gpu in here.gpus:
        parts = [gpu.name, bytes_text(gpu.memory_bytes), "integrated" * bool(gpu.integrated)]
        yield "gpu", ", ".join(filter(None, [*parts, "" if gpu.driver else "without a driver for computing"]))
    if not here.gpus:
        yield "gpu", "none found"


def _device_rows(probed: Probed) -> Iterator[tuple[str, ...]]:
    for backend, entries in probed:
        for entry in entries:
            state = "not available" if not entry.available else "available" if entry.automatic else "when asked for"
            memory = bytes_text(entry.memory_bytes) if entry.memory_bytes is not None else ""
            yield f"{backend.name} {entry.device}", state, memory, entry.description, entry.reason


def _verdict_rows(probed: Probed, default: str | None, choice: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    for backend, entries in probed:
        for entry in entries:
            if entry.fix is not None:
                yield f"fix {backend.name} {entry.device}", entry.fix
    if not probed:
        yield "backends", "none is installed. Try: pip install 'native-inference[llama-cpp]'"
    yield "default backend", default or "none"
    if choice is not None:
        yield "model", choice["path"]
        yield "runs on", choice["reason"]
