"""Loading the file into llama.cpp: devices, layers, progress, abort."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from inference.errors import LoadAbortedError, LoadError, OptionValueError, UnknownArchitectureError
from inference.options import LoadOptions
from inference_llama_cpp.devices import ggml_name
from inference_llama_cpp.library import bindings, cpu_buffer_type, last_errors, start, take_device

__all__ = ["load_weights"]

_EXPERT_TENSORS = rb"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""What llama.cpp names the tensors that hold all experts of a layer."""

_UNKNOWN_ARCHITECTURE = "unknown model architecture"


class _TensorOverride(ctypes.Structure):
    """llama_model_tensor_buft_override of llama.h: tensors whose name matches go to that kind of buffer."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p)]


def load_weights(paths: tuple[Path, ...], options: LoadOptions, layers: int, *, allocate: bool = True) -> Any:
    """The handle of the loaded model, to be freed with `llama_model_free`; without weights, unless to `allocate`.

    Raises:
        LoadAbortedError: the progress function returned False, or raised.
        UnknownArchitectureError: this llama.cpp does not know the file's architecture.
        LoadError: llama.cpp refuses the file; its own words are in the message.
    """
    start()
    parameters = bindings.llama_model_default_params()
    keep = [*_place(parameters, options, layers)]  # what the parameters point to must live until they were read
    parameters.load_mode = _load_mode(options) if allocate else bindings.LLAMA_LOAD_MODE_NONE
    parameters.no_alloc = not allocate
    stops: list[LoadAbortedError] = []

    @bindings.llama_progress_callback  # type: ignore[untyped-decorator]
    def report(share: float, _: object) -> bool:
        try:
            if options.progress is not None and options.progress(share) is False:
                stops.append(LoadAbortedError(f"{paths[0]}: loading was stopped on request."))
        except Exception as error:  # noqa: BLE001 - it must not unwind through C; it is the abort's cause
            stop = LoadAbortedError(f"{paths[0]}: loading stopped, since the progress function raised {error!r}.")
            stop.__cause__ = error
            stops.append(stop)
        return not stops

    parameters.progress_callback = report
    last_errors()
    names = [os.fsencode(path) for path in paths]
    if len(names) == 1:
        handle = bindings.llama_model_load_from_file(names[0], parameters)
    else:
        array = (ctypes.c_char_p * len(names))(*names)
        handle = bindings.llama_model_load_from_splits(array, len(names), parameters)
    del keep
    if handle:
        return handle
    raise stops[0] if stops else _refusal(paths[0], last_errors())


def _refusal(path: Path, words: list[str]) -> LoadError | UnknownArchitectureError:
    unknown = next((line for line in words if _UNKNOWN_ARCHITECTURE in line), None)
    if unknown is not None:
        name = unknown.rpartition(_UNKNOWN_ARCHITECTURE)[2].strip(": '")
        return UnknownArchitectureError(
            f"{path}: this llama.cpp does not know the architecture {name!r}. A newer llama-cpp-python may."
        )
    return LoadError(f"{path}: llama.cpp cannot load this file: {' / '.join(words) or 'it does not say why.'}")


def _load_mode(options: LoadOptions) -> int:
    mode: int
    if options.mmap:
        mode = bindings.LLAMA_LOAD_MODE_MMAP_MLOCK if options.mlock else bindings.LLAMA_LOAD_MODE_MMAP
    else:
        mode = bindings.LLAMA_LOAD_MODE_MLOCK if options.mlock else bindings.LLAMA_LOAD_MODE_NONE
    return mode


def _place(parameters: Any, options: LoadOptions, layers: int) -> list[object]:
    """Say which tensor goes to which device; returns what the parameters point to."""
    keep: list[object] = []
    parameters.n_gpu_layers = options.gpu_layers
    parameters.main_gpu = options.main_gpu
    if options.device is not None:
        name = ggml_name(options.device)
        handle = take_device(name) if name else None
        if name and handle is None:
            raise LoadError(f"llama.cpp finds no device {options.device!r}, though its build has a library for it.")
        devices = (ctypes.c_void_p * 2)(handle, None)
        parameters.devices = ctypes.cast(devices, ctypes.c_void_p)
        parameters.n_gpu_layers = options.gpu_layers if handle else 0
        keep.append(devices)
    if options.tensor_split:
        room = int(bindings.llama_max_devices())
        if len(options.tensor_split) > room:
            raise OptionValueError(f"`tensor_split` has {len(options.tensor_split)} shares; llama.cpp takes {room}.")
        shares = (ctypes.c_float * room)(*options.tensor_split)
        parameters.tensor_split = shares
        keep.append(shares)
    patterns = _expert_patterns(options.cpu_expert_layers, layers)
    if patterns:
        overrides = (_TensorOverride * (len(patterns) + 1))(*[_TensorOverride(p, cpu_buffer_type()) for p in patterns])
        parameters.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        keep.append(overrides)
    return keep


def _expert_patterns(count: int, layers: int) -> list[bytes]:
    if count < 0 or count >= layers > 0:
        return [_EXPERT_TENSORS] if count else []
    return [rb"blk\.%d" % layer + _EXPERT_TENSORS for layer in range(count)]
