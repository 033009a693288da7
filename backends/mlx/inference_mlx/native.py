"""Hugging Face's and MLX's model folders, loaded by mlx-lm itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.utils import load_model

from inference.errors import LoadError, UnsupportedModelError
from inference.folder import Folder
from inference_mlx.decoder import NativeDecoder

__all__ = ["native_decoder"]


def native_decoder(folder: Folder, device: str, progress: Callable[[float], None]) -> NativeDecoder:
    """The folder's model, its weights on the device.

    On "metal" weights keep the type that they are stored in. MLX's CPU device multiplies at a usable speed in float32
    alone, and gets that.

    Raises:
        UnsupportedModelError: mlx-lm does not know the architecture, or its weights are others than it wants.
        LoadError: mlx-lm fails in another way.
    """
    try:
        model, _ = load_model(folder.path, lazy=True)
        progress(0.0)
        if device == "cpu":
            model.update(tree_map(_in_float32, model.parameters()))
        mx.eval(model.parameters())
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedModelError(
            f"{folder.path} cannot be run: mlx-lm says of the architecture {folder.architecture!r}: {error}"
        ) from error
    except (RuntimeError, OSError) as error:
        raise LoadError(f"{folder.path} cannot be loaded by mlx-lm: {error}") from error
    return NativeDecoder(model, folder.vocabulary_size)


def _in_float32(values: Any) -> Any:
    return values.astype(mx.float32) if mx.issubdtype(values.dtype, mx.floating) else values
