"""A model's file in another block format, made by llama.cpp on first use and kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["q4_0"]


def q4_0(model: Path, folder: Path) -> Path:
    """The model as Q4_0, made from the file as it is: its speed is that of any Q4_0 file of the same model, its text is
    rounded twice.

    Raises:
        ImportError: llama-cpp-python is not installed.
        RuntimeError: llama.cpp could not make it.
    """
    stem = model.name.removesuffix(".gguf")
    made = folder / f"{stem}.to.Q4_0.gguf"
    if made.exists() and made.stat().st_mtime >= model.stat().st_mtime:
        return made
    from llama_cpp import llama_cpp as library

    from benchmarks.peers.llama_cpp_bare import start
    from inference.hardware import physical_cores

    start()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = library.LLAMA_FTYPE_MOSTLY_Q4_0
    parameters.allow_requantize = True
    parameters.nthread = physical_cores()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = made.with_suffix(f".{os.getpid()}.part")
    try:
        if library.llama_model_quantize(str(model).encode(), str(unfinished).encode(), parameters) != 0:
            raise RuntimeError(f"llama.cpp cannot turn {model} into Q4_0.")
        unfinished.replace(made)
    finally:
        unfinished.unlink(missing_ok=True)
    return made
