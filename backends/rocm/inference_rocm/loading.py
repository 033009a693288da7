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
from inference_rocm.memory import ran_out
from inference_rocm.runner import TorchRunner

__all__ = ["load_runner"]


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
            dtype = torch.float32 if arithmetic.exact else torch.bfloat16
            built = library() if arithmetic.kernels else None
            kernels = None if built is None else Kernels(built, threads)
            decoder = build_decoder(weights, config, dtype, kernels, progress=report)
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
