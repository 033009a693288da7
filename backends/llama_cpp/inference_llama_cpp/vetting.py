"""What a file must stand before this process's llama.cpp sees it."""

from __future__ import annotations

from inference.gguf.reader import Header
from inference.options import LoadOptions
from inference.trials import Trials
from inference_llama_cpp.charsmap import require_sound_charsmap

__all__ = ["TRIALS", "vet"]

SMALL = 2 * 2**30
"""Bytes of weights up to which some tokens are computed too. Of larger files no weights are read."""

TRIALS = Trials("llama.cpp", ("llama-cpp-python",), "inference_llama_cpp.trial:try_out", seconds=30.0)
"""A vocabulary of 262,144 tokens takes two seconds."""


def vet(header: Header, options: LoadOptions) -> None:
    """Nothing, if llama.cpp took this file before, or takes it now in a process of its own, or refuses it in order.

    Raises:
        CorruptFileError: some text would end the process, once the file is loaded.
        LoadError: as `Trials.require_harmless`.
    """
    if options.trial_load and not TRIALS.knows(header.digest):
        require_sound_charsmap(header)
        paths = [str(path) for path in header.paths]
        TRIALS.require_harmless(header.path, header.digest, (paths, header.size_bytes <= SMALL))
