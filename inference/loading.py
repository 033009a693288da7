"""`load_model`: find the model, read what it says before its weights, choose the engine, say why, load."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inference.choosing import Candidate, choose, folder_backend, is_folder
from inference.errors import (
    InferenceError,
    InsufficientMemoryError,
    LoadAbortedError,
    LoadError,
    ModelFileError,
    OptionError,
    PromptError,
)
from inference.hardware import machine
from inference.interrupts import deferred_interrupt
from inference.options import LoadOptions
from inference.registry import list_backends

if TYPE_CHECKING:
    from inference.folder import Folder
    from inference.gguf.reader import Header
    from inference.protocols import TextModel

__all__ = ["load_model", "read_model"]

OF_THE_CALL = (LoadAbortedError, ModelFileError, OptionError, PromptError)
"""What no other engine would mend: a bad option or template, a damaged file, the user's own wish to stop."""
_GPUS = {"cuda": "nvidia", "hip": "amd", "rocm": "amd", "metal": "apple"}
"""Whose GPU a device is, by the first word of its name."""

_log = logging.getLogger(__name__)


def load_model(path: str | os.PathLike[str], *, options: LoadOptions | None = None, **keywords: Any) -> TextModel:
    """Load a model on the fastest engine of this machine that can run it.

    The fastest is the one that `inference tune` measured to be; without that, engines go by an order that is assumed:
    metal, rocm, llama_cpp, others. If it fails to load the model, the next one is tried, which a warning says. A named
    `backend` is taken, or is an error.

    Args:
        path: a GGUF file, the first shard of a split one, or a name that Ollama's or LM Studio's local store knows; or
            a folder of Hugging Face or MLX (config.json, model*.safetensors, tokenizer.json).
        options: ready load options; keywords (the fields of `LoadOptions`) win over them.

    Raises:
        ModelFileError: there is no such file or folder, or it is no sound one of a language model.
        ChatTemplateError: the `chat_template` that was passed cannot be compiled.
        OptionError: an option is unknown, out of range, or not to be had from the chosen backend.
        BackendError: the named backend does not exist or cannot run here, or none can.
        UnsupportedModelError: no backend here can run this model.
        LoadError: the engine failed to load it, or memory does not suffice.
    """
    # Late: a third of the time that `import inference` would take, and who loads a model does not notice it.
    from inference.chat import ChatTemplate

    wanted = LoadOptions.merged(options, keywords)
    if wanted.chat_template is not None:
        ChatTemplate(wanted.chat_template).check()
    model = read_model(path)
    candidates = choose(model, wanted)
    with deferred_interrupt() as interrupts:
        loaded = _first_loaded(candidates, model, wanted, interrupts)
        if interrupts:  # Ctrl-C came too late to stop the loading
            loaded.close()
    return loaded


def _first_loaded(
    candidates: Sequence[Candidate], model: Header | Folder, options: LoadOptions, interrupts: Sized
) -> TextModel:
    *others, last = candidates
    failed = ""
    for candidate in others:
        try:
            return _loaded(candidate, model, options, failed, interrupts)
        except OF_THE_CALL:
            raise
        except Exception as error:
            if len(interrupts):  # it is not the engine's, or will not matter
                raise
            failed += f" ({candidate.backend.name} could not load it: {error})"
            name = model.path.name
            _log.warning("%s: %s could not load it, so the next engine is tried: %s", name, candidate.name, error)
    try:
        return _loaded(last, model, options, failed, interrupts)
    except Exception as error:  # noqa: BLE001 - told as one of ours
        told = _as_ours(error, model, last)
        if failed:
            told.add_note(f"Before that:{failed}")
        raise told from (error.__cause__ if told is error else error)


def read_model(path: str | os.PathLike[str]) -> Header | Folder:
    """What a language model says before its weights; `path` is as in `load_model`.

    Raises:
        ModelFileError, UnsupportedModelError: as `load_model`.
    """
    from inference.gguf.reader import read_header, require_language_model
    from inference.gguf.soundness import require_sound
    from inference.stores import find_model

    found = find_model(path)
    if found.is_dir():
        from inference.folder import read_folder  # later still: most models are files

        return read_folder(found)
    header = read_header(found)
    require_language_model(header)
    require_sound(header)
    return header


def _loaded(
    candidate: Candidate, model: Header | Folder, options: LoadOptions, failed: str, interrupts: Sized
) -> TextModel:
    from inference.engine.info import chosen_because
    from inference.gguf.reader import lend

    reason = f"{candidate.name}: {candidate.reason}{failed}"
    _log.info("%s: %s", model.path.name, reason)
    _warn_of_an_idle_gpu(model, candidate, options)
    with chosen_because(reason):
        options = _stopped_by(interrupts, options, candidate)
        if is_folder(model):
            return folder_backend(candidate.backend, model).load_folder(model, options)
        with lend(model):  # the backend asks for the header again: reading it takes longer than choosing
            return candidate.backend.load_model(model.path, options)


def _stopped_by(interrupts: Sized, options: LoadOptions, candidate: Candidate) -> LoadOptions:
    """The same options, whose `progress` also stops the loading once there is an interrupt."""
    if "progress" not in candidate.backend.load_options:
        return options

    def report(share: float) -> bool | None:
        if len(interrupts):
            return False
        return None if options.progress is None else options.progress(share)

    return replace(options, progress=report)


def _as_ours(error: Exception, model: Header | Folder, candidate: Candidate) -> InferenceError:
    """The error that a caller sees for what an engine or a library of its raised."""
    if isinstance(error, InferenceError):
        return error
    if isinstance(error, MemoryError):
        told: LoadError = InsufficientMemoryError(f"{model.path}: no memory to load it on {candidate.name}: {error}")
    else:
        told = LoadError(f"{model.path}: {candidate.name} failed to load it: {type(error).__name__}: {error}")
    return told


def _warn_of_an_idle_gpu(model: Header | Folder, candidate: Candidate, options: LoadOptions) -> None:
    """Say so where the CPU is to compute although there is a GPU that an engine could use, and why none does. Who names
    the device, or wants no layer on a GPU, knows."""
    if candidate.device.device != "cpu" or options.device is not None or options.gpu_layers == 0:
        return
    vendors = {gpu.vendor for gpu in machine().gpus if gpu.vendor == "apple" or not gpu.integrated}
    if not vendors:
        return
    idle = [
        f"{backend.name} on {entry.description}: {entry.reason}{f' Try: {entry.fix}' if entry.fix else ''}"
        for backend in (list_backends() if options.backend is None else [candidate.backend])
        for entry in backend.probe()
        if _GPUS.get(entry.device.partition(":")[0]) in vendors
    ]
    if idle:
        _log.warning("%s runs on the CPU although there is a GPU. %s", model.path.name, " ".join(idle))
