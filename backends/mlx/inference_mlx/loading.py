"""Loading a file into a runner. On the engine's thread: MLX ties arrays to the one that made them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx

from inference.engine.reporting import reporter
from inference.errors import BackendUnavailableError, InsufficientMemoryError, UnsupportedOptionError
from inference.folder import Folder
from inference.gguf.architectures import config_of
from inference.gguf.reader import Header
from inference.gguf.weights import Weights
from inference.options import Progress
from inference_mlx.building import build_decoder
from inference_mlx.decoder import Decoder
from inference_mlx.kquant import kept_formats
from inference_mlx.limits import Limits, ran_out
from inference_mlx.native import native_decoder
from inference_mlx.packing import Packer
from inference_mlx.precision import precision_of
from inference_mlx.runner import MLXRunner
from inference_mlx.streams import leave_stream, take_stream

__all__ = ["Sizes", "free_bytes", "load_file", "load_folder"]

PADDING = {"metal": 1.5, "cpu": 1.0}
"""How much longer prompts may become by being computed together. A GPU waits for memory and not for arithmetic while
prompts are short; MLX's CPU device gains nothing."""


def recommended_bytes(device: str) -> int:
    """What Metal recommends as the most that should be in use; 0 on a device that recommends nothing.

    Raises:
        BackendUnavailableError: MLX finds no Metal here, in a virtual machine perhaps.
    """
    if device != "metal":
        return 0
    if not mx.metal.is_available():
        raise BackendUnavailableError(
            'MLX finds no Metal on this machine; device="cpu" runs the model on MLX\'s CPU device, slowly.'
        )
    return int(mx.device_info(mx.gpu)["max_recommended_working_set_size"])


def free_bytes(device: str) -> int:
    """What Metal's recommendation leaves beside what this process has there already; 0 where that is not known."""
    recommended = recommended_bytes(device)
    return max(recommended - mx.get_active_memory(), 1) if recommended else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a runner is made for."""

    context_length: int
    max_slots: int
    batch_size: int
    parallel: int = 0
    """Sequences at once that were asked for; 0 if that was left open."""


def load_file(header: Header, device: str, sizes: Sizes, *, progress: Progress | None = None) -> MLXRunner:
    """Pack the weights of a GGUF file for a device, "metal" or "cpu".

    Raises:
        LoadAbortedError: `progress` returned False, or raised.
        InsufficientMemoryError: memory ran out on the way.
    """

    def decoder(report: Callable[[float], None]) -> Decoder:
        with Weights(header) as weights:
            packer = Packer(getattr(mx, precision_of(header, device)), kept=kept_formats(device))
            config = config_of(header)
            return build_decoder(weights, config, packer, context_length=sizes.context_length, progress=report)

    return _runner(header.path, decoder, device, sizes, progress)


def load_folder(folder: Folder, device: str, sizes: Sizes, *, progress: Progress | None = None) -> MLXRunner:
    """Let mlx-lm load a folder.

    Raises:
        UnsupportedModelError, LoadError: it cannot.
        UnsupportedOptionError: several sequences at once were asked for, and it computes one.
        LoadAbortedError, InsufficientMemoryError: as `load_file`.
    """
    return _runner(folder.path, partial(native_decoder, folder, device), device, sizes, progress)


def _runner(
    path: Path,
    make_decoder: Callable[[Callable[[float], None]], Decoder],
    device: str,
    sizes: Sizes,
    progress: Progress | None,
) -> MLXRunner:
    report = reporter(path, progress)
    limits = Limits(recommended_bytes(device))
    stream = take_stream(device)
    try:
        with mx.stream(stream):
            decoder = make_decoder(report)
        if sizes.parallel > 1 and not decoder.batches:
            raise UnsupportedOptionError(
                f"{path}: mlx-lm computes one sequence of this model at a time. Leave `parallel` out, or set it to 1."
            )
        report(1.0)
        return MLXRunner(
            decoder,
            stream,
            limits,
            context_length=sizes.context_length,
            max_slots=sizes.max_slots if decoder.batches else 1,
            batch_size=sizes.batch_size,
            padding=PADDING[device] if decoder.pads else 1.0,
        )
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # who keeps the error shall not keep the weights
        limits.release()
        leave_stream(stream)
        if ran_out(error):
            raise InsufficientMemoryError(
                f"{path}: memory ran out while loading. "
                "Close other programs, or take a model with fewer bits per weight."
            ) from error
        raise
