"""`load_model`: find the file, read its header, choose the engine, say why, load."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import BackendUnavailableError, UnsupportedModelError, UnsupportedOptionError
from inference.options import LoadOptions
from inference.registry import automatic_device, get_backend, list_backends, unavailable

if TYPE_CHECKING:
    from inference.gguf.reader import Header
    from inference.protocols import Backend, TextModel
    from inference.types import Availability, Support

__all__ = ["Choice", "choose", "load_model"]

CORE_OPTIONS = frozenset({"backend", "device", "chat_template", "cache_scope", "max_waiting"})
"""Load options that every backend takes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that will run a file, and why."""

    backend: Backend
    support: Support
    reason: str


def load_model(path: str | os.PathLike[str], *, options: LoadOptions | None = None, **keywords: Any) -> TextModel:
    """Load a GGUF file on the fastest engine of this machine that can run it.

    Args:
        path: a file, the first shard of a split one, or a name that Ollama's or LM Studio's local store knows.
        options: ready load options; keywords (the fields of `LoadOptions`) win over them.

    Raises:
        ModelFileError: there is no such file, or it is no sound GGUF file of a language model.
        ChatTemplateError: the `chat_template` that was passed cannot be compiled.
        OptionError: an option is unknown, out of range, or not to be had from the chosen backend.
        BackendError: the named backend does not exist or cannot run here, or none can.
        UnsupportedModelError: no backend here can run this model.
        LoadError: the engine failed to load it, or memory does not suffice.
    """
    # Late: a third of the time that `import inference` would take, and who loads a model does not notice it.
    from inference.chat import ChatTemplate
    from inference.gguf.reader import lend, read_header, require_language_model
    from inference.stores import find_model

    wanted = LoadOptions.merged(options, keywords)
    if wanted.chat_template is not None:
        ChatTemplate(wanted.chat_template).check()
    header = read_header(find_model(path))
    require_language_model(header)
    choice = choose(header, wanted)
    _log.info("%s: %s", header.path.name, choice.reason)
    with lend(header):  # the backend asks for the header again: reading it takes longer than choosing
        return choice.backend.load_model(header.path, wanted)


def choose(header: Header, options: LoadOptions) -> Choice:
    """The backend for this file: the named one, or the first in order of preference that is available and can run it.

    Raises:
        BackendError, UnsupportedModelError, UnsupportedOptionError: as `load_model`.
    """
    if options.backend is not None:
        return _named(get_backend(options.backend), header, options)
    backends = list_backends()
    refusals: list[str] = []
    errors: list[Exception] = []
    for backend in backends:
        device = automatic_device(backend) if options.device is None else _device(backend, options.device)
        if device is None:
            continue
        lacking = _lacking(backend, options)
        if lacking:
            refusals.append(f"{backend.name} has no option {', '.join(lacking)}.")
            errors.append(UnsupportedOptionError(f"Backend {backend.name!r} has no option {', '.join(lacking)}."))
            continue
        support = backend.supports(header, options)
        if support.supported:
            before = f" ({' '.join(refusals)})" if refusals else ""
            return Choice(backend, support, f"{backend.name} on {device.description}: {support.reason}{before}")
        refusals.append(f"{backend.name}: {support.reason}")
        if support.error is not None:
            errors.append(support.error)
    if len(errors) == 1 and len(refusals) == 1:
        raise errors[0]
    if refusals:
        raise UnsupportedModelError(f"{header.path}: no backend here can run this file. {' '.join(refusals)}")
    if options.device is not None:
        names = ", ".join(entry.device for backend in backends for entry in backend.probe()) or "none"
        raise BackendUnavailableError(f"No available backend has a device {options.device!r}. Devices: {names}.")
    raise BackendUnavailableError(unavailable(backends))


def _named(backend: Backend, header: Header, options: LoadOptions) -> Choice:
    entries = backend.probe()
    usable = [e for e in entries if e.available and options.device in (None, e.device)]
    if not usable:
        if options.device is not None and not any(e.device == options.device for e in entries):
            names = ", ".join(e.device for e in entries) or "none"
            raise BackendUnavailableError(
                f"Backend {backend.name!r} has no device {options.device!r}. Its devices: {names}."
            )
        raise BackendUnavailableError(unavailable([backend]))
    lacking = _lacking(backend, options)
    if lacking:
        raise UnsupportedOptionError(f"Backend {backend.name!r} has no option {', '.join(lacking)}.")
    support = backend.supports(header, options)
    if not support.supported:
        raise support.error or UnsupportedModelError(f"{header.path}: {backend.name}: {support.reason}")
    return Choice(backend, support, f"{backend.name} on {usable[0].description}: it was asked for.")


def _device(backend: Backend, name: str) -> Availability | None:
    return next((entry for entry in backend.probe() if entry.available and entry.device == name), None)


def _lacking(backend: Backend, options: LoadOptions) -> list[str]:
    return sorted(f"`{name}`" for name in set(options.changed()) - CORE_OPTIONS - backend.load_options)
