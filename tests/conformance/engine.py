"""How far a decoder of ours is from exact arithmetic on every conformance file, and on real models, beside the bound
that llama.cpp's own rounding sets, and whether its greedy text is llama.cpp's but for near-ties:
`python -m conformance.engine torch`, or `metal` on MLX's CPU device, or `metal-16` there in an Apple GPU's types, or
`rocm` on an AMD GPU, or with TRITON_INTERPRET=1 on Triton's interpreter. Words behind that choose among the files.

The weights of the files are random, so that some files' logits lie closer together than the near-tie rule allows for:
the last column then says so. The exit code is 1 if a bound is exceeded.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bare_llama import BareLlama

from conformance.cases import CASES
from conformance.decoder import Decoder
from conformance.files import write
from conformance.near_ties import divergence, near_ties
from conformance.yardstick import yardstick
from inference.gguf.reader import read_header
from inference.gguf.tokenizer import tokenizer_of
from inference.options import LoadOptions
from inference.stores import demo_model

POSITIONS, PROMPT, GREEDY = 64, 16, 24
TEXT = (
    "Once upon a time, in a small village by the sea, there lived a clockmaker who never slept. Every night he wound "
    "the great clock on the tower, and every morning the fishermen set out by its first stroke. One day it was silent."
)
GEMMA = Path(".cache/gemma-3-270m.Q4_K_M.gguf")


class Fed(Protocol):
    """A file's decoder as the backend builds it."""

    def in_pieces(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        """The logits after every token, [tokens, vocabulary], where the tokens are fed in pieces of these lengths."""


def torch(path: Path) -> Fed:
    from test_torch_decoder import engine_of

    engine: Fed = engine_of(path)
    return engine


def metal(path: Path) -> Fed:
    from mlx_sequences import MLXSequences

    return MLXSequences(path)


class Metal16:
    """In the types that an Apple GPU gets, with its sums, though not its kernels."""

    def __init__(self, path: Path) -> None:
        import mlx.core as mx
        from inference_mlx.precision import precision_of
        from mlx_sequences import MLXSequences

        self._sequences = MLXSequences(path, getattr(mx, precision_of(read_header(path), "metal")))

    def in_pieces(self, tokens: Sequence[int], lengths: Sequence[int]) -> Any:
        from mlx_sequences import float32_sums

        with float32_sums():
            return self._sequences.in_pieces(tokens, lengths)


def rocm(path: Path) -> Fed:
    from gpu_sequences import engine_of
    from inference_rocm.devices import INTERPRETER, device_for, interpreting
    from inference_rocm.gpu.loading import device_named

    entry = device_for(LoadOptions(device=INTERPRETER if interpreting() else None))
    return engine_of(path, device_named(entry.device))


ENGINES: dict[str, Callable[[Path], Fed]] = {"torch": torch, "metal": metal, "metal-16": Metal16, "rocm": rocm}


def main(engine: Callable[[Path], Fed], words: Sequence[str]) -> None:
    over = 0
    sys.stdout.write("KL divergence from exact arithmetic, in one pass and token by token; the bound; greedy text:\n")
    with tempfile.TemporaryDirectory() as scratch:
        for name, path, tokens in files(Path(scratch)):
            if words and not any(word in name for word in words):
                continue
            bound = yardstick(path, tokens, Path(scratch)).bound
            exact = Decoder(path, context_length=POSITIONS).logits(tokens)
            pieces = ([len(tokens)], [1] * len(tokens))
            found = [divergence(exact, engine(path).in_pieces(tokens, cut))[0] for cut in pieces]
            over += max(found) > bound
            told = f"{found[0]:.1e} {found[1]:.1e} {'EXCEEDS' if max(found) > bound else 'within'} {bound:.1e}"
            sys.stdout.write(f"{name:>22} {told}  {greedy(engine, path, tokens[:PROMPT])}\n")
            sys.stdout.flush()
    if over:
        sys.exit(f"{over} files exceed the bound.")


def files(scratch: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """Each file, by name, and the tokens to feed it."""
    path = scratch / "model.gguf"
    for name, recipe in CASES.items():
        write(recipe, path)
        yield name, path, np.random.default_rng(1).integers(0, 49_152, POSITIONS).tolist()
    for real in (demo_model(), GEMMA):
        if real is not None and real.exists():
            header = read_header(real)
            yield header.name, real, tokenizer_of(header).encode(TEXT)[:POSITIONS]


def greedy(engine: Callable[[Path], Fed], path: Path, prompt: list[int]) -> str:
    """What near-ties there are."""
    length = PROMPT + GREEDY
    llama = BareLlama(path, length)
    text, theirs = llama.greedy(prompt, GREEDY)
    llama.free()
    fed = prompt + text[:-1]
    wanted = range(PROMPT - 1, len(fed))
    found = engine(path).in_pieces(fed, [PROMPT, *[1] * (GREEDY - 1)])[PROMPT - 1 :]
    try:
        return f"{len(near_ties(Decoder(path, context_length=length).logits(fed, wanted), found, theirs))} near-ties"
    except AssertionError as error:
        return str(error)


if __name__ == "__main__":
    if sys.argv[1:2] not in [[name] for name in ENGINES]:
        sys.exit(f"Say which engine: {', '.join(ENGINES)}.")
    main(ENGINES[sys.argv[1]], sys.argv[2:])
