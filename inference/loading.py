"""`load_model`: find the model, read what it says before its weights, choose the engine, say why, load."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import BackendUnavailableError, UnsupportedModelError, UnsupportedOptionError
from inference.options import LoadOptions
from inference.registry import automatic_device, get_backend, list_backends, unavailable

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from inference.folder import Folder
    from inference.gguf.reader import Header
    from inference.protocols import Backend, FolderBackend, TextModel
    from inference.types import Availability, Support

__all__ = ["Choice", "backends_for", "choose", "load_model", "read_model", "support_of"]

_TAKE_GGUF = "Or take the model's GGUF file."

CORE_OPTIONS = frozenset({"backend", "device", "chat_template", "cache_scope", "max_waiting"})
"""Load options that every backend takes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that will run a model, and why."""

    backend: Backend
    support: Support
    reason: str


def load_model(path: str | os.PathLike[str], *, options: LoadOptions | None = None, **keywords: Any) -> TextModel:
    """Load a model on the fastest engine of this machine that can run it.

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
    from inference.gguf.reader import lend

    wanted = LoadOptions.merged(options, keywords)
    if wanted.chat_template is not None:
        ChatTemplate(wanted.chat_template).check()
    model = read_model(path)
    choice = choose(model, wanted)
    _log.info("%s: %s", model.path.name, choice.reason)
    if _is_folder(model):
        return _folder_backend(choice.backend, model).load_folder(model, wanted)
    with lend(model):  # the backend asks for the header again: reading it takes longer than choosing
        return choice.backend.load_model(model.path, wanted)


def read_model(path: str | os.PathLike[str]) -> Header | Folder:
    """What a language model says before its weights; `path` is as in `load_model`.

    Raises:
        ModelFileError, UnsupportedModelError: as `load_model`.
    """
    from inference.gguf.reader import read_header, require_language_model
    from inference.stores import find_model

    found = find_model(path)
    if found.is_dir():
        from inference.folder import read_folder  # later still: most models are files

        return read_folder(found)
    header = read_header(found)
    require_language_model(header)
    return header


def choose(model: Header | Folder, options: LoadOptions) -> Choice:
    """The backend for this model: the named one, or the first in order of preference that is available and can run it.

    Raises:
        BackendError, UnsupportedModelError, UnsupportedOptionError: as `load_model`.
    """
    if options.backend is not None:
        return _named(get_backend(options.backend), model, options)
    backends = backends_for(model)
    refusals: list[str] = []
    errors: list[Exception] = []
    for backend, device in _candidates(backends, options.device):
        lacking = _lacking(backend, options)
        if lacking:
            refusals.append(f"{backend.name} has no option {', '.join(lacking)}.")
            errors.append(UnsupportedOptionError(f"Backend {backend.name!r} has no option {', '.join(lacking)}."))
            continue
        support = support_of(backend, model, options)
        if support.supported:
            before = f" ({' '.join(refusals)})" if refusals else ""
            return Choice(backend, support, f"{backend.name} on {device.description}: {support.reason}{before}")
        refusals.append(f"{backend.name}: {support.reason}")
        if support.error is not None:
            errors.append(support.error)
    if len(errors) == 1 and len(refusals) == 1:
        raise errors[0]
    if refusals:
        what = "folder" if _is_folder(model) else "file"
        raise UnsupportedModelError(f"{model.path}: no backend here can run this {what}. {' '.join(refusals)}")
    if options.device is not None:
        names = ", ".join(entry.device for backend in backends for entry in backend.probe()) or "none"
        raise BackendUnavailableError(f"No available backend has a device {options.device!r}. Devices: {names}.")
    raise BackendUnavailableError(_none_for(model, backends) if _is_folder(model) else unavailable(backends))


def backends_for(model: Header | Folder) -> list[Backend]:
    """The backends that load models of this kind, available or not, in order of preference."""
    from inference.protocols import FolderBackend

    return [backend for backend in list_backends() if not _is_folder(model) or isinstance(backend, FolderBackend)]


def _named(backend: Backend, model: Header | Folder, options: LoadOptions) -> Choice:
    if _is_folder(model):
        _folder_backend(backend, model)
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
    support = support_of(backend, model, options)
    if not support.supported:
        raise support.error or UnsupportedModelError(f"{model.path}: {backend.name}: {support.reason}")
    return Choice(backend, support, f"{backend.name} on {usable[0].description}: it was asked for.")


def support_of(backend: Backend, model: Header | Folder, options: LoadOptions) -> Support:
    """What a backend says of a model, whichever kind it is of.

    Raises:
        UnsupportedModelError: the model is a folder, and the backend loads none.
    """
    if _is_folder(model):
        return _folder_backend(backend, model).supports_folder(model, options)
    return backend.supports(model, options)


def _candidates(backends: list[Backend], name: str | None) -> list[tuple[Backend, Availability]]:
    """The backends that can run on the named device, or on one of their own choice, in order of preference. Those whose
    device must be asked for come last, and only where it is named."""
    if name is None:
        return [(backend, device) for backend in backends if (device := automatic_device(backend))]
    found = [
        (backend, entry)
        for backend in backends
        for entry in backend.probe()
        if entry.available and entry.device == name
    ]
    return sorted(found, key=lambda candidate: not candidate[1].automatic)


def _lacking(backend: Backend, options: LoadOptions) -> list[str]:
    return sorted(f"`{name}`" for name in set(options.changed()) - CORE_OPTIONS - backend.load_options)


# Folders -------------------------------------------------------------------------------------------------------------


def _is_folder(model: Header | Folder) -> TypeIs[Folder]:
    from inference.gguf.header import Header  # late, as all that reads models

    return not isinstance(model, Header)


def _folder_backend(backend: Backend, folder: Folder) -> FolderBackend:
    """The same backend, if it loads folders.

    Raises:
        UnsupportedModelError: it does not.
    """
    from inference.protocols import FolderBackend

    if isinstance(backend, FolderBackend):
        return backend
    others = ", ".join(repr(other.name) for other in backends_for(folder)) or "none is installed"
    raise UnsupportedModelError(
        f"{folder.path} is a folder, and backend {backend.name!r} loads GGUF files alone. Backends that load folders: "
        f"{others}. {_TAKE_GGUF}"
    )


def _none_for(folder: Folder, backends: list[Backend]) -> str:
    """Why none of `backends`, those that load folders, is chosen for this one, and what would help."""
    if not backends:
        install = "pip install 'native-inference[mlx]'"
        return f"{folder.path}: no installed backend loads folders. Try: {install}. {_TAKE_GGUF}"
    asked_for = [
        f'backend="{backend.name}", device="{entry.device}" runs it on {entry.description}.'
        for backend in backends
        for entry in backend.probe()
        if entry.available
    ]
    way_out = " ".join(asked_for) or unavailable(backends)
    return f"{folder.path}: no engine of this machine is chosen for a folder by itself. {way_out} {_TAKE_GGUF}"
