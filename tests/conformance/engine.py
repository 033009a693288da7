"""How far the engine `torch` is from exact arithmetic on every conformance file, beside the bound that llama.cpp's own
rounding sets, and whether its greedy text is llama.cpp's but for near-ties.

The weights are random, so that some files' logits lie closer together than the near-tie rule allows for: the last
column then says so. The exit code is 1 if a bound is exceeded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bare_llama import BareLlama
from test_torch_decoder import Sequences, engine_of, random_tokens

from conformance.cases import CASES
from conformance.decoder import Decoder
from conformance.files import write
from conformance.near_ties import divergence, near_ties
from conformance.yardstick import yardstick

POSITIONS, PROMPT, GREEDY = 64, 16, 24


def main() -> None:
    over = 0
    sys.stdout.write("KL divergence from exact arithmetic, in one pass and token by token; the bound; greedy text:\n")
    with tempfile.TemporaryDirectory() as scratch:
        for name, recipe in CASES.items():
            path = Path(scratch) / "model.gguf"
            write(recipe, path)
            tokens = random_tokens(1, POSITIONS)
            bound = yardstick(path, tokens, Path(scratch)).bound
            exact = Decoder(path, context_length=POSITIONS).logits(tokens)
            found = [divergence(exact, engine_of(path).in_pieces(tokens, cut))[0] for cut in ([64], [1] * POSITIONS)]
            over += max(found) > bound
            told = f"{found[0]:.1e} {found[1]:.1e} {'EXCEEDS' if max(found) > bound else 'within'} {bound:.1e}"
            sys.stdout.write(f"{name:>22} {told}  {greedy(path, tokens[:PROMPT])}\n")
            sys.stdout.flush()
    if over:
        sys.exit(f"{over} files exceed the bound.")


def greedy(path: Path, prompt: list[int]) -> str:
    """What near-ties there are."""
    length = PROMPT + GREEDY
    llama = BareLlama(path, length)
    text, theirs = llama.greedy(prompt, GREEDY)
    llama.free()
    fed = prompt + text[:-1]
    wanted = range(PROMPT - 1, len(fed))
    ours: Sequences = engine_of(path)
    found = ours.in_pieces(fed, [PROMPT, *[1] * (GREEDY - 1)])[PROMPT - 1 :]
    try:
        return f"{len(near_ties(Decoder(path, context_length=length).logits(fed, wanted), found, theirs))} near-ties"
    except AssertionError as error:
        return str(error)


if __name__ == "__main__":
    main()
