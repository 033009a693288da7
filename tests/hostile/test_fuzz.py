"""What the fuzzer found once, and a short hunt for more."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hostile.targets import FOUND, TARGETS, seeds

pytest.importorskip("tokenizers")


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_is_mended(target: str) -> None:
    for found in sorted((FOUND / target).glob("[!.]*")):
        TARGETS[target](found.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_passes(target: str) -> None:
    with TemporaryDirectory() as name:
        seeds(target, Path(name))
        files = sorted(Path(name).iterdir())
        for file in files:
            TARGETS[target](file.read_bytes())
    assert files


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is for Linux on x86-64")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("target", TARGETS)
def test_half_a_minute_of_fuzzing_finds_nothing_new(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hostile.fuzz", target, "--seconds", "30", "--found", tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, (
        f"{done.stderr[-3000:]}\nThe input: {[file.read_bytes() for file in tmp_path.iterdir()]}"
    )
    assert "stat::number_of_executed_units" in done.stderr
