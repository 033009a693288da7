"""The backend: what can run here, what fits, and loading it. Importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from inference.errors import InferenceError
from inference.hardware import available_memory
from inference.options import LoadOptions
from inference.types import Availability, Support
from inference_mlx.devices import device_for, probe

if TYPE_CHECKING:
    from inference.engine.fitting import Demand
    from inference.engine.info import Described
    from inference.folder import Folder
    from inference.gguf.reader import Header
    from inference.protocols import TextModel, Tokenizer
    from inference_mlx.loading import Sizes
    from inference_mlx.runner import MLXRunner

__all__ = ["MetalBackend"]

BATCH_SIZE = {"metal": 2048, "cpu": 512}
"""Tokens in one pass by default."""


class MetalBackend:
    """MLX: on Apple GPUs, and on its CPU device where that is asked for."""

    name = "metal"
    packages = ("mlx", "mlx-lm", "mlx-kquant")
    load_options = frozenset({"batch_size", "context_length", "parallel", "progress"})

    def probe(self) -> list[Availability]:
        return probe()

    def supports(self, header: Header, options: LoadOptions) -> Support:
        from inference_mlx.fitting import file_demand  # late: to ask what is here is quick

        return _support(partial(file_demand, header), options)

    def supports_folder(self, folder: Folder, options: LoadOptions) -> Support:
        from inference_mlx.fitting import folder_demand

        return _support(partial(folder_demand, folder), options)

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        device, began = device_for(options), monotonic()
        # Late: these import mlx, numpy and tokenizers.
        from inference.gguf.reader import read_header
        from inference.gguf.tokenizer import tokenizer_of
        from inference_mlx.fitting import file_demand
        from inference_mlx.loading import free_bytes, load_file

        header = read_header(path)
        demand = file_demand(header, options, device.device, free_bytes(device.device) or available_memory() or 0)
        load = partial(load_file, header, device.device, progress=options.progress)
        return self._model(header, tokenizer_of(header), demand, load, device, options, began)

    def load_folder(self, folder: Folder, options: LoadOptions) -> TextModel:
        device, began = device_for(options), monotonic()
        # Late: these import mlx, mlx-lm and tokenizers.
        from inference.folder.tokenizer import tokenizer_of
        from inference_mlx.fitting import folder_demand
        from inference_mlx.loading import free_bytes, load_folder
        from inference_mlx.vetting import vet

        vet(folder, device.device, options)
        demand = folder_demand(folder, options, device.device, free_bytes(device.device) or available_memory() or 0)
        load = partial(load_folder, folder, device.device, progress=options.progress)
        return self._model(folder, tokenizer_of(folder), demand, load, device, options, began)

    def _model(
        self,
        described: Described,
        tokenizer: Tokenizer,
        demand: Demand,
        load: Callable[[Sizes], MLXRunner],
        device: Availability,
        options: LoadOptions,
        began: float,
    ) -> TextModel:
        from inference.engine.info import model_info
        from inference.engine.serving import serve
        from inference_mlx.loading import Sizes

        length, slots = demand.fit(options)
        batch_size = options.batch_size or max(BATCH_SIZE[device.device], slots)
        sizes = Sizes(context_length=length, max_slots=slots, batch_size=batch_size, parallel=options.parallel)
        info = model_info(described, options, backend=self.name, device=device.description, context_length=length)
        # Loaded on the engine's thread: MLX's arrays belong to the one that makes them.
        return serve(partial(load, sizes), tokenizer, info, options, device=device.device, began=began)


def _support(demand_of: Callable[[LoadOptions, str, int], Demand], options: LoadOptions) -> Support:
    try:
        demand = demand_of(options, device_for(options).device, available_memory() or 0)
    except InferenceError as error:
        return Support(False, str(error), error=error)
    return Support(True, "MLX runs it.", demand.weight_bytes, demand.kv_bytes_per_token)
