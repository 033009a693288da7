"""The backend: what can run here, what fits, and loading it. Importing this imports nothing heavy."""

from __future__ import annotations

import logging
from pathlib import Path
from time import monotonic

from inference.engine.engine import Engine
from inference.engine.model import EngineModel
from inference.errors import BackendUnavailableError, ContextTooLargeError, InsufficientMemoryError
from inference.gguf.reader import Header, read_header
from inference.gguf.sampling import file_sampling
from inference.hardware import available_memory, physical_cores
from inference.options import LoadOptions
from inference.protocols import TextModel
from inference.types import Availability, ModelInfo, Support
from inference_llama_cpp.devices import probe

__all__ = ["LlamaCppBackend"]

BATCH_SIZE = 512
"""Tokens in one pass by default, as llama.cpp's own."""
MOST_SLOTS = 32
"""Most sequences at once by default."""
HEADROOM = 128 * 2**20
"""Bytes left for the compute graph's buffers."""
CONTEXT_STEP = 256
"""A context that memory cuts is a multiple of this many tokens."""

_log = logging.getLogger(__name__)


class LlamaCppBackend:
    """llama.cpp through llama-cpp-python: every CPU, and the GPUs that its build knows."""

    name = "llama_cpp"
    load_options = frozenset(
        {
            "batch_size",
            "context_length",
            "cpu_expert_layers",
            "device_sampling",
            "flash_attention",
            "gpu_layers",
            "kv_cache_type",
            "main_gpu",
            "mlock",
            "mmap",
            "parallel",
            "progress",
            "tensor_split",
            "threads",
        }
    )

    def probe(self) -> list[Availability]:
        return probe()

    def supports(self, header: Header, options: LoadOptions) -> Support:
        memory = _memory(self._device(options))
        weights = header.size_bytes
        per_token = header.kv_bytes_per_token(options.kv_cache_type)
        length = options.context_length or min(header.train_context_length, CONTEXT_STEP)
        room = memory - weights - HEADROOM
        error: InsufficientMemoryError | None = None
        if memory and room < 0:
            error = InsufficientMemoryError(
                f"{header.path.name} needs {_gib(weights)} for its weights, and {_gib(memory)} are free. "
                f"Close other programs, or take a file with fewer bits per weight."
            )
        elif memory and length * per_token > room:
            error = ContextTooLargeError(
                f"A context of {length} tokens needs {_gib(length * per_token)} of KV memory beside the weights, and "
                f"{_gib(room)} are free: {room // per_token} tokens fit. Lower `context_length`, or set "
                f'`kv_cache_type` to "q8_0".'
            )
        if error is not None:
            return Support(False, str(error), weights, per_token, error)
        return Support(True, "llama.cpp runs it as it is.", weights, per_token)

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        # Late: these import llama-cpp-python and numpy.
        from inference_llama_cpp.context import ContextSettings
        from inference_llama_cpp.library import bindings
        from inference_llama_cpp.runner import LlamaRunner
        from inference_llama_cpp.tokenizer import LlamaTokenizer
        from inference_llama_cpp.weights import load_weights

        began = monotonic()
        header = read_header(path)
        device = self._device(options)
        on_gpu = device.device != "cpu" and options.gpu_layers != 0
        length, slots = _fit(header, options, _memory(device))
        settings = ContextSettings(
            context_length=length,
            batch_size=max(options.batch_size or BATCH_SIZE, slots),
            threads=options.threads or physical_cores(),
            options=options,
        )
        sample_on_device = on_gpu if options.device_sampling is None else options.device_sampling
        # On this thread, not the engine's, since llama.cpp does not mind: Ctrl-C then reaches the progress function,
        # and the main thread's heap serves the vocabulary's many small blocks faster than a new thread's.
        model = load_weights(header.paths, options, header.layers)
        try:
            tokenizer = LlamaTokenizer(bindings.llama_model_get_vocab(model))
            runner = LlamaRunner(model, tokenizer, settings, slots, sample_on_device)
        except BaseException:
            bindings.llama_model_free(model)
            raise
        engine = Engine(lambda: runner, header.name)
        info = ModelInfo(
            path=header.path,
            name=header.name,
            architecture=header.architecture,
            quantization=header.quantization,
            parameters=header.parameters,
            size_bytes=header.size_bytes,
            layers=header.layers,
            vocabulary_size=tokenizer.vocabulary_size,
            context_length=engine.context_length,
            train_context_length=header.train_context_length,
            backend=self.name,
            device=device.description,
            chat_template=options.chat_template or header.chat_template,
            sampling=file_sampling(header),
            load_seconds=monotonic() - began,
        )
        return EngineModel(engine, tokenizer, info)

    def _device(self, options: LoadOptions) -> Availability:
        """The best available device, or the one asked for."""
        devices = self.probe()
        for entry in devices:
            if entry.available and options.device in (None, entry.device):
                return entry
        raise BackendUnavailableError(
            f"llama.cpp cannot use {options.device or 'any device'} here: {devices[0].reason}"
        )


def _memory(device: Availability) -> int:
    """Bytes free for weights and KV memory, 0 where that is not known."""
    return available_memory() or 0 if device.device == "cpu" else 0


def _fit(header: Header, options: LoadOptions, memory: int) -> tuple[int, int]:
    """Tokens for each slot, and how many slots there may be."""
    per_token = max(header.kv_bytes_per_token(options.kv_cache_type), 1)
    room = (memory - header.size_bytes - HEADROOM) // per_token if memory else None
    length = options.context_length or header.train_context_length
    if room is not None and length > room:
        length = max(room // CONTEXT_STEP, 1) * CONTEXT_STEP
        _log.warning(
            "%s: the context is cut from %d to %d tokens, which is what the memory allows",
            header.path.name,
            header.train_context_length,
            length,
        )
    if length > header.train_context_length > 0:
        _log.warning(
            "%s: a context of %d tokens is longer than the %d that the model was trained for",
            header.path.name,
            length,
            header.train_context_length,
        )
    slots = options.parallel or (MOST_SLOTS if room is None else max(1, min(MOST_SLOTS, room // length)))
    return length, slots


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
