"""A file's tensors, found by the names and shapes that an entry declares."""

from __future__ import annotations

from typing import TypeAlias

from inference.gguf.architectures.config import LayerTensors, Part
from inference.gguf.architectures.entry import Architecture, Tensors
from inference.gguf.header import Header
from inference.gguf.unsupported import unsupported

__all__ = ["Sizes", "TensorTable", "trimmed"]

Sizes: TypeAlias = dict[str, int]
"""What the names in `Tensor.shape` stand for: "embedding", "heads", "head", "query" (heads x head length), "key" (KV
heads x head length), "feed_forward", "experts", "shared_feed_forward", "vocabulary", "rotary" (pairs that turn)."""


class TensorTable:
    """Hands out the file's tensors, and knows which nobody asked for."""

    def __init__(self, header: Header, entry: Architecture, sizes: Sizes) -> None:
        self._header = header
        self._entry = entry
        self._sizes = sizes
        self._unused = set(header.tensors)

    def take(self, name: str, *shape: str) -> Part:
        """The tensor of that name."""
        return self._take(name, self._lengths(shape))

    def take_if_there(self, name: str, *shape: str) -> Part | None:
        """The tensor of that name, None if the file does not have it."""
        return self.take(name, *shape) if name in self._header.tensors else None

    def layer(self, index: int, with_experts: bool) -> LayerTensors:
        """All tensors of layer `index`."""
        prefix = f"blk.{index}."
        network = self._entry.experts.tensors if with_experts and self._entry.experts else self._entry.feed_forward
        wanted: Tensors = {**self._entry.attention, **(network or {})}
        parts = self._fused(prefix, wanted)
        fused = {role: prefix + one.name for one in self._entry.fused for role in one.parts}
        for role, tensor in wanted.items():
            name = prefix + tensor.name
            if role not in parts and (not tensor.optional or name in self._header.tensors):
                parts[role] = self._take(name, self._lengths(tensor.shape), fused.get(role))
        return LayerTensors(**parts)

    def refuse_unused(self) -> None:
        """
        Raises:
            UnsupportedModelError: the file has a tensor that was not taken: without it the model would be another.
        """
        if self._unused:
            name = min(self._unused)
            more = f" and {len(self._unused) - 1} more" if len(self._unused) > 1 else ""
            raise unsupported(
                self._header.path, f"a tensor `{name}`{more}, which the architecture {self._entry.name} has no use for"
            )

    def _fused(self, prefix: str, wanted: Tensors) -> dict[str, Part]:
        """The weights that lie together in one tensor, where the file keeps them so."""
        parts: dict[str, Part] = {}
        for fused in self._entry.fused:
            name = prefix + fused.name
            if name not in self._header.tensors:
                continue
            outputs = [self._sizes[wanted[role].shape[-1]] for role in fused.parts]
            inputs = self._lengths(wanted[fused.parts[0]].shape[:-1])
            self._take(name, (*inputs, sum(outputs)))
            start = 0
            for role, rows in zip(fused.parts, outputs, strict=True):
                parts[role] = Part(name, slice(start, start + rows))
                start += rows
        return parts

    def _lengths(self, shape: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self._sizes[dimension] for dimension in shape)

    def _take(self, name: str, shape: tuple[int, ...], instead: str | None = None) -> Part:
        """The tensor of that name; `instead` is the one that could have held its rows, among others."""
        path, tensor = self._header.path, self._header.tensors.get(name)
        if tensor is None:
            neither = "" if instead is None else f", nor `{instead}` in its place"
            raise unsupported(path, f"no tensor `{name}`{neither}, which the architecture {self._entry.name} needs")
        # Writers may drop trailing dimensions of 1, as with a single expert.
        if trimmed(tensor.shape) != trimmed(shape):
            raise unsupported(
                path,
                f"the tensor `{name}` in the shape {_shown(tensor.shape)}, where its hyper-parameters say "
                f"{_shown(shape)}",
            )
        self._unused.discard(name)
        return Part(name)


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing dimensions of 1, which mean nothing; at least one dimension is kept."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "()"
