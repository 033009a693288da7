"""The sources of the llama.cpp that the installed bindings were built from, out of their own sdist."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGE = "llama-cpp-python"


def unpack(target: Path, part: str = "") -> None:
    """Make the folder `target` of llama.cpp's sources, or of their `part` alone ("models/")."""
    requirement = f"{PACKAGE}=={version(PACKAGE)}"
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        arguments = ["download", "--no-deps", "--no-binary", ":all:", "--dest", name, requirement]
        subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)
        archive = next(folder.glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar if f"/vendor/llama.cpp/{part}" in member.name]
            tar.extractall(folder / "unpacked", members=wanted, filter="data")
        (unpacked,) = (folder / "unpacked").glob("*/vendor/llama.cpp")
        shutil.move(unpacked, target)
