"""The devices that MLX has on this machine. Importing this imports nothing heavy."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

from inference.errors import BackendUnavailableError
from inference.hardware import machine
from inference.options import LoadOptions
from inference.types import Availability

__all__ = ["device_for", "probe"]

_INSTALL = "pip install 'native-inference[mlx]'"
_NEEDED = ("mlx", "mlx_lm", "numpy", "tokenizers")


def probe() -> list[Availability]:
    """The Apple GPU, and MLX's CPU device, which must be asked for."""
    here = machine()
    gpu = next((gpu for gpu in here.gpus if gpu.vendor == "apple"), None)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    reason, fix = f"the package {', '.join(missing)} is not installed.", _INSTALL
    cpu_name = f"{here.cpu.name}, {here.cpu.usable_cores} cores"
    if gpu is None:
        metal = Availability("metal", "Apple GPU", False, False, "this machine has no Apple GPU.")
    elif missing:
        metal = Availability("metal", gpu.name, False, False, reason, fix, gpu.memory_bytes)
    else:
        metal = Availability("metal", gpu.name, True, True, f"MLX {version('mlx')} runs on it.", None, gpu.memory_bytes)
    if here.system == "windows":
        return [metal]
    if missing:
        return [metal, Availability("cpu", cpu_name, False, False, reason, fix, here.memory_bytes)]
    slow = f'MLX {version("mlx")} computes on the CPU, slowly, and only where device="cpu" asks for it.'
    return [metal, Availability("cpu", cpu_name, True, False, slow, None, here.memory_bytes)]


def device_for(options: LoadOptions) -> Availability:
    """The device asked for; without a wish, the Apple GPU and nothing else.

    Raises:
        BackendUnavailableError: it cannot be used.
    """
    wanted = options.device or "metal"
    entry = next((entry for entry in probe() if entry.device == wanted), None)
    if entry is None:
        raise BackendUnavailableError(f"Backend 'metal' has no device {wanted!r}. Its devices: metal, cpu.")
    if not entry.available:
        fix = f" Try: {entry.fix}" if entry.fix else ""
        slow = ' device="cpu" runs it on MLX\'s CPU device, slowly.' if options.device is None and not fix else ""
        raise BackendUnavailableError(f"Backend 'metal' cannot run here: {entry.reason}{fix}{slow}")
    return entry
