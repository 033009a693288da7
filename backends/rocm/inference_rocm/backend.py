"""The backends: what can run here, what fits, and loading it. Importing this imports nothing heavy."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from inference.errors import BackendUnavailableError, InferenceError
from inference.hardware import available_memory, machine, physical_cores
from inference.options import LoadOptions
from inference.types import Availability, Support
from inference_rocm.cpu.library import library
from inference_rocm.cpu.machine import compiler, multiplies_bfloat16, multiplies_bytes
from inference_rocm.devices import INTERPRETER, availabilities, device_for, devices

if TYPE_CHECKING:
    from inference.gguf.reader import Header
    from inference.protocols import TextModel

__all__ = ["RocmBackend", "TorchBackend"]

BATCH_SIZE = 512
"""Tokens in one pass by default."""
_INSTALL = "pip install 'native-inference[torch]'"


class TorchBackend:
    """PyTorch on the CPU."""

    name = "torch"
    packages = ("torch",)
    load_options = frozenset({"batch_size", "context_length", "parallel", "progress", "threads"})

    def probe(self) -> list[Availability]:
        here = machine()
        description = f"{here.cpu.name}, {here.cpu.usable_cores} cores"
        missing = [name for name in ("torch", "numpy", "tokenizers") if importlib.util.find_spec(name) is None]
        if missing:
            reason = f"the package {', '.join(missing)} is not installed."
            return [Availability("cpu", description, False, False, reason, _INSTALL, here.memory_bytes)]
        reason, fix = f"PyTorch {version('torch')} is installed.", None
        if compiler() is None:
            reason += (
                " There is no C compiler to build its kernels with: quantised weights take several times the memory."
            )
            fix = "install gcc"
        elif here.architecture != "x86_64":
            reason += " Its kernels are plain C on this architecture, several times slower than they could be."
        elif not multiplies_bytes():
            reason += " The CPU has no AVX-512 VNNI, so quantised matrices are multiplied several times slower."
        elif not multiplies_bfloat16():
            reason += " The CPU has no AVX-512 BF16, so long prompts and F16, BF16 and F32 matrices are slower."
        return [Availability("cpu", description, True, True, reason, fix, here.memory_bytes)]

    def supports(self, header: Header, options: LoadOptions) -> Support:
        from inference_rocm.arithmetic import arithmetic_of  # late: to ask what is here is quick
        from inference_rocm.fitting import refusal

        arithmetic = arithmetic_of(header, kernels=compiler() is not None)
        error = refusal(header, options, arithmetic, available_memory() or 0)
        if error is not None:
            return Support(False, str(error), error=error)
        return Support(True, "PyTorch runs it.", arithmetic.weight_bytes(header), arithmetic.kv_bytes_per_token(header))

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        device = self.probe()[0]
        if not device.available:
            raise BackendUnavailableError(f"Backend 'torch' cannot run here: {device.reason} {device.fix}")
        # Late: these import torch, numpy, tokenizers and the engine.
        from inference.engine.info import model_info
        from inference.engine.serving import serve_runner
        from inference.gguf.reader import read_header
        from inference.gguf.tokenizer import tokenizer_of
        from inference_rocm.arithmetic import arithmetic_of
        from inference_rocm.fitting import fit, refusal
        from inference_rocm.loading import load_runner

        began = monotonic()
        header = read_header(path)
        memory = available_memory() or 0
        arithmetic = arithmetic_of(header, kernels=library() is not None)
        error = refusal(header, options, arithmetic, memory)
        if error is not None:
            raise error
        length, slots = fit(header, options, arithmetic, memory)
        tokenizer = tokenizer_of(header)

        runner = load_runner(
            header,
            arithmetic,
            context_length=length,
            max_slots=slots,
            batch_size=options.batch_size or max(BATCH_SIZE, slots),
            threads=options.threads or physical_cores(),
            progress=options.progress,
        )
        info = model_info(header, options, backend=self.name, device=device.description, context_length=length)
        return serve_runner(runner, tokenizer, info, options, device="cpu", began=began)


class RocmBackend:
    """PyTorch and Triton on AMD GPUs."""

    name = "rocm"
    packages = ("torch", "triton")
    load_options = frozenset({"batch_size", "context_length", "parallel", "progress"})

    def probe(self) -> list[Availability]:
        return availabilities()

    def supports(self, header: Header, options: LoadOptions) -> Support:
        from inference_rocm.gpu.fitting import gpu_demand

        try:
            demand = gpu_demand(header, options, _free_bytes(device_for(options)))
        except InferenceError as error:
            return Support(False, str(error), error=error)
        return Support(True, "Triton's kernels run it.", demand.weight_bytes, demand.kv_bytes_per_token)

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        entry, began = device_for(options), monotonic()
        # Late: these import torch, triton, numpy, tokenizers and the engine.
        from inference.engine.info import model_info
        from inference.engine.serving import serve_runner
        from inference.gguf.reader import read_header
        from inference.gguf.tokenizer import tokenizer_of
        from inference_rocm.gpu.fitting import batch_size_of, gpu_demand
        from inference_rocm.gpu.loading import device_named, load_gpu_runner
        from inference_rocm.gpu.memory import free_bytes

        header, device = read_header(path), device_named(entry.device)
        free = free_bytes(device)
        demand = gpu_demand(header, options, (available_memory() or 0) if free is None else max(free, 1))
        length, slots = demand.fit(options)
        tokenizer = tokenizer_of(header)
        runner = load_gpu_runner(
            header,
            device,
            context_length=length,
            max_slots=slots,
            batch_size=batch_size_of(options, slots),
            progress=options.progress,
        )
        info = model_info(header, options, backend=self.name, device=entry.description, context_length=length)
        return serve_runner(runner, tokenizer, info, options, device=entry.device, began=began)


def _free_bytes(entry: Availability) -> int:
    """What is free on a device that may be used, as its driver says; 0 if it does not."""
    if entry.device == INTERPRETER:
        return available_memory() or 0
    return next((each.free_bytes or 0 for each in devices() if each.device == entry.device), 0)
