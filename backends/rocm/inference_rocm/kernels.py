"""The CPU kernels of `kernels.c`, built by the machine's C compiler when they are first wanted, and kept.

Without a compiler, or on a CPU without bfloat16, PyTorch's own operations take their places: the same results but for
rounding, several times slower.
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
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from inference_rocm.compiler import compiler

__all__ = ["Kernels", "cpu_kernels"]

_log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # What lets sums be vectorised. Not -ffast-math: with it, loading a library makes the whole process flush denormals.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", "-freciprocal-math"),
)
LONGEST_HEAD = 512
"""As in kernels.c."""

_POINTER, _INTEGER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, Sequence[type]] = {
    "int4_decode": [_POINTER] * 3 + [_INTEGER] * 4,
    "rms_norm": [_POINTER] * 3 + [_INTEGER] * 2 + [_FLOAT],
    "attend": [_POINTER] * 7 + [_INTEGER] * 7 + [_FLOAT] * 2 + [_POINTER],
    "place_heads": [_POINTER] * 10 + [_FLOAT] + [_INTEGER] * 6,
    "silu_and_multiply": [_POINTER] * 2 + [_INTEGER] * 2,
}


@functools.cache
def cpu_kernels() -> Kernels | None:
    """The kernels for this machine, built if they are not yet; None if they cannot be, which is logged."""
    command = compiler()
    if command is None:
        _log.warning("No C compiler (cc): PyTorch's own operations are used, which are several times slower.")
        return None
    try:
        return Kernels(ctypes.CDLL(str(_built(command))))
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        _log.warning("The CPU kernels could not be built, so PyTorch's own operations are used: %s", words)
        return None


def _built(command: str) -> Path:
    """The shared library, in the user's cache; its name says what it was made from and for."""
    made_from = (SOURCE.read_bytes(), *map(str.encode, (*FLAGS, command, platform.machine(), _processor())))
    name = f"kernels-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "native-inference"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="native-inference-"))
    library = folder / name
    if not library.exists():
        part = folder / f"{name}.{os.getpid()}"
        build = [command, *FLAGS, "-o", str(part), str(SOURCE), "-lm"]
        subprocess.run(build, check=True, capture_output=True, text=True, timeout=120)
        part.replace(library)  # another process may have done the same: either is as good
    return library


def _processor() -> str:
    """What `-march=native` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


class Kernels:
    """Calls into the library. Tensors are contiguous, bfloat16 unless said otherwise."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
        self._library = library

    def int4_decode(self, packed: Tensor, scales_and_zeros: Tensor, outputs: slice, group: int, out: Tensor) -> None:
        """Decode some outputs, whole tiles of 64, to `out`, [inputs, outputs]. `packed`: uint8, as PyTorch's CPU kernel
        has it; `scales_and_zeros`: [groups, all outputs, 2]."""
        inputs, tiles = out.shape[0], out.shape[1] // 64
        pairs = scales_and_zeros[:, outputs]
        self._library.int4_decode(
            packed[outputs].data_ptr(),
            pairs.data_ptr(),
            out.data_ptr(),
            tiles,
            inputs,
            group,
            scales_and_zeros.shape[1],
        )

    def rms_norm(self, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Of float32 rows, by a float32 weight."""
        out = torch.empty(rows.shape, dtype=torch.bfloat16)
        self._library.rms_norm(
            rows.data_ptr(), weight.data_ptr(), out.data_ptr(), rows.shape[0], rows.shape[1], epsilon
        )
        return out

    def silu_and_multiply(self, gate_up: Tensor) -> Tensor:
        """Of rows that hold all gates and then all ups."""
        rows, length = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, length, dtype=torch.bfloat16)
        self._library.silu_and_multiply(gate_up.data_ptr(), out.data_ptr(), rows, length)
        return out

    def place_heads(
        self,
        together: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        norms: tuple[Tensor, Tensor] | None,
        epsilon: float,
    ) -> Tensor:
        """Normalise and turn the heads of `together`, [tokens, (heads + 2 kv_heads) x head_length], and put keys and
        values into their places, [slots, kv_heads, length, head_length]. Gives queries, [tokens, heads, head_length].
        `slots`, `positions`: int64 [tokens]; `rotary`: cosines and sines, float32 [positions, turning / 2]."""
        tokens, (_, kv_heads, capacity, length) = len(together), keys.shape
        heads = together.shape[1] // length - 2 * kv_heads
        query = torch.empty(tokens, heads, length, dtype=torch.bfloat16)
        cos, sin = (table.data_ptr() for table in rotary) if rotary is not None else (None, None)
        query_norm, key_norm = (norm.data_ptr() for norm in norms) if norms is not None else (None, None)
        self._library.place_heads(
            together.data_ptr(), query.data_ptr(), keys.data_ptr(), values.data_ptr(),
            slots.data_ptr(), positions.data_ptr(), cos, sin, query_norm, key_norm, epsilon,
            tokens, heads, kv_heads, capacity, length, 2 * rotary[0].shape[1] if rotary is not None else 0,
        )  # fmt: skip
        return query

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
        positions: Tensor,
        longest: int,
        *,
        scale: float,
        softcap: float | None,
        window: int | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """One token of each of `slots`: [tokens, heads x head_length]. `longest`: the highest position + 1."""
        (rows, heads, length), (_, kv_heads, capacity, _) = query.shape, keys.shape
        scores = torch.empty(rows * heads * longest)
        out = torch.empty(rows, heads * length, dtype=torch.bfloat16)
        self._library.attend(
            query.data_ptr(), keys.data_ptr(), values.data_ptr(), scores.data_ptr(), out.data_ptr(),
            slots.data_ptr(), positions.data_ptr(), rows, heads, kv_heads, capacity, longest, length, window or 0,
            scale, softcap or 0.0, None if sinks is None else sinks.data_ptr(),
        )  # fmt: skip
        return out
