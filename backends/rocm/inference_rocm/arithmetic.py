"""How the CPU computes a file, and what memory that takes. Importing this imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from inference.gguf.reader import Header
from inference_rocm.cpu.library import LONGEST_HEAD
from inference_rocm.cpu.machine import multiplies_bfloat16
from inference_rocm.forms import PACKED

__all__ = ["Arithmetic", "arithmetic_of"]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Whether the kernels in C compute it, and the type of what is not quantised."""

    kernels: bool
    """Quantised matrices stay so. Without kernels every matrix is dense."""
    exact: bool
    """Dense matrices, keys and values are float32, not bfloat16."""

    @property
    def dense_bytes(self) -> int:
        return 4 if self.exact else 2

    def bytes_per_weight(self, block_format: str) -> float:
        """Memory of one weight of a matrix."""
        form = PACKED.get(block_format) if self.kernels else None
        return self.dense_bytes if form is None else form.bytes_per_weight

    def weight_bytes(self, header: Header) -> int:
        """Memory of the matrices. The embeddings are read from the mapped file, and count only where the output takes
        them too."""
        tied = "output.weight" not in header.tensors
        return sum(
            round(tensor.elements * self.bytes_per_weight(tensor.type))
            for name, tensor in header.tensors.items()
            if len(tensor.shape) > 1 and (tied or name != "token_embd.weight")
        )

    def kv_bytes_per_token(self, header: Header) -> int:
        return header.kv_bytes_per_token("f32" if self.exact else "f16")


def arithmetic_of(header: Header, *, kernels: bool) -> Arithmetic:
    """What suits a file. `kernels`: whether they can be had."""
    if all(tensor.type == "F32" for tensor in header.tensors.values()):
        return Arithmetic(kernels=False, exact=True)  # who keeps four bytes for a weight wants no rounding
    if kernels and header.key_length <= LONGEST_HEAD:
        return Arithmetic(kernels=True, exact=False)
    return Arithmetic(kernels=False, exact=not multiplies_bfloat16())
