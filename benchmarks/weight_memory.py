"""Memory that weights take in the form that a backend packs them in, beside their bytes in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, runtime_checkable

from inference.gguf.block_formats import block_format
from inference.gguf.reader import Header, TensorInfo, read_header
from inference.gguf.values import Metadata
from inference.measuring import Bar, Competitor, Repeat, Sample

__all__ = ["MLXWeights", "TorchWeights", "WeightMemory", "one_matrix"]

SIDE = 4096
"""Rows and columns of the matrix that stands for a block format."""


@runtime_checkable
class Packs(Protocol):
    """A competitor that packs weights."""

    def weight_bytes(self, header: Header) -> int:
        """Bytes that the file's weights take in memory."""


@dataclass(frozen=True, slots=True)
class TorchWeights:
    """What the backend `torch` reckons with when it decides what fits into memory."""

    name: ClassVar[str] = "inference torch"
    ours: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("native-inference",)

    def reason_unavailable(self) -> str | None:
        return None if find_spec("inference_rocm") else "inference_rocm is not installed."

    def weight_bytes(self, header: Header) -> int:
        from inference_rocm.arithmetic import Arithmetic, arithmetic_of
        from inference_rocm.cpu.machine import compiler

        kernels = compiler() is not None
        if header.metadata:
            return arithmetic_of(header, kernels=kernels).weight_bytes(header)
        (matrix,) = header.tensors.values()  # alone, without a model's keys
        return Arithmetic(kernels, exact=matrix.type == "F32").weight_bytes(header)


@dataclass(frozen=True, slots=True)
class MLXWeights:
    """What the backend `metal` reckons with on an Apple GPU, where scales have 16 bits."""

    name: ClassVar[str] = "inference metal"
    ours: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("native-inference",)

    def reason_unavailable(self) -> str | None:
        return None if find_spec("inference_mlx") else "inference_mlx is not installed."

    def weight_bytes(self, header: Header) -> int:
        from inference_mlx.forms import packed_bytes

        return packed_bytes(header.tensors.values())


@dataclass(frozen=True, slots=True)
class WeightMemory:
    """Bytes of packed weights by bytes of the file's tensors, of a model or of a matrix in one block format. Beside,
    both in bits for each weight."""

    format_name: str | None = None
    model: Path | None = None
    bars: Mapping[str, Bar] = field(default_factory=dict)
    unit: ClassVar[str] = "x the file"
    isolated: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"weights in memory, {self.format_name}" if self.format_name else "weights in memory"

    def facts(self) -> Mapping[str, Any]:
        return {}

    def reason_unsuited(self, competitor: Competitor) -> str | None:
        return None if isinstance(competitor, Packs) else "it packs no weights"

    @contextmanager
    def prepared(self, competitor: Competitor) -> Iterator[Repeat]:
        assert isinstance(competitor, Packs)
        header = self._header()
        packed, stored = competitor.weight_bytes(header), header.size_bytes
        beside = {"packed, bits": 8 * packed / header.parameters, "in the file, bits": 8 * stored / header.parameters}
        yield lambda _: Sample(packed / stored, beside=beside)

    def _header(self) -> Header:
        if self.model is not None:
            return read_header(self.model)
        assert self.format_name is not None
        return one_matrix(self.format_name)


def one_matrix(format_name: str) -> Header:
    """The header of a file that holds one matrix of a layer. There is no such file."""
    path = Path(f"{format_name}.gguf")
    name, elements = "blk.0.ffn_up.weight", SIDE * SIDE
    matrix = TensorInfo(name, (SIDE, SIDE), format_name, 0, block_format(format_name).bytes_for(elements), path)
    return Header(path, (path,), 3, 32, Metadata(b"", {}), MappingProxyType({name: matrix}))
