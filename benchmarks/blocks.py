"""Decoding a block format's weights to float32, beside the `gguf` package's reference."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Protocol, runtime_checkable

from inference.measuring import Bar, Competitor, Repeat, Sample

__all__ = ["BlockDecode", "GgufPackage", "NumpyBlocks"]

ROW = 2048
"""Elements."""


@runtime_checkable
class Decodes(Protocol):
    """A competitor that decodes blocks."""

    def decode(self, format_name: str, data: Any) -> Any:
        """A new float32 array [rows, elements] of blocks in uint8 [rows, row bytes]."""


@dataclass(frozen=True, slots=True)
class NumpyBlocks:
    """`inference.gguf.blocks`."""

    name: ClassVar[str] = "inference.gguf.blocks"
    ours: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("native-inference", "numpy")

    def reason_unavailable(self) -> str | None:
        return None if find_spec("numpy") else "numpy is not installed."

    def decode(self, format_name: str, data: Any) -> Any:
        from inference.gguf.blocks import decode

        return decode(format_name, data)


@dataclass(frozen=True, slots=True)
class GgufPackage:
    """`gguf.dequantize`."""

    name: ClassVar[str] = "gguf"
    ours: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("gguf", "numpy")

    def reason_unavailable(self) -> str | None:
        return None if find_spec("gguf") else "gguf is not installed."

    def decode(self, format_name: str, data: Any) -> Any:
        import gguf

        return gguf.dequantize(data, gguf.GGMLQuantizationType[format_name])


@dataclass(frozen=True, slots=True)
class BlockDecode:
    """GB (10^9 bytes) of float32 that one thread decodes in a second, new array included, of blocks that lie in
    memory."""

    format_name: str
    bars: Mapping[str, Bar] = field(default_factory=dict)
    rows: int = 2048
    model: ClassVar[Path | None] = None
    unit: ClassVar[str] = "GB/s"
    isolated: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"decode {self.format_name}"

    def facts(self) -> Mapping[str, Any]:
        return {"shape": [self.rows, ROW]}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Decodes) else "it does not decode blocks"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Decodes)
        data = self._blocks()

        def repeat(_: int) -> Sample:
            began = perf_counter()
            values = competitor.decode(self.format_name, data)
            seconds = perf_counter() - began
            return Sample(values.nbytes / seconds / 1e9, f"{values.shape} with checksum {zlib.crc32(values)}")

        yield repeat

    def _blocks(self) -> Any:
        """Any bytes, but for the highest bit of the scales' exponents, so that all is finite."""
        import numpy as np

        from inference.gguf.blocks import block_layout

        layout = block_layout(self.format_name)
        size = ROW // layout.elements * layout.fields.itemsize
        data = np.random.default_rng(0).integers(0, 256, (self.rows, size), dtype=np.uint8)
        blocks = data.reshape(-1).view(layout.fields)
        for name in {"d", "m", "dmin", "e", "value"} & set(layout.fields.names or ()):
            width = blocks[name].itemsize
            words = blocks[name].view(f"<u{width}")
            words &= words.dtype.type({1: 0x7F, 2: 0xBFFF, 4: 0xBFFFFFFF}[width])
        return data
