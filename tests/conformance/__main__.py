"""Two tables. How far the numpy decoder is from llama.cpp, in every architecture and block format; and how far
llama.cpp is from exact arithmetic on the files named (the real models, if none is): the yardstick for device backends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from bare_llama import BareLlama
from inference_llama_cpp.library import bindings
from inference_llama_cpp.tokenizer import LlamaTokenizer

from conformance.cases import BLOCK_FORMATS, layers_of
from conformance.decoder import Decoder
from conformance.files import Recipe, rewrite, write
from conformance.yardstick import yardstick
from inference.gguf.architectures import ARCHITECTURES
from inference.stores import demo_model

POSITIONS = 64
TOLERANCE = 1e-3
TEXT = """The river rises in the hills to the north and runs for ninety miles before it meets the sea. For most of the
year it is slow and brown, and children cross it on foot; but in spring, when the snow melts, it takes trees and fences
with it. In 1911 a bridge was built of oak and iron. It stood for sixty-two years. Nobody was surprised when it fell,
said the mayor, except the four cows that were on it, and they swam."""
GEMMA = Path(__file__).parents[2] / ".cache" / "gemma-3-270m.Q4_K_M.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument(
        "files", nargs="*", type=Path, help="GGUF files whose yardstick is wanted, instead of both tables"
    )
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as scratch:
        largest = 0.0 if files else print_matrix(Path(scratch))
        print_yardsticks(files or [path for path in (demo_model(), GEMMA) if path and path.exists()], Path(scratch))
    if largest > TOLERANCE:
        sys.exit(f"A difference of {largest:.1e} of the range is above {TOLERANCE}: the two compute different models.")


def print_matrix(scratch: Path) -> float:
    """Returns the largest difference of all."""
    write_line("Largest difference of logits, numpy decoder / llama.cpp on the F32 twin, in millionths of their range:")
    write_line("".join(f"{name:>9}" for name in ("", *BLOCK_FORMATS)))
    largest = 0.0
    for architecture in ARCHITECTURES:
        cells = [difference(architecture, form, scratch) for form in BLOCK_FORMATS]
        write_line(f"{architecture:>9}" + "".join(f"{1e6 * cell:9.1f}" for cell in cells))
        largest = max(largest, *cells)
    return largest


def difference(architecture: str, block_format: str, scratch: Path) -> float:
    path, twin = scratch / "model.gguf", scratch / "twin.gguf"
    write(Recipe(architecture=architecture, block_formats=(block_format,), layers=layers_of(architecture)), path)
    rewrite(path, twin, "F32")
    tokens = np.random.default_rng(1).integers(0, 49_152, POSITIONS).tolist()
    llama = BareLlama(twin, POSITIONS, exact=True)
    theirs = llama.logits(tokens, range(POSITIONS))
    llama.free()
    return float(np.abs(Decoder(path).logits(tokens) - theirs).max() / np.ptp(theirs))


def print_yardsticks(files: list[Path], scratch: Path) -> None:
    write_line(
        "KL divergence of llama.cpp from exact arithmetic, and the share of positions with the same likeliest token:"
    )
    for path in files:
        measured = yardstick(path, tokens_of(path), scratch)
        figures = [f"{kl:.2e} {100 * top:.0f} %" for kl, top in (measured.own, measured.as_q8_0)]
        write_line(f"{path.name}: as it is {figures[0]}, as Q8_0 {figures[1]}; the bound is {measured.bound:.2e}")


def tokens_of(path: Path) -> list[int]:
    llama = BareLlama(path, POSITIONS)
    tokens = LlamaTokenizer(bindings.llama_model_get_vocab(llama.model)).encode(TEXT)
    llama.free()
    return tokens


def write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
