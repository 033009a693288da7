"""`Weights`: the tensors of a GGUF file, mapped into memory, decoded when they are asked for."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference.errors import ModelClosedError, ModelFileError, ModelNotFoundError, TruncatedFileError
from inference.gguf.block_formats import block_format
from inference.gguf.blocks import BLOCK_LAYOUTS, BlockLayout, GroupedLayout, Groups
from inference.gguf.header import Header, TensorInfo
from inference.gguf.unsupported import require_decoded, unsupported

__all__ = ["Rows", "Weights", "tensor_layout"]

Rows: TypeAlias = slice | SupportsIndex | Sequence[int] | NDArray[np.integer]
"""Which rows: as numpy indexes a first axis."""


class Weights:
    """The tensors of a file, or of all shards of a split model. Shapes are numpy's, the reverse of the file's: rows
    first, and elements that lie side by side last.

    Nothing is read from the disk before it is asked for, and many threads may ask at once. `close`, or leaving the
    `with` block, lets the files go. The arrays of `raw` stay valid, and a file stays mapped until the last of its
    arrays has gone. What the other methods return are copies.
    """

    def __init__(self, header: Header) -> None:
        """Map the files of `header`.

        Raises:
            ModelNotFoundError, TruncatedFileError: a file has gone, or become shorter, since its header was read.
            ModelFileError: the system refuses to map it, or is big-endian.
        """
        if sys.byteorder != "little":
            raise ModelFileError(f"{header.path} cannot be read on this big-endian machine; use a little-endian one.")
        self.header = header
        self._files: Mapping[Path, NDArray[np.uint8]] | None = {path: _mapped(path) for path in header.paths}
        for tensor in header.tensors.values():
            end, size = tensor.offset + tensor.size_bytes, len(self._files[tensor.path])
            if end > size:
                raise TruncatedFileError(
                    f"{tensor.path} ends at byte {size:,}, but the tensor `{tensor.name}` at byte {end:,}: it was "
                    "changed after its header was read. Download it again."
                )

    def shape(self, name: str) -> tuple[int, ...]:
        """What `decode` gives for all rows.

        Raises:
            UnsupportedModelError: the file has no such tensor.
        """
        return self._tensor(name).shape[::-1] or (1,)

    def layout(self, name: str) -> BlockLayout:
        """How the tensor's elements are laid out.

        Raises:
            UnsupportedModelError: the file has no such tensor, or its block format is none of `BLOCK_LAYOUTS`.
        """
        return tensor_layout(self._tensor(name))

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes in whatever format, uint8 [rows..., row bytes]: a read-only view of the file.

        Raises:
            UnsupportedModelError: the file has no such tensor.
            ModelClosedError: the file was let go.
        """
        tensor, files = self._tensor(name), self._files
        if files is None:
            raise ModelClosedError(f"The weights of {self.header.path} were closed before `{name}` was read.")
        *rows, columns = self.shape(name)
        data = files[tensor.path][tensor.offset : tensor.offset + tensor.size_bytes]
        return data.reshape(*rows, block_format(tensor.type).bytes_for(columns))

    def decode(
        self, name: str, rows: Rows | None = None, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The tensor, or the chosen `rows` of its first axis, as float32.

        `out` is filled instead of a new array: C-contiguous, of that shape and type.

        Raises:
            UnsupportedModelError: the file has no such tensor, or its block format is none of `BLOCK_LAYOUTS`.
            ModelClosedError: the file was let go.
            IndexError: there are no such rows.
            ValueError: the tensor has one dimension and so no rows; `out` is another array than that.
        """
        return self.layout(name).decode(self._chosen(name, rows), out)

    def groups(self, name: str, rows: Rows | None = None) -> Groups:
        """The quantised tensor, or the chosen `rows` of its first axis, unpacked and not decoded.

        Raises:
            ValueError: the format does not quantise (F32, F16, BF16), or the tensor has no rows to choose.
            UnsupportedModelError, ModelClosedError, IndexError: as in `decode`.
        """
        layout = self.layout(name)
        if not isinstance(layout, GroupedLayout):
            raise ValueError(f"The tensor `{name}` is {layout.name}, which has no groups; decode it.")
        return layout.unpack(self._chosen(name, rows))

    def close(self) -> None:
        """Let the files go. A second time does nothing."""
        # The mappings end with their last array; `mmap.close` would raise BufferError while there is one.
        self._files = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _tensor(self, name: str) -> TensorInfo:
        tensor = self.header.tensors.get(name)
        if tensor is None:
            raise unsupported(self.header.path, f"no tensor `{name}`")
        return tensor

    def _chosen(self, name: str, rows: Rows | None) -> NDArray[np.uint8]:
        data = self.raw(name)
        if rows is None:
            return data
        if data.ndim == 1:
            raise ValueError(f"The tensor `{name}` has one dimension, and so no rows to choose; decode it whole.")
        chosen: NDArray[np.uint8] = data[rows]
        return chosen


def tensor_layout(tensor: TensorInfo) -> BlockLayout:
    """How the tensor's elements are laid out.

    Raises:
        UnsupportedModelError: its block format is none of `BLOCK_LAYOUTS`.
    """
    require_decoded(tensor)
    return BLOCK_LAYOUTS[tensor.type]


def _mapped(path: Path) -> NDArray[np.uint8]:
    """The file's bytes, read-only, mapped as long as an array looks at them."""
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except FileNotFoundError:
        raise ModelNotFoundError(f"The file {path} has gone since its header was read; check the path.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelFileError(f"{path} cannot be read: {reason}.") from error
