"""What is said of a model that `inference.gguf` cannot hand to an engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inference.errors import UnsupportedModelError
from inference.gguf.block_formats import DECODED
from inference.gguf.header import Header, TensorInfo

__all__ = ["require_block_formats", "require_decoded", "unsupported"]


def unsupported(
    path: Path,
    found: str,
    supported: Iterable[str] = (),
    *,
    kind: type[UnsupportedModelError] = UnsupportedModelError,
) -> UnsupportedModelError:
    """The error for a file that "has" what is `found`: "the block format IQ1_S in tensor `x`", or "no tensor `y`".

    It names what is `supported` instead, if anything is, and the backend that reads files by itself.
    """
    instead = ", ".join(supported)
    return kind(
        f"{path} cannot be used by the engines of this package: it has {found}."
        + (f" They know {instead}." if instead else "")
        + ' The backend "llama_cpp" reads files by itself and may run it.'
    )


def require_decoded(tensor: TensorInfo) -> None:
    """Nothing, if the tensor's block format is one that is decoded here.

    Raises:
        UnsupportedModelError: it is none of them.
    """
    if tensor.type not in DECODED:
        found = f"the block format {tensor.type} in tensor `{tensor.name}`"
        raise unsupported(tensor.path, found, DECODED)


def require_block_formats(header: Header) -> None:
    """Nothing, if every tensor can be decoded. The files are not opened.

    Raises:
        UnsupportedModelError: a tensor's block format is none that is decoded here. It names the first one.
    """
    for tensor in header.tensors.values():
        require_decoded(tensor)
