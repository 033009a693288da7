"""Loading a file into a runner."""

from __future__ import annotations

import torch

from inference.engine.reporting import reporter
from inference.errors import InsufficientMemoryError
from inference.gguf.architectures import config_of
from inference.gguf.reader import Header
from inference.gguf.weights import Weights
from inference.options import Progress
from inference_rocm.arithmetic import Arithmetic
from inference_rocm.building import build_decoder
from inference_rocm.cpu.kernels import Kernels
from inference_rocm.cpu.library import library
from inference_rocm.cpu.operations import COperations
from inference_rocm.memory import ran_out
from inference_rocm.operations import Operations
from inference_rocm.plain import PlainOperations
from inference_rocm.runner import TorchRunner
from inference_rocm.spans import Spans

__all__ = ["load_runner", "operations_of"]


def load_runner(
    header: Header,
    arithmetic: Arithmetic,
    *,
    context_length: int,
    max_slots: int,
    batch_size: int,
    threads: int,
    progress: Progress | None = None,
) -> TorchRunner:
    """Pack the weights of a file for this CPU.

    Raises:
        LoadAbortedError: `progress` returned False, or raised.
        InsufficientMemoryError: memory ran out on the way.
    """

    report = reporter(header.path, progress)
    torch.set_num_threads(threads)
    weights = Weights(header)
    try:
        with torch.inference_mode():
            config = config_of(header)
            decoder = build_decoder(weights, config, operations_of(arithmetic, threads), progress=report)
            report(1.0)
            return TorchRunner(
                weights,
                decoder,
                context_length=context_length,
                max_slots=max_slots,
                batch_size=batch_size,
                threads=threads,
            )
    except BaseException as error:
        weights.close()
        if ran_out(error) and not isinstance(error, InsufficientMemoryError):
            raise InsufficientMemoryError(
                f"{header.path}: memory ran out while loading. "
                "Close other programs, or take a file with fewer bits per weight."
            ) from error
        raise


def operations_of(arithmetic: Arithmetic, threads: int) -> Operations[Spans]:
    """What computes a model on this CPU."""
    built = library() if arithmetic.kernels else None
    if built is None:
        return PlainOperations(torch.float32 if arithmetic.exact else torch.bfloat16)
    return COperations(Kernels(built, threads))
