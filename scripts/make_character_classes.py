"""Write `inference/gguf/tokenizer/character_table.py` from llama.cpp's Unicode table.

    python scripts/make_character_classes.py path/to/llama.cpp/src/unicode-data.cpp [--check]

`--check` writes nothing, and fails if the module is not what would be written.
"""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
from pathlib import Path

MODULE = Path(__file__).parent.parent / "inference/gguf/tokenizer/character_table.py"
CLASSES = {0x02: "N", 0x04: "L", 0x10: "M", 0x20: "P", 0x40: "S"}
"""The category flags that a pre-tokenizer asks for; the others (separators, controls, unassigned) are one, "O"."""
END = 0x110000


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    written = module(Path(arguments[0]).read_text("utf-8"))
    if "--check" not in sys.argv:
        MODULE.write_text(written, "utf-8")
    elif written != MODULE.read_text("utf-8"):
        sys.exit(f"{MODULE} is not what {arguments[0]} gives: run this script without --check.")


def module(source: str) -> str:
    """The text of the module."""
    runs = " ".join(f"{letter}{length:X}" for letter, length in class_runs(source))
    spaces = " ".join(f"{code:X}" for code in whitespace(source))
    return f'''"""Written by scripts/make_character_classes.py from llama.cpp's src/unicode-data.cpp: do not edit."""

RUNS = """
{textwrap.fill(runs, 118)}
"""
"""All code points from 0 on, in runs: a class (Letter, Number, Punctuation, Symbol, Mark, Other), and the run's length
in hexadecimal digits."""

WHITESPACE = """
{textwrap.fill(spaces, 118)}
"""
"""The code points of `\\\\s`, in hexadecimal digits."""
'''


def class_runs(source: str) -> list[tuple[str, int]]:
    """Neighbouring ranges of the same class as one: its letter and its length."""
    starts = [(int(a, 16), int(b, 16)) for a, b in re.findall(r"\{(0x\w+), (0x\w+)\}", table(source, "ranges_flags"))]
    if starts[0][0] != 0 or starts[-1][0] != END:
        sys.exit("The ranges of unicode_ranges_flags do not cover all code points.")
    runs: list[tuple[str, int]] = []
    for (first, flags), (end, _) in itertools.pairwise(starts):
        letter = CLASSES.get(flags, "O")
        if runs and runs[-1][0] == letter:
            runs[-1] = (letter, runs[-1][1] + end - first)
        else:
            runs.append((letter, end - first))
    return runs


def whitespace(source: str) -> list[int]:
    return sorted(int(code, 16) for code in re.findall(r"0x\w+", table(source, "set_whitespace")))


def table(source: str, name: str) -> str:
    """What stands between the braces of the table `unicode_<name>`."""
    found = re.search(rf"unicode_{name} = \{{(.*?)\n\}};", source, re.DOTALL)
    if found is None:
        sys.exit(f"The source has no table unicode_{name}.")
    return found[1].split("\n", 1)[1]


if __name__ == "__main__":
    main()
