"""What a model is and where it runs, from its file's header: the same for every backend."""

from __future__ import annotations

from inference.gguf.reader import Header
from inference.gguf.sampling import file_sampling
from inference.options import LoadOptions
from inference.types import ModelInfo

__all__ = ["model_info"]


def model_info(header: Header, options: LoadOptions, *, backend: str, device: str, context_length: int) -> ModelInfo:
    """`device` is the device in words, `context_length` what a sequence may hold. How long loading took is left out."""
    return ModelInfo(
        path=header.path,
        name=header.name,
        architecture=header.architecture,
        quantization=header.quantization,
        parameters=header.parameters,
        size_bytes=header.size_bytes,
        layers=header.layers,
        vocabulary_size=header.vocabulary_size,
        context_length=context_length,
        train_context_length=header.train_context_length,
        backend=backend,
        device=device,
        chat_template=header.chat_template if options.chat_template is None else options.chat_template,
        sampling=file_sampling(header),
    )
