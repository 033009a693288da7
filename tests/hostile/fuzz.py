"""Coverage-guided fuzzing of what reads files: `python -m hostile.fuzz TARGET --seconds 600`.

It ends with an error at the first input at which the target fails, and keeps that input in `found/`, where a test
finds it. Needs atheris (Linux on x86-64).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import click

with atheris.instrument_imports(include=["inference", "inference.gguf"]):
    from hostile.targets import FOUND, TARGETS, seeds

LONGEST = 16_384
"""Bytes of an input."""


@click.command()
@click.argument("target", type=click.Choice(list(TARGETS)))
@click.option("--seconds", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws; 0 takes the time.")
@click.option("--found", type=click.Path(path_type=Path), help="Where to keep what is found, instead of found/.")
def main(target: str, seconds: int, seed: int, found: Path | None) -> None:
    """Look for an input at which TARGET fails."""
    kept = found or FOUND / target
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        seeds(target, Path(name))
        arguments = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST}",
            f"-seed={seed}",
            f"-artifact_prefix={kept}/",
            "-timeout=10",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *arguments, name], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
