"""Libraries in C end the process on some models that contradict themselves. A model that is new to such an engine is
therefore tried in a process of its own; what the engine took is remembered by a digest of all that the model says."""

from __future__ import annotations

import logging
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any

from inference.errors import LoadError
from inference.user_cache import cache_folder
from inference.worker import NoInterpreterError, Worker, WorkerDiedError, WorkerError, WorkerSlowError

__all__ = ["Trials"]

IDLE = 5.0
"""Seconds that the process waits for another new model."""
MOST = 4096
"""Models that are remembered."""
UNKNOWN = (OSError, RuntimeError, PackageNotFoundError)
"""What is raised where the user's cache cannot be read or written, there is no home folder to have one in, or a program
carries its packages without their versions."""

_log = logging.getLogger(__name__)


class Trials:
    """Those of one engine. `function` ("package.module:name") tries a model there and returns None if the engine took
    it, or in which words the engine refused it in order. `seconds`: of computing that this may take. When one of
    `packages` is updated, all models are new."""

    def __init__(self, engine: str, packages: tuple[str, ...], function: str, *, seconds: float) -> None:
        self._engine = engine
        self._packages = packages
        self._function = function
        self._seconds = seconds

    def knows(self, digest: str) -> bool:
        """Whether the engine took this model before."""
        try:
            return (self._folder / digest).exists()
        except UNKNOWN:  # each model is tried each time
            return False

    def require_harmless(self, path: Path, digest: str, argument: Any) -> None:
        """Nothing, if the engine takes the model, or refuses it in order. `argument` is what the function gets.

        Raises:
            LoadError: that process died, or came to no end, or could not be started.
        """
        began = monotonic()
        try:
            refusal = self.worker.call(argument, self._seconds)
        except WorkerDiedError as error:
            raise LoadError(
                f"{path}: {self._engine} would have ended this process on this model. {error} It is damaged, or made "
                f"to do so, or memory ran out: download it again from a source that you trust."
            ) from error
        except NoInterpreterError as error:
            _log.warning("%s is loaded without a trial in a process of its own. %s", path.name, error)
            return
        except WorkerSlowError as error:
            raise LoadError(f"{path}: {self._engine} came to no end with this model. {error}") from error
        except WorkerError as error:
            raise LoadError(
                f"{path}: the model could not be tried in a process of its own. {error} Try again, or pass "
                f"`trial_load=False` for one that you trust."
            ) from error
        _log.debug("%s: tried in a process of its own in %.2f s", path.name, monotonic() - began)
        if refusal is None:
            self._remember(digest)

    @cached_property
    def worker(self) -> Worker:
        """The process."""
        return Worker(self._function, idle=IDLE)

    @property
    def _folder(self) -> Path:
        """With an empty file for each model that these versions took."""
        return cache_folder() / "taken" / "-".join(f"{package}-{version(package)}" for package in self._packages)

    def _remember(self, digest: str) -> None:
        try:
            folder = self._folder
            folder.mkdir(parents=True, exist_ok=True)
            known = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)
            for oldest in known[: len(known) - MOST + 1]:
                oldest.unlink(missing_ok=True)
            (folder / digest).touch()
        except UNKNOWN as error:
            _log.warning("It cannot be remembered that %s takes %s: %s", self._engine, digest, error)
