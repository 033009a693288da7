"""Which backends there are. They come from the entry-point group `inference.backends`, or from `register`."""

from __future__ import annotations

import logging
import threading
from functools import cache
from typing import TYPE_CHECKING

from inference.errors import BackendNotFoundError, BackendUnavailableError

if TYPE_CHECKING:
    from inference.protocols import Backend
    from inference.types import Availability

__all__ = ["default_backend", "get_backend", "list_backends", "register", "unregister"]

ENTRY_POINTS = "inference.backends"
PREFERENCE = ("metal", "rocm", "llama_cpp")
"""The order of choice where nothing was measured; other backends follow by name."""

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_registered: dict[str, Backend] = {}


def register(backend: Backend) -> None:
    """Make `backend` known under its name. It takes the place of one of the same name, installed ones included."""
    with _lock:
        _registered[backend.name] = backend


def unregister(name: str) -> None:
    """Forget what `register` made known; an installed backend of that name is back."""
    with _lock:
        _registered.pop(name, None)


def get_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        BackendNotFoundError: none is; the message lists those that are.
    """
    with _lock:
        backend = _registered.get(name)
    backend = backend or _installed().get(name)
    if backend is None:
        known = ", ".join(b.name for b in list_backends()) or "none is installed"
        raise BackendNotFoundError(f"No backend is called {name!r}. Known: {known}. `inference doctor` says more.")
    return backend


def list_backends() -> list[Backend]:
    """All backends, available or not, in order of preference."""
    with _lock:
        known = {**_installed(), **_registered}
    return sorted(known.values(), key=lambda backend: (_rank(backend.name), backend.name))


def default_backend() -> Backend:
    """The first backend with a device that may be chosen by itself: metal, rocm, llama_cpp, then any other.

    Raises:
        BackendUnavailableError: there is none; the message gives each one's reason and cure.
    """
    backends = list_backends()
    for backend in backends:
        if automatic_device(backend):
            return backend
    raise BackendUnavailableError(unavailable(backends))


def automatic_device(backend: Backend) -> Availability | None:
    """The backend's best device that may be chosen by itself, or None."""
    return next((entry for entry in backend.probe() if entry.available and entry.automatic), None)


def unavailable(backends: list[Backend]) -> str:
    """One sentence for each backend that says why it cannot be chosen, and what would help."""
    if not backends:
        return "No backend is installed. Try: pip install 'native-inference[llama-cpp]'."
    reasons = []
    for backend in backends:
        entry = next(iter(backend.probe()), None)
        reason = entry.reason if entry else "it found no device."
        cure = f" Try: {entry.fix}" if entry and entry.fix else ""
        reasons.append(f"{backend.name}: {reason}{cure}")
    return "No backend can run here. " + " ".join(reasons)


def _rank(name: str) -> int:
    return PREFERENCE.index(name) if name in PREFERENCE else len(PREFERENCE)


@cache
def _installed() -> dict[str, Backend]:
    """What the entry points name. One that cannot be imported is left out, with a warning: it must not take the
    others with it."""
    from importlib import metadata  # late: a third of the time that `import inference` would take

    found: dict[str, Backend] = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            found[entry.name] = entry.load()()
        except Exception as error:  # noqa: BLE001 - somebody else's package may fail in any way
            _log.warning("Backend %r (%s) cannot be imported: %s", entry.name, entry.value, error)
    return found
