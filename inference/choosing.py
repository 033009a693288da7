"""Choosing the engine for a model: what can run it here, the fastest first, as far as speeds were measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inference.errors import BackendUnavailableError, InferenceError, UnsupportedModelError, UnsupportedOptionError
from inference.options import LoadOptions
from inference.registry import automatic_device, get_backend, list_backends, unavailable
from inference.types import Support

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from inference.folder import Folder
    from inference.gguf.reader import Header
    from inference.protocols import Backend, FolderBackend
    from inference.types import Availability

__all__ = ["Candidate", "able_of", "backends_for", "candidates", "choose", "folder_backend", "is_folder", "support_of"]

CORE_OPTIONS = frozenset(
    {"backend", "device", "chat_template", "cache_scope", "max_waiting", "step_timeout", "trial_load", "workload"}
)
"""Load options that every backend takes."""
_TAKE_GGUF = "Or take the model's GGUF file."


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend on a device that is available here, and what it makes of a model."""

    backend: Backend
    device: Availability
    support: Support
    speed: float | None = None
    """Measured for the work that the options name, in tokens/s: see `Speeds`."""
    reason: str = ""
    """Why it is taken, in a sentence; empty for one that cannot be."""

    @property
    def name(self) -> str:
        return f"{self.backend.name} on {self.device.description}"


def choose(model: Header | Folder, options: LoadOptions) -> list[Candidate]:
    """What can run the model, the best first: one at least. The others are for when that fails to load it.

    Raises:
        BackendError, UnsupportedModelError, OptionError, LoadError: nothing can, or what is named cannot.
    """
    if options.backend is not None:
        return [_named(get_backend(options.backend), model, options)]
    return able_of(candidates(model, options), model, options)


def able_of(found: list[Candidate], model: Header | Folder, options: LoadOptions) -> list[Candidate]:
    """Those of the `candidates` that can run the model.

    Raises:
        BackendError, UnsupportedModelError, OptionError, LoadError: none can.
    """
    able = [candidate for candidate in found if candidate.support.supported]
    if able:
        return able
    errors = [candidate.support.error for candidate in found if candidate.support.error is not None]
    if errors and len(errors) == len(found) and len(set(map(type, errors))) == 1:
        raise errors[0]  # all engines say the same: that of the first is the one that would have run it
    if found:
        what = "folder" if is_folder(model) else "file"
        refusals = " ".join(_refusals(found))
        raise UnsupportedModelError(f"{model.path}: no backend here can run this {what}. {refusals}")
    backends = backends_for(model)
    if options.device is not None:
        names = ", ".join(entry.device for backend in backends for entry in backend.probe()) or "none"
        raise BackendUnavailableError(f"No available backend has a device {options.device!r}. Devices: {names}.")
    raise BackendUnavailableError(_none_for(model, backends) if is_folder(model) else unavailable(backends))


def candidates(model: Header | Folder, options: LoadOptions) -> list[Candidate]:
    """Every backend that may be chosen by itself, or that has the device asked for: in the order in which they would be
    tried, and then those that cannot run the model."""
    from inference.speeds import Speeds, subject_of  # late: `import inference` is quick

    found = [
        Candidate(backend, device, _support(backend, model, options))
        for backend, device in _devices(backends_for(model), options.device)
    ]
    able = [candidate for candidate in found if candidate.support.supported]
    others = [candidate for candidate in found if not candidate.support.supported]
    why = ""
    if len(able) > 1:
        speeds = Speeds.kept().of(subject_of(model), options.workload)
        able = [replace(each, speed=speeds.get((each.backend.name, each.device.device))) for each in able]
        if all(candidate.speed is not None for candidate in able):
            able.sort(key=lambda candidate: -(candidate.speed or 0.0))
            why = f" It is the fastest measured here for {options.workload}: {_listed(able)}."
        else:
            why = " Which is faster here is assumed, not measured: `inference tune` measures it."
    refusals = " ".join(_refusals(others))
    why += f" ({refusals})" if refusals else ""
    able = [replace(each, reason=each.support.reason + (why if each is able[0] else "")) for each in able]
    return able + others


def backends_for(model: Header | Folder) -> list[Backend]:
    """The backends that load models of this kind, available or not, in order of preference."""
    from inference.protocols import FolderBackend

    return [backend for backend in list_backends() if not is_folder(model) or isinstance(backend, FolderBackend)]


def support_of(backend: Backend, model: Header | Folder, options: LoadOptions) -> Support:
    """What a backend says of a model, whichever kind it is of.

    Raises:
        UnsupportedModelError: the model is a folder, and the backend loads none.
    """
    if is_folder(model):
        return folder_backend(backend, model).supports_folder(model, options)
    return backend.supports(model, options)


def _support(backend: Backend, model: Header | Folder, options: LoadOptions) -> Support:
    lacking = _lacking(backend, options)
    if lacking is not None:
        return Support(False, f"it has no option {lacking}.", error=_lacks(backend, lacking))
    try:
        return support_of(backend, model, options)
    except InferenceError as error:  # an engine that trips over a file leaves it to the others
        return Support(False, str(error), error=error)


def _named(backend: Backend, model: Header | Folder, options: LoadOptions) -> Candidate:
    if is_folder(model):
        folder_backend(backend, model)
    entries = backend.probe()
    usable = [entry for entry in entries if entry.available and options.device in (None, entry.device)]
    if not usable:
        if options.device is not None and not any(entry.device == options.device for entry in entries):
            names = ", ".join(entry.device for entry in entries) or "none"
            raise BackendUnavailableError(
                f"Backend {backend.name!r} has no device {options.device!r}. Its devices: {names}."
            )
        raise BackendUnavailableError(unavailable([backend]))
    lacking = _lacking(backend, options)
    if lacking is not None:
        raise _lacks(backend, lacking)
    support = support_of(backend, model, options)
    if not support.supported:
        raise support.error or UnsupportedModelError(f"{model.path}: {backend.name}: {support.reason}")
    return Candidate(backend, usable[0], support, reason="it was asked for.")


def _devices(backends: list[Backend], name: str | None) -> list[tuple[Backend, Availability]]:
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


def _lacking(backend: Backend, options: LoadOptions) -> str | None:
    names = sorted(f"`{name}`" for name in set(options.changed()) - CORE_OPTIONS - backend.load_options)
    return ", ".join(names) or None


def _lacks(backend: Backend, names: str) -> InferenceError:
    return UnsupportedOptionError(f"Backend {backend.name!r} has no option {names}.")


def _refusals(found: list[Candidate]) -> Iterator[str]:
    for candidate in found:
        yield f"{candidate.backend.name}: {candidate.support.reason}"


def _listed(found: list[Candidate]) -> str:
    return ", ".join(f"{each.backend.name} {each.speed:.0f} tokens/s" for each in found)


# Folders -------------------------------------------------------------------------------------------------------------


def is_folder(model: Header | Folder) -> TypeIs[Folder]:
    from inference.gguf.header import Header  # late, as all that reads models

    return not isinstance(model, Header)


def folder_backend(backend: Backend, folder: Folder) -> FolderBackend:
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
