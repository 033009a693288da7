"""Hugging Face's and MLX's model folders, loaded by mlx-lm itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm.utils import load_model

from inference.errors import LoadError, UnsupportedModelError
from inference.folder import Folder
from inference_mlx.decoder import Decoder, NativeDecoder
from inference_mlx.limits import ran_out

__all__ = ["lazy_model", "native_decoder", "takes_batches"]

LONGEST_MESSAGE = 500
"""Characters of what mlx-lm says: it names all weights that are not as it wants them."""
SAME = 0.05
"""Two ways to the same logits differ by no more, by their range, whatever type they are computed in."""

_log = logging.getLogger(__name__)


def native_decoder(folder: Folder, device: str, progress: Callable[[float], None]) -> NativeDecoder:
    """The folder's model, its weights on the device.

    On "metal" weights keep the type that they are stored in. MLX's CPU device multiplies at a usable speed in float32
    alone, and gets that.

    Raises:
        UnsupportedModelError: mlx-lm does not know the architecture, or its weights are others than it wants.
        LoadError: mlx-lm fails in another way.
    """
    progress(0.0)
    with _errors_named(folder), _plainly_named(folder) as path:
        model, _ = load_model(path, lazy=True)
        if device == "cpu":
            model.update(tree_map(_in_float32, model.parameters()))
        mx.eval(model.parameters())
    decoder = NativeDecoder(model, folder.vocabulary_size)
    decoder.batches = takes_batches(decoder)
    if not decoder.batches:
        _log.warning("%s: mlx-lm's %s computes one sequence at a time", folder.path, folder.architecture)
    return decoder


def lazy_model(folder: Folder) -> nn.Module:
    """mlx-lm's model of the folder. No weights are read.

    Raises:
        UnsupportedModelError, LoadError: as `native_decoder`.
    """
    with _errors_named(folder), _plainly_named(folder) as path:
        return load_model(path, lazy=True)[0]


def takes_batches(decoder: Decoder) -> bool:
    """Whether sequences of different lengths, computed together, come out as each does alone. Not all of mlx-lm's
    models and caches can do that."""
    try:
        tokens = [token % decoder.vocabulary_size for token in range(1, 7)]  # MLX reads beyond the end for others
        texts, nexts = [tokens[:1], tokens[:2], tokens[:3]], tokens[3:]
        alone = [decoder.caches() for _ in texts]
        for text, caches in zip(texts, alone, strict=True):
            mx.eval(decoder(mx.array([text]), caches, [len(text) - 1]))
        merged = [of_layer[0].merge(list(of_layer)) for of_layer in zip(*alone, strict=True)]
        together = np.array(decoder(mx.array([[token] for token in nexts]), merged, [0, 0, 0]))
        expected = np.concatenate(
            [np.array(decoder(mx.array([[token]]), caches, [0])) for token, caches in zip(nexts, alone, strict=True)]
        )
    except Exception:  # noqa: BLE001 - whatever it is, they cannot
        return False
    return bool(np.abs(together - expected).max() <= SAME * np.ptp(expected))


@contextmanager
def _errors_named(folder: Folder) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        if ran_out(error):
            raise
        raise LoadError(f"{folder.path} cannot be loaded by mlx-lm: {_short(error)}") from error
    except Exception as error:  # a config that says anything may end mlx-lm in any way
        raise UnsupportedModelError(
            f"{folder.path} cannot be run: mlx-lm says of the architecture {folder.architecture!r}: {_short(error)}"
        ) from error


@contextmanager
def _plainly_named(folder: Folder) -> Iterator[Path]:
    """A directory with links to the folder's files: mlx-lm takes characters such as [ and * in a path for patterns, and
    would read other folders' weights."""
    with TemporaryDirectory(prefix="native-inference-") as name:
        place = Path(name)
        for file in (*folder.path.resolve().glob("*.json"), *folder.paths):
            (place / file.name).symlink_to(file.absolute())
        yield place


def _in_float32(values: Any) -> Any:
    return values.astype(mx.float32) if mx.issubdtype(values.dtype, mx.floating) else values


def _short(error: Exception) -> str:
    told = str(error) or type(error).__name__
    return told if len(told) <= LONGEST_MESSAGE else f"{told[:LONGEST_MESSAGE]}..."
