"""What a folder must stand before this process's MLX sees it."""

from __future__ import annotations

from hashlib import blake2b

from inference.folder import Folder
from inference.options import LoadOptions
from inference.trials import Trials

__all__ = ["TRIALS", "vet"]

SMALL = 2**29
"""Bytes of weights up to which some tokens are computed too. Of larger folders no weights are read."""

READ = ("config.json", "generation_config.json", "hf_quant_config.json")
"""What mlx-lm reads beside the weights and the tokenizer."""

TRIALS = Trials("MLX", ("mlx", "mlx-lm"), "inference_mlx.trial:try_out", seconds=60.0)
"""Importing mlx-lm takes some of them."""


def vet(folder: Folder, device: str, options: LoadOptions) -> None:
    """Nothing, if MLX took this folder before, or takes it now in a process of its own, or refuses it in order.

    Raises:
        LoadError: as `Trials.require_harmless`.
    """
    if options.trial_load and not TRIALS.knows(digest := digest_of(folder, device)):
        argument = (str(folder.path.absolute()), device, folder.size_bytes <= SMALL)
        TRIALS.require_harmless(folder.path, digest, argument)


def digest_of(folder: Folder, device: str) -> str:
    """Of all that mlx-lm reads of the folder before its weights, and the device, in hexadecimal digits."""
    content = blake2b(device.encode() + b"\0", digest_size=16)
    for path in (folder.path / name for name in READ):
        if path.is_file():
            content.update(path.name.encode() + b"\0" + path.read_bytes())
    for tensor in folder.tensors.values():
        content.update(repr((tensor.name, tensor.type, tensor.shape)).encode())
    return content.hexdigest()
