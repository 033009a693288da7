"""llama.cpp ends the process on some files that contradict themselves. A file that it has not taken yet is therefore
tried in a process of its own; what it took is remembered by a digest of the header."""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from inference.errors import LoadError
from inference.gguf.reader import Header
from inference.options import LoadOptions
from inference.user_cache import cache_folder
from inference.worker import NoInterpreterError, Worker, WorkerDiedError, WorkerError, WorkerSlowError
from inference_llama_cpp.charsmap import require_sound_charsmap

__all__ = ["vet"]

SECONDS = 30.0
"""Of computing, for one file. A vocabulary of 262,144 tokens takes two."""
SMALL = 2 * 2**30
"""Bytes of weights up to which some tokens are computed too. Of larger files no weights are read."""
IDLE = 5.0
"""Seconds that the process waits for another new file."""
MOST = 4096
"""Files that are remembered."""

_log = logging.getLogger(__name__)


def vet(header: Header, options: LoadOptions) -> None:
    """Nothing, if llama.cpp took this file before, or takes it now in a process of its own, or refuses it in order.

    Raises:
        CorruptFileError: some text would end the process, once the file is loaded.
        LoadError: that process died, or came to no end, or could not be started.
    """
    if not options.trial_load:
        return
    taken = _folder() / header.digest
    if _is_there(taken):
        return
    require_sound_charsmap(header)
    began = monotonic()
    try:
        refusal = _worker().call(([str(path) for path in header.paths], header.size_bytes <= SMALL), SECONDS)
    except WorkerDiedError as error:
        raise LoadError(
            f"{header.path}: llama.cpp would have ended this process on this file. {error} The file is damaged, or "
            f"made to do so, or memory ran out: download it again from a source that you trust."
        ) from error
    except NoInterpreterError as error:
        _log.warning("%s is loaded without a trial in a process of its own. %s", header.path.name, error)
        return
    except WorkerSlowError as error:
        raise LoadError(f"{header.path}: llama.cpp came to no end with this file. {error}") from error
    except WorkerError as error:
        raise LoadError(
            f"{header.path}: the file could not be tried in a process of its own. {error} Try again, or pass "
            f"`trial_load=False` for a file that you trust."
        ) from error
    _log.debug("%s: tried in a process of its own in %.2f s", header.path.name, monotonic() - began)
    if refusal is None:
        _remember(taken)


@cache
def _worker() -> Worker:
    return Worker("inference_llama_cpp.trial:try_out", idle=IDLE)


def _folder() -> Path:
    """A folder with an empty file for each model that this llama.cpp took."""
    return cache_folder() / "taken" / f"llama-cpp-python-{version('llama-cpp-python')}"


def _is_there(taken: Path) -> bool:
    try:
        return taken.exists()
    except OSError:  # a folder that may not be read: the file is tried each time
        return False


def _remember(taken: Path) -> None:
    try:
        taken.parent.mkdir(parents=True, exist_ok=True)
        known = sorted(taken.parent.iterdir(), key=lambda file: file.stat().st_mtime)
        for oldest in known[: len(known) - MOST + 1]:
            oldest.unlink(missing_ok=True)
        taken.touch()
    except OSError as error:
        _log.warning("It cannot be remembered that llama.cpp takes %s: %s", taken.name, error)
