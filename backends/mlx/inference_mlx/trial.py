"""What a worker process does with a folder before this one's MLX sees it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from inference.errors import InferenceError
from inference.folder import read_folder
from inference_mlx.native import lazy_model, native_decoder
from inference_mlx.streams import leave_stream, take_stream

__all__ = ["try_out"]


def try_out(wanted: tuple[str, str, bool]) -> str | None:
    """Let mlx-lm build the folder's model for that device, and compute some tokens or read no weights; None if it did,
    else its refusal."""
    path, device, with_weights = wanted
    stream = take_stream(device)
    try:
        with mx.stream(stream):
            folder = read_folder(Path(path))
            if with_weights:
                native_decoder(folder, device, lambda _: None)
            else:
                lazy_model(folder)
    except InferenceError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the other process will see it too, and say so
        return repr(error)
    finally:
        mx.clear_cache()
        leave_stream(stream)
    return None
