"""`inference doctor`: what this machine is, what can run on it, and what would make the rest run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import click

from inference.choosing import Candidate, able_of, candidates
from inference.cli.model_name import MODEL
from inference.cli.report import bytes_text, show_json, show_rows, show_table
from inference.errors import BackendError, InferenceError
from inference.hardware import Machine, machine
from inference.loading import read_model
from inference.options import LoadOptions, Workload
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
@click.option(
    "--workload",
    type=click.Choice(get_args(Workload)),
    default="decode",
    show_default=True,
    help="What speeds are compared by: writing text, or reading it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(ctx: click.Context, model: str | None, workload: Workload, as_json: bool) -> None:
    """Show which backends can run here, and what would make the others run.

    With MODEL, also what each could do with that file, how fast that was measured to be (`inference tune`), and which
    would run it. The exit code is 0 if a backend is available, and 1 if none is or none can run MODEL.
    """
    here = machine()
    probed = [(backend, backend.probe()) for backend in list_backends()]
    default = _default()
    verdict = _Verdict() if model is None else _judged(model, LoadOptions(workload=workload))
    if as_json:
        show_json(_document(here, probed, default, verdict))
    else:
        show_rows(_machine_rows(here))
        show_table(("Backend, device", "Available", "Memory", "Device", "Why"), _device_rows(probed))
        if verdict.found:
            show_table(("Model on", "Memory", "Speed", "Why"), _candidate_rows(verdict.found))
        show_rows(_verdict_rows(probed, default, verdict))
    if verdict.error is not None:
        raise verdict.error
    if not any(entry.available for _, entries in probed for entry in entries):
        ctx.exit(1)


def _default() -> str | None:
    try:
        return default_backend().name
    except BackendError:
        return None


@dataclass(slots=True)
class _Verdict:
    """What of this machine could run a file, the best first, and the error that `run` would end with."""

    path: Path | None = None
    found: list[Candidate] = field(default_factory=list)
    error: InferenceError | None = None

    @property
    def first(self) -> Candidate | None:
        return self.found[0] if self.found and self.error is None else None

    @property
    def reason(self) -> str:
        return f"{self.found[0].name}: {self.found[0].reason}"


def _judged(model: str, options: LoadOptions) -> _Verdict:
    verdict = _Verdict()
    try:
        described = read_model(model)
        verdict.path = described.path
        verdict.found = candidates(described, options)
        able_of(verdict.found, described, options)
    except InferenceError as error:
        verdict.error = error
    return verdict


def _document(
    here: Machine,
    probed: Probed,
    default: str | None,
    verdict: _Verdict,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "machine": asdict(here),
        "backends": [
            {"backend": backend.name, "devices": [asdict(entry) for entry in entries]} for backend, entries in probed
        ],
        "default_backend": default,
    }
    if verdict.error is not None:
        document["model"] = {"error": str(verdict.error)}
    elif verdict.first is not None:
        document["model"] = {
            "path": str(verdict.path),
            "backend": verdict.first.backend.name,
            "reason": verdict.reason,
            "weight_bytes": verdict.first.support.weight_bytes,
            "kv_bytes_per_token": verdict.first.support.kv_bytes_per_token,
        }
    if verdict.found:
        document["model"]["candidates"] = [
            {
                "backend": each.backend.name,
                "device": each.device.device,
                "supported": each.support.supported,
                "reason": each.support.reason,
                "weight_bytes": each.support.weight_bytes,
                "kv_bytes_per_token": each.support.kv_bytes_per_token,
                "tokens_per_second": each.speed,
            }
            for each in verdict.found
        ]
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


def _candidate_rows(found: list[Candidate]) -> Iterator[tuple[str, ...]]:
    """In the order in which they would be tried."""
    for each in found:
        support = each.support
        memory = ""
        if support.weight_bytes:
            memory = f"{bytes_text(support.weight_bytes)} + {bytes_text(support.kv_bytes_per_token)}/token"
        speed = "" if not support.supported else "not measured"
        if each.speed is not None:
            speed = f"{each.speed:.0f} tokens/s measured"
        state = "" if support.supported else "no: "
        yield f"model on {each.backend.name} {each.device.device}", memory, speed, f"{state}{support.reason}"


def _verdict_rows(probed: Probed, default: str | None, verdict: _Verdict) -> Iterator[tuple[str, str]]:
    for backend, entries in probed:
        for entry in entries:
            if entry.fix is not None:
                yield f"fix {backend.name} {entry.device}", entry.fix
    if not probed:
        yield "backends", "none is installed. Try: pip install 'native-inference[llama-cpp]'"
    yield "default backend", default or "none"
    if verdict.first is not None:
        yield "model", str(verdict.path)
        yield "runs on", verdict.reason
