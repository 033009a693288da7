"""Loading a file into a runner on a GPU."""

from __future__ import annotations

import traceback

import torch

from inference.engine.reporting import reporter
from inference.errors import InsufficientMemoryError
from inference.gguf.architectures import Config, config_of
from inference.gguf.half_types import half_type
from inference.gguf.reader import Header
from inference.gguf.rope_factors import rope_factors
from inference.gguf.weights import Weights
from inference.options import Progress
from inference_rocm.building import build_decoder
from inference_rocm.decoder import Decoder
from inference_rocm.devices import INTERPRETER as INTERPRETER_NAME
from inference_rocm.gpu.device import INTERPRETER, Device
from inference_rocm.gpu.embedding import Embedding
from inference_rocm.gpu.linear import TritonLinear, weights_of
from inference_rocm.gpu.memory import ran_out, release
from inference_rocm.gpu.operations import TritonOperations
from inference_rocm.gpu.places import Places
from inference_rocm.gpu.runner import GPURunner
from inference_rocm.gpu.workspace import workspace_bytes
from inference_rocm.packing import Source, rows_of

__all__ = ["device_named", "load_gpu_runner"]


def device_named(name: str) -> Device:
    """The device that `device=` calls "rocm:0", or "interpreter"."""
    if name == INTERPRETER_NAME:
        return INTERPRETER
    gpu = torch.device("cuda", int(name.partition(":")[2]))
    properties = torch.cuda.get_device_properties(gpu)
    # On RDNA the driver counts pairs of compute units.
    pairs = 2 if properties.warp_size == 32 else 1
    return Device(gpu, wave=properties.warp_size, units=pairs * properties.multi_processor_count)


@torch.inference_mode()
def load_gpu_runner(
    header: Header,
    device: Device,
    *,
    context_length: int,
    max_slots: int,
    batch_size: int,
    progress: Progress | None = None,
) -> GPURunner:
    """Bring a file's weights into the GPU's memory, as they are.

    Raises:
        LoadAbortedError: `progress` returned False, or raised.
        InsufficientMemoryError: memory ran out on the way.
    """
    before = None if device.interpreted else torch.cuda.current_device()
    device.activate()
    report = reporter(header.path, progress)
    with Weights(header) as weights:
        try:
            config = config_of(header)
            operations = TritonOperations(device, getattr(torch, half_type(header)))
            decoder = build_decoder(weights, config, operations, device.torch, progress=report)
            embedding = _embedding(weights, config, decoder, device)
            report(1.0)
            runner = GPURunner(
                decoder,
                embedding,
                rope_factors(weights, config, context_length),
                device,
                context_length=context_length,
                max_slots=max_slots,
                batch_size=batch_size,
                workspace=workspace_bytes(header, config, slots=max_slots, batch_size=batch_size),
            )
            runner.warm_up()
            return runner
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # which hold what was loaded so far
            release(device)
            if not ran_out(error) or isinstance(error, InsufficientMemoryError):
                raise
            raise InsufficientMemoryError(
                f"{header.path}: the GPU's memory ran out while loading. "
                "Close other programs, or take a file with fewer bits per weight."
            ) from error
        finally:
            if before is not None:
                torch.cuda.set_device(before)


def _embedding(weights: Weights, config: Config, decoder: Decoder[Places], device: Device) -> Embedding:
    """The output's own weights, if they are the same."""
    if config.embedding == config.output and isinstance(decoder.output, TritonLinear):
        return Embedding(decoder.output.matrix.weights, device)
    rows = rows_of(weights, [Source(config.embedding)], None)
    return Embedding(weights_of(rows.layout, rows.pieces, rows.outputs, rows.inputs, device), device)
