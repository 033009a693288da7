"""The C sources beside this file, built by the machine's compiler when they are first wanted, and kept.

Importing this imports nothing heavy.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from inference.user_cache import cache_folder
from inference_rocm.cpu.machine import compiler

__all__ = ["LONGEST_HEAD", "build", "library", "load"]

_log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
LONGEST_HEAD = 512
"""Elements of a head, as in attention.c."""
TARGET = "native"
FLAGS = (
    *("-O3", "-shared", "-fPIC", "-pthread", "-Wno-psabi"),
    # Not -ffast-math: with it, loading a library makes the whole process flush denormals.
    *("-fno-math-errno", "-fno-trapping-math"),
    # Integers made of NaN and infinity may be any; what they are multiplied with is NaN or infinite too.
    "-fwrapv",
)
INSTEAD = (
    "every matrix is kept in the compute type and multiplied by PyTorch, which takes two to seven times the memory"
)

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, Sequence[type]] = {
    "argmax": [_POINTER] * 2 + [_INTEGER] * 3,
    "attend_singles": [_POINTER] + [_INTEGER] * 2,
    "attend_span": [_POINTER, _INTEGER],
    "bfloat16_linear": [_POINTER] * 4 + [_INTEGER] * 5,
    "gate": [_POINTER] * 2 + [_INTEGER] * 4,
    "linear": [_POINTER] * 3 + [_INTEGER] * 3,
    "pack": [_POINTER] * 3 + [_INTEGER] * 5,
    "place_heads": [_POINTER] * 10 + [_FLOAT] + [_INTEGER] * 7,
    "rms_norm": [_POINTER] * 3 + [_INTEGER] * 2 + [_FLOAT, _INTEGER],
}


_one_at_a_time = threading.Lock()


def library() -> ctypes.CDLL | None:
    """The kernels for this machine, built if they are not yet; None if they cannot be, which is logged."""
    with _one_at_a_time:
        return _library()


@functools.cache
def _library() -> ctypes.CDLL | None:
    command = compiler()
    if command is None:
        _log.warning("There is no C compiler (cc), so %s.", INSTEAD)
        return None
    try:
        built = _built(command)
        try:
            return load(built)
        except (OSError, AttributeError):  # cut off, or damaged
            built.unlink()
            return load(_built(command))
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        _log.warning("The CPU kernels could not be built, so %s: %s", INSTEAD, words)
        return None


def build(command: str, target: str, to: Path) -> None:
    """Compile the sources to a shared library for the CPUs that `-march` calls `target`.

    Raises:
        OSError, subprocess.SubprocessError: the compiler could not be run, failed or took too long.
    """
    code = [str(source) for source in _sources() if source.suffix == ".c"]
    line = [command, f"-march={target}", *FLAGS, "-o", str(to), *code, "-lm"]
    subprocess.run(  # Ctrl-C in a terminal is not for it: a build that it ended would count as a compiler that fails
        line, check=True, capture_output=True, text=True, timeout=120, start_new_session=True
    )


def load(built: Path) -> ctypes.CDLL:
    """A library that was built, with its functions' signatures.

    Raises:
        OSError: it is none for this machine.
    """
    loaded = ctypes.CDLL(str(built))
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return loaded


def _sources() -> list[Path]:
    return sorted(FOLDER.glob("*.[ch]"))


def _built(command: str) -> Path:
    """The shared library, in the user's cache; its name says what it was made from and for."""
    machine = (TARGET, *FLAGS, command, platform.machine(), _processor())
    made_from = (*(source.read_bytes() for source in _sources()), *map(str.encode, machine))
    name = f"kernels-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:16]}.so"
    folder = _folder()
    built = folder / name
    if not built.exists():
        handle, part = tempfile.mkstemp(prefix=name, dir=folder)
        os.close(handle)
        try:
            build(command, TARGET, Path(part))
            Path(part).replace(built)  # another process may have done the same: either is as good
        finally:
            Path(part).unlink(missing_ok=True)
    return built


def _folder() -> Path:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError as error:
        temporary = Path(tempfile.mkdtemp(prefix="native-inference-"))
        _log.warning("The CPU kernels cannot be kept (%s); they are built anew each time, in %s.", error, temporary)
        return temporary
    return folder


def _processor() -> str:
    """What `-march=native` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
