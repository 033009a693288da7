"""Numbers on their way to the device and back, without waiting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inference_rocm.gpu.device import Device

__all__ = ["Arrival", "fetched", "sent", "sent_apart"]


def sent(values: Sequence[int] | Sequence[Sequence[int]], device: Device) -> Tensor:
    """int32 on the device. The copy is in the current stream's order; its source is pinned memory, which PyTorch's
    allocator does not give away before the copy is done."""
    numbers = torch.tensor(values, dtype=torch.int32, pin_memory=not device.interpreted)
    return numbers.to(device.torch, non_blocking=True)


def sent_apart(columns: Sequence[Sequence[int]], device: Device) -> Sequence[Tensor]:
    """Each column by itself, by one copy. All begin at multiples of 16 bytes: Triton compiles kernels anew for tensors
    that do not."""
    count = len(columns[0])
    room = -(-count // 4) * 4
    together = sent([[*column, *[0] * (room - count)] for column in columns], device)
    return together[:, :count].unbind()


def fetched(values: Tensor, device: Device) -> Tensor:
    """A copy in the host's memory, which is there once an `Arrival` made after it has come."""
    to = torch.empty(values.shape, dtype=values.dtype, pin_memory=not device.interpreted)
    to.copy_(values, non_blocking=True)
    return to


class Arrival:
    """All that the device was told to do before this was made."""

    def __init__(self, device: Device) -> None:
        self._event = None if device.interpreted else torch.cuda.Event()  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()
            self._event = None
