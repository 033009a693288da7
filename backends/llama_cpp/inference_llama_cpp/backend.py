"""The backend: what can run here, what fits, and loading it. Importing this imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from inference.errors import BackendUnavailableError
from inference.hardware import available_memory, physical_cores
from inference.options import LoadOptions
from inference.types import Availability, Support
from inference_llama_cpp.devices import probe

if TYPE_CHECKING:
    from inference.gguf.reader import Header
    from inference.protocols import TextModel

__all__ = ["LlamaCppBackend"]

BATCH_SIZE = 512
"""Tokens in one pass by default, as llama.cpp's own."""


class LlamaCppBackend:
    """llama.cpp through llama-cpp-python: every CPU, and the GPUs that its build knows."""

    name = "llama_cpp"
    packages = ("llama-cpp-python",)
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
        from inference_llama_cpp.fitting import is_described, refusal  # late: to ask what is here is quick

        device = self._device(options)
        error = refusal(header, options, device.device, _memory(device))
        per_token = header.kv_bytes_per_token(options.kv_cache_type) if is_described(header) else 0
        reason = "llama.cpp runs it as it is." if error is None else str(error)
        return Support(error is None, reason, header.size_bytes, per_token, error)

    def load_model(self, path: Path, options: LoadOptions) -> TextModel:
        # Late: these import llama-cpp-python, numpy and the engine.
        from inference.engine.info import model_info
        from inference.engine.serving import serve_runner
        from inference.gguf.reader import read_header
        from inference_llama_cpp.context import ContextSettings
        from inference_llama_cpp.fitting import fit, is_described, refusal
        from inference_llama_cpp.library import bindings
        from inference_llama_cpp.runner import LlamaRunner
        from inference_llama_cpp.tokenizer import LlamaTokenizer
        from inference_llama_cpp.vetting import vet
        from inference_llama_cpp.weights import load_weights

        began = monotonic()
        header = read_header(path)
        device = self._device(options)
        error = refusal(header, options, device.device, _memory(device))
        if error is not None:
            raise error
        vet(header, options)
        if not is_described(header):
            bindings.llama_model_free(load_weights(header.paths, options, layers=0))  # it raises, in llama.cpp's words
        length, slots = fit(header, options, _memory(device))
        on_gpu = device.device != "cpu" and options.gpu_layers != 0
        sample_on_device = on_gpu if options.device_sampling is None else options.device_sampling
        settings = ContextSettings(
            context_length=length,
            batch_size=options.batch_size or max(BATCH_SIZE, slots),
            threads=options.threads or physical_cores(),
            options=options,
            kv_bytes_per_token=header.kv_bytes_per_token(options.kv_cache_type),
            checks_memory=device.device == "cpu",
        )
        info = model_info(header, options, backend=self.name, device=device.description, context_length=length)
        # On this thread, not the engine's, since llama.cpp does not mind: a vocabulary is many small blocks, and a new
        # thread's heap is slower with them.
        model = load_weights(header.paths, options, header.layers)
        tokenizer = LlamaTokenizer(bindings.llama_model_get_vocab(model))
        runner = LlamaRunner(model, tokenizer, settings, slots, sample_on_device)
        return serve_runner(runner, tokenizer, info, options, device=device.device, began=began)

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
