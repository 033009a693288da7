"""How far llama.cpp is from exact arithmetic on the files named (the real models, if none is): the yardstick for device
backends. `conformance.matrix` tells it of every architecture and block format.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bare_llama import BareLlama
from inference_llama_cpp.library import bindings
from inference_llama_cpp.tokenizer import LlamaTokenizer

from conformance.yardstick import yardstick
from inference.stores import demo_model

POSITIONS = 64
TEXT = """The river rises in the hills to the north and runs for ninety miles before it meets the sea. For most of the
year it is slow and brown, and children cross it on foot; but in spring, when the snow melts, it takes trees and fences
with it. In 1911 a bridge was built of oak and iron. It stood for sixty-two years. Nobody was surprised when it fell,
said the mayor, except the four cows that were on it, and they swam."""
GEMMA = Path(__file__).parents[2] / ".cache" / "gemma-3-270m.Q4_K_M.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="GGUF files whose yardstick is wanted")
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as scratch:
        print_yardsticks(files or [path for path in (demo_model(), GEMMA) if path and path.exists()], Path(scratch))


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
