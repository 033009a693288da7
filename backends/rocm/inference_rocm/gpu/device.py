"""What launching a kernel has to know of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["INTERPRETER", "Device"]


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as PyTorch and Triton see it; or Triton's interpreter, which computes on the CPU's tensors."""

    torch: torch.device
    wave: int
    """Lanes that run in step: 64 on CDNA and GCN, 32 on RDNA."""
    units: int
    """Compute units: what a grid should fill."""
    interpreted: bool = False
    """Then each operation of a kernel costs the same whatever its size, and blocks should be large and few."""

    def activate(self) -> None:
        """Make it the device on which this thread launches kernels."""
        if not self.interpreted:
            torch.cuda.set_device(self.torch)


INTERPRETER = Device(torch.device("cpu"), wave=64, units=1, interpreted=True)
"""Needs the environment variable TRITON_INTERPRET=1 before Triton is imported."""
