"""What is said of a model that `inference.gguf` cannot hand to an engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inference.errors import UnsupportedModelError

__all__ = ["unsupported"]


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
